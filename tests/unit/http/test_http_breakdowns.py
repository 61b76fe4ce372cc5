"""Faults planted in the door itself: each ends at its request or connection, is logged, and disturbs nobody else."""

import gzip
import socket
import zlib

import numpy as np
import pytest
import trio
import trio.testing
from despina.engine.port import buffers
from despina.frontends.http.connection import listener, outlet
from despina.frontends.http.connection import receiver as receiver_module
from despina.frontends.http.connection.asgi import AsgiApplication
from despina.frontends.http.connection.chunked import ChunkedBody
from despina.frontends.http.handler import generate, inflate
from despina.frontends.http.settings import HttpSettings
from despina.frontends.tls import TlsDoor

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: 0\r\n"
LARGE = 300_000
SMALL = 1000


def no_memory(*args, **kwargs):
    raise MemoryError


def planted(condition, replaced):
    """`replaced`, but raising MemoryError when `condition` holds for its first argument."""

    def call(first, *args, **kwargs):
        if condition(first):
            raise MemoryError
        return replaced(first, *args, **kwargs)

    return call


def in_length(monkeypatch, size):
    """A body of known size, of which the begin comes with the head."""
    monkeypatch.setattr(buffers.np, "empty", planted(lambda count: count >= size, np.empty))
    return b"Content-Length: %d\r\n\r\n" % size + b"x" * 10


def in_chunks(monkeypatch, size):
    """The chunk that makes the body as large as that."""

    class Full(bytearray):
        def __iadd__(self, data):
            if len(self) + len(data) >= size:
                raise MemoryError
            return super().__iadd__(data)

    class Planted(ChunkedBody):
        def __init__(self, **limits):
            super().__init__(**limits)
            self.body = Full()

    monkeypatch.setattr(receiver_module, "ChunkedBody", Planted)
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (size + 10) + b"x" * size


def in_inflation(monkeypatch, size):
    """The plain form of a compressed body: small ones at once, large ones in a thread."""

    decompressobj = zlib.decompressobj

    class Planted:
        def __init__(self, *args):
            self.stream = decompressobj(*args)
            self.eof = False
            self.unconsumed_tail = b""
            self.size = 0

        def decompress(self, data, count):
            part = self.stream.decompress(data, count)
            self.size += len(part)
            if self.size >= size:
                raise MemoryError
            self.unconsumed_tail, self.eof = self.stream.unconsumed_tail, self.stream.eof
            return part

    monkeypatch.setattr(inflate.zlib, "decompressobj", Planted)
    data = gzip.compress(bytes(size))
    return b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data) + data


def in_receiving(monkeypatch, size):
    """The bytes that the kernel has for us."""
    recv = socket.socket.recv
    held = []

    def failing(sock, *args):
        if not held and sock.getsockname()[1] == in_receiving.port:
            held.append(sock)
            raise MemoryError
        return recv(sock, *args)

    monkeypatch.setattr(socket.socket, "recv", failing)
    return b"Content-Length: %d\r\n\r\n" % size + b"x" * size


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    ("plant", "size", "status"),
    [
        (in_length, LARGE, 413),
        (in_length, SMALL, 503),
        (in_chunks, LARGE, 413),
        (in_chunks, SMALL, 503),
        (in_inflation, LARGE, 413),
        (in_inflation, SMALL, 503),
        (in_receiving, SMALL, 503),
    ],
)
async def test_no_memory_for_a_body(door, monkeypatch, infer_bytes, caplog, plant, size, status, held):
    """Each allocation of a body fails: 413 for a large body, 503 for a small one, the traceback is logged, and a
    neighbour, whose request may be in flight meanwhile, is served."""
    model = door.engine.models["addsub"]
    neighbour = await door.connect()
    await neighbour.ask(infer_bytes())
    model.is_held = held
    if held:
        await neighbour.send(infer_bytes())
        await door.until(lambda: model.waiting)
    in_receiving.port = door.port
    client = await door.connect()
    await client.send(POST + plant(monkeypatch, size))
    reply = await client.reply()
    monkeypatch.undo()
    assert reply.status == status
    assert b"memory" in reply.body
    if status == 413:
        assert b"request body of" in reply.body
    assert any(record.exc_info and issubclass(record.exc_info[0], MemoryError) for record in caplog.records)
    if held:
        model.release()
        assert (await neighbour.reply()).status == 200
    else:
        assert (await neighbour.ask(infer_bytes())).status == 200


async def test_a_body_that_had_no_room_ends_its_connection(door, monkeypatch):
    """What the client still sends of it is never taken for a request."""
    client = await door.connect()
    await client.send(POST + in_length(monkeypatch, LARGE))
    assert (await client.reply()).headers["connection"] == "close"
    await client.send(GET)
    await client.stream.send_eof()
    assert await client.ended() == b""
    await door.until(lambda: not door.listener.connections)


