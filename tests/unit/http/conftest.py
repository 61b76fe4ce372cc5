"""A scripted engine behind the HTTP door, and a raw client in front of it."""

import socket

import attrs
import numpy as np
import pytest
import trio
from despina.frontends.http import HttpSettings, serve_http

from tests.fake_engine import FakeEngine


@attrs.frozen
class Reply:
    line: str
    status: int
    headers: dict
    body: bytes


class Client:
    """A raw connection: bytes out, replies in."""

    def __init__(self, stream):
        self.stream = stream
        self.received = b""

    async def send(self, data):
        await self.stream.send_all(data)

    async def reply(self, *, has_body=True):
        """The next reply, interim ones included. Fails if the connection ends first."""
        while b"\r\n\r\n" not in self.received:
            await self._more()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        size = int(headers.get("content-length", 0)) if has_body else 0
        while len(rest) < size:
            await self._more()
            rest = self.received.partition(b"\r\n\r\n")[2]
        self.received = rest[size:]
        return Reply(line, int(line.split()[1]), headers, rest[:size])

    async def ask(self, data):
        await self.send(data)
        return await self.reply()

    async def ended(self):
        """Waits for the end of the server's stream; returns what came before it."""
        rest = self.received
        try:
            while data := await self.stream.receive_some():
                rest += data
        except trio.BrokenResourceError:
            pass
        return rest

    async def _more(self):
        data = await self.stream.receive_some()
        assert data, f"the connection ended after {self.received!r}"
        self.received += data

    def reset(self):
        """Leaves without a word."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.socket.close()


class Door:
    """A running HTTP server over a FakeEngine."""

    def __init__(self, engine, server, port, scope):
        self.engine = engine
        self.scope = scope
        self.server = server
        self.port = port
        self.clients = []

    @property
    def listener(self):
        return self.server._listener

    async def connect(self):
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, data):
        """The reply to `data` on a connection of its own."""
        return await (await self.connect()).ask(data)

    async def until(self, condition):
        """Waits until `condition()` holds."""
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110 (the conditions are other code's state, without an event)
                await trio.sleep(0.001)


@pytest.fixture
def autojump_clock(autojump_clock):
    """Time jumps only once the kernel, which is no task of trio's, has had 20 ms to carry bytes between sockets."""
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


@pytest.fixture
async def open_door(nursery):
    """Starts servers: `door = await open_door(limit=value, ...)`."""

    async def start(**limits):
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        engine = FakeEngine()
        port = sock.getsockname()[1]
        scope = trio.CancelScope()

        async def serve(task_status):
            with scope:
                await serve_http(engine, HttpSettings(**limits), sockets=[sock], task_status=task_status)

        return Door(engine, await nursery.start(serve), port, scope)

    return start


@pytest.fixture
async def door(open_door):
    """A server with the default limits."""
    return await open_door()


@pytest.fixture
def infer_bytes():
    """Builds `POST .../addsub/infer` with two binary inputs, as bytes: `infer_bytes(extra_header_lines)`."""

    def build(extra=b"", *, path=b"/v2/models/addsub/infer", version=b"1.1", rows=1):
        a = np.arange(rows * 16, dtype=np.int32)
        size = a.nbytes
        head = (
            b'{"inputs":[{"name":"INPUT0","shape":[%d,16],"datatype":"INT32","parameters":{"binary_data_size":%d}},'
            b'{"name":"INPUT1","shape":[%d,16],"datatype":"INT32","parameters":{"binary_data_size":%d}}],'
            b'"parameters":{"binary_data_output":true}}'
        ) % (rows, size, rows, size)
        body = head + a.tobytes() + a.tobytes()
        return (
            b"POST %b HTTP/%b\r\nHost: h\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n%b\r\n%b"
            % (
                path,
                version,
                len(head),
                len(body),
                extra,
                body,
            )
        )

    return build