async def test_no_memory_for_a_body_over_asgi(monkeypatch, caplog):
    """The same where another server brings the body in parts."""

    class Part(bytes):
        def __len__(self):
            raise MemoryError

    sent = []
    parts = [{"body": b"x" * LARGE, "more_body": True}, {"body": Part(), "more_body": False}]

    async def receive():
        if not parts:
            await trio.sleep_forever()
        return {"type": "http.request", **parts.pop(0)}

    async def send(message):
        sent.append(message)

    application = AsgiApplication(no_memory, HttpSettings())
    scope = {"type": "http", "headers": [], "method": "POST", "path": "/", "raw_path": b"/"}
    await application(scope, receive, send)
    assert sent[0]["status"] == 503
    assert b"no memory" in sent[1]["body"]
    assert "MemoryError" in caplog.text


async def test_a_handler_that_raises(door, monkeypatch, caplog):
    """Whatever comes up to the loop ends one connection, with an answer."""
    monkeypatch.setattr(door.listener, "handle", lambda request: {}["missing"])
    client = await door.connect()
    reply = await client.ask(GET)
    assert (reply.status, reply.body) == (500, b'{"error":"internal error: KeyError"}')
    assert await client.ended() == b""
    monkeypatch.undo()
    assert "missing" in caplog.text
    assert (await door.ask(GET)).status == 200


async def test_a_cancellation_that_raises(door, monkeypatch, infer_bytes, caplog):
    """The engine fails at being told that a client has left."""
    model = door.engine.models["addsub"]
    model.is_held = True
    monkeypatch.setattr(model, "leave", no_memory)
    client = await door.connect()
    await client.send(infer_bytes())
    await door.until(lambda: model.waiting)
    client.reset()
    await door.until(lambda: not door.listener.connections)
    assert "cancelling a request failed" in caplog.text
    assert (await door.ask(GET)).status == 200


@pytest.mark.interpreted
async def test_an_answer_that_cannot_be_sent(door, monkeypatch, infer_bytes, caplog):
    """Part of it may be on its way: the client sees its connection reset, others do not."""
    client = await door.connect()
    monkeypatch.setattr(outlet.Outlet, "send", no_memory)
    await client.send(infer_bytes())
    assert await client.ended() == b""
    monkeypatch.undo()
    assert "an answer cannot be sent" in caplog.text
    assert (await door.ask(GET)).status == 200


@pytest.mark.interpreted
async def test_an_answer_that_cannot_be_encoded(door, monkeypatch, infer_bytes):
    """No memory for the JSON of an answer, or for that of an error: 503, or at the worst the end of the connection."""
    monkeypatch.setattr("despina.frontends.http.handler.infer.encode_infer", no_memory)
    for _ in range(3):  # the form of its head is new, and known
        assert (await door.ask(infer_bytes())).status == 503
    monkeypatch.setattr("despina.frontends.http.handler.problems.encode_error", no_memory)
    client = await door.connect()
    reply = await client.ask(infer_bytes())
    assert (reply.status, reply.headers["connection"]) == (503, "close")
    with trio.fail_after(20):
        assert await client.ended() == b""
    assert (await door.ask(GET)).status == 200


@pytest.mark.parametrize("kind", ["generate", "generate_stream"])
async def test_a_generated_answer_that_cannot_be_written(door, monkeypatch, kind):
    """The first one: a clear answer, and the job is cancelled."""
    model = door.engine.models["identity"]
    model.config.input = []
    monkeypatch.setattr(generate, "_content", no_memory)
    request = b"POST /v2/models/identity/%b HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}" % kind.encode()
    model.is_held = True
    client = await door.connect()
    await client.send(request)
    await door.until(lambda: model.waiting)
    (job,) = model.waiting
    model.held.clear()
    on_done = job.on_done
    on_done(job)
    reply = await client.reply()
    assert reply.status == 503
    assert await client.ended() == b""
    monkeypatch.undo()
    assert (await door.ask(GET)).status == 200


@pytest.mark.interpreted
async def test_a_pass_that_fails(door, monkeypatch, caplog):
    """The loop's own work has no memory, three times: nothing is lost, and the loop rests between its tries."""
    failed_at = []

    def begin_pass(**_):
        if len(failed_at) == 3:
            monkeypatch.undo()
        else:
            failed_at.append(trio.current_time())
            raise MemoryError

    monkeypatch.setattr(door.listener._passes, "begin_pass", begin_pass)
    assert (await door.ask(GET)).status == 200
    assert failed_at[2] - failed_at[0] > 0.05
    assert caplog.text.count("a pass over the connections failed") == 3


@pytest.mark.interpreted
async def test_a_client_that_cannot_be_let_in(door, monkeypatch, caplog):
    """No memory for a connection: that client is sent away."""
    monkeypatch.setattr(listener, "Connection", no_memory)
    client = await door.connect()
    assert await client.ended() == b""
    monkeypatch.undo()
    assert "a client cannot be let in" in caplog.text
    assert (await door.ask(GET)).status == 200


async def test_a_handshake_that_raises(nursery, caplog):
    """What OpenSSL throws besides errors of the socket ends one handshake."""

    class Context:
        def wrap_socket(self, sock, **kwargs):
            raise MemoryError

    door = TlsDoor(Context(), no_memory, timeout_s=1, count_max=8)
    await nursery.start(door.run)
    ours, theirs = socket.socketpair()
    door.welcome(ours)
    await trio.testing.wait_all_tasks_blocked()
    assert (ours.fileno(), door.count) == (-1, 0)
    assert "a handshake failed" in caplog.text
    theirs.close()
