"""generate and generate_stream over raw sockets, on both servers: framing, statuses, back-pressure, leaving."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from functools import partial

import despina
import numpy as np
import pytest
import trio
from despina.engine.request.stream import StreamBatch
from despina.frontends.http import HttpSettings, serve_http
from despina.schema.fault import InvalidArgument
from despina.schema.tensor import Tensor

from tests.fakes import FakeBackend, tensor_text, write_model

TENSORS = tensor_text("input", "IN", dims=(-1,)) + tensor_text("output", "OUT", dims=(-1,))
NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)


class Script:
    """Answers with each number of the input; a negative one is an error; PAD makes the answers large."""

    def __init__(self):
        self.pad = 1
        self.sent = 0
        self.jobs = []
        self.hold = None

    async def __call__(self, batch):
        for job in batch.jobs:
            self.jobs.append(job)
            for number in job.request.inputs["IN"].numpy():
                if number < 0:
                    job.send_fault(InvalidArgument("negative"))
                else:
                    await job.send_async([Tensor.of("OUT", np.full(self.pad, number, np.int32))])
                    self.sent += 1
            if self.hold is not None:
                await self.hold.wait()
            job.send(None, final=True)


@pytest.fixture(params=["native", "hypercorn"])
def server(request):
    return request.param


@pytest.fixture
async def opened(tmp_path, nursery):
    """`async with opened(server) as (port, script, engine)`."""
    write_model(tmp_path, "s", max_batch_size=0, tensors=TENSORS, more="model_transaction_policy { decoupled: true }")
    write_model(tmp_path, "plain", max_batch_size=4, tensors=TENSORS)

    @asynccontextmanager
    async def open_it(server="native", **settings):
        backend = FakeBackend()
        script = Script()

        async def execute(batch):
            if isinstance(batch, StreamBatch):
                await script(batch)
            else:
                await backend._echo(batch)

        backend.execute = execute
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with (
            despina.open_engine(tmp_path, backends={"fake": backend}, exit_timeout_secs=2) as engine,
            trio.open_nursery() as doors,
        ):
            await doors.start(partial(serve_http, engine, HttpSettings(server=server, **settings), sockets=[sock]))
            yield port, script, engine
            doors.cancel_scope.cancel()

    return open_it


def asked(path, body, more="", version="1.1"):
    text = body if isinstance(body, str) else json.dumps(body)
    return (
        f"POST /v2/models/{path} HTTP/{version}\r\nHost: h\r\nContent-Length: {len(text)}\r\n{more}\r\n{text}".encode()
    )


async def ask(port, path, body, **options):
    """Head lines (lower case) and the raw body of one reply."""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(asked(path, body, more="Connection: close\r\n", **options))
            got = b""
            while data := await stream.receive_some():
                got += data
    head, _, rest = got.decode().partition("\r\n\r\n")
    return head.lower().split("\r\n"), rest


async def until(condition):
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  other code's state, without an event
            await trio.sleep(0.002)


@pytest.mark.parametrize(
    ("path", "body", "status", "content_type", "parts"),
    [
        (
            "s/generate_stream",
            {"IN": [4, 2], "id": "q"},
            200,
            "text/event-stream; charset=utf-8",
            [f'data: {{"OUT":{n},"id":"q","model_name":"s","model_version":"1"}}\n\n' for n in (4, 2)],
        ),
        ("s/generate_stream", {"IN": []}, 200, "text/event-stream; charset=utf-8", []),
        (
            "s/generate_stream",
            {"IN": [-1, 3]},
            400,
            "text/event-stream; charset=utf-8",
            ['data: {"error":"negative"}\n\n', 'data: {"OUT":3,"model_name":"s","model_version":"1"}\n\n'],
        ),
        (
            "s/generate_stream",
            {"IN": [3, -1]},
            200,
            "text/event-stream; charset=utf-8",
            ['data: {"OUT":3,"model_name":"s","model_version":"1"}\n\n', 'data: {"error":"negative"}\n\n'],
        ),
        ("s/generate", {"IN": 7}, 200, "application/json", ['{"OUT":7,"model_name":"s","model_version":"1"}']),
        ("s/generate", {"IN": [7, 8]}, 200, "application/json", [f'{{"error":"{NOT_ONE}"}}']),
        ("s/generate", {"IN": []}, 200, "application/json", [f'{{"error":"{NOT_ONE}"}}']),
        ("s/generate", {"IN": [-1]}, 400, "application/json", ['{"error":"negative"}']),
        (
            "plain/generate",
            {"IN": [1, 2], "id": "é"},
            200,
            "application/json",
            ['{"OUT":[1,2],"id":"é","model_name":"plain","model_version":"1"}'],
        ),
        (
            "plain/generate_stream",
            {"IN": 5},
            200,
            "text/event-stream; charset=utf-8",
            ['data: {"OUT":5,"model_name":"plain","model_version":"1"}\n\n'],
        ),
    ],
)
async def test_answers(opened, path, body, status, content_type, parts):
    """The framing of each kind of reply: the status is the first answer's, the body comes in chunks."""
    async with opened() as (port, _, _):
        head, rest = await ask(port, path, body)
        assert head[0].split()[1] == str(status)
        assert f"content-type: {content_type}" in head
        assert "transfer-encoding: chunked" in head
        assert rest.endswith("0\r\n\r\n")
        # Sizes of chunks count bytes.
        chunks = [part.decode() for part in _bytes_unchunked(rest.encode())]
        assert chunks == parts


def _bytes_unchunked(data):
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        if count:
            parts.append(data[:count])
        data = data[count + 2 :]
    return parts


@pytest.mark.parametrize(
    ("path", "body", "more", "status", "text"),
    [
        ("no/generate", "{}", "", 404, "Request for unknown model: 'no' is not found"),
        ("s/versions/9/generate", "{}", "", 404, "Request for unknown model: 's' version 9 is not found"),
        ("s/generate", "{", "", 500, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
        ("s/generate", "[1]", "", 500, "attempt to get members for non-object"),
        ("s/generate", '{"IN":[1,"a"]}', "", 500, "Unable to parse 'data': attempt to access JSON non-signed-integer"),
        ("s/generate_stream", '{"x":null}', "", 400, "parameter 'x' has invalid type."),
        (
            "s/generate",
            "{}",
            "Content-Encoding: gzip\r\n",
            400,
            "Unsupported content-encoding, only 'identity' is supported.",
        ),
        ("s/generate", "{}", "", 400, "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 's'."),
    ],
)
async def test_refusals(opened, path, body, more, status, text):
    """What fails before execution is an ordinary JSON error with its length, and the connection goes on."""
    async with opened() as (port, _, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for _ in range(2):
            await stream.send_all(asked(path, body, more=more))
            reply = (await stream.receive_some()).decode()
            head, _, rest = reply.partition("\r\n\r\n")
            assert head.split()[1] == str(status)
            assert "Content-Length: " in head
            assert json.loads(rest)["error"].startswith(text)


async def test_the_connection_goes_on_after_a_stream(opened):
    """A streamed reply is followed by the next one, also when both requests came at once."""
    async with opened() as (port, _, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(asked("s/generate_stream", {"IN": [1]}) + asked("s/generate", {"IN": [2]}))
        got = b""
        with trio.fail_after(5):
            while got.count(b"\r\n0\r\n\r\n") < 2:
                got += await stream.receive_some()
        first, _, second = got.partition(b"\r\n0\r\n\r\n")
        assert b'"OUT":1' in first
        assert b'"OUT":2' in second


async def test_http10_gets_no_chunks(opened):
    """There the body ends with the connection."""
    async with opened() as (port, _, _):
        head, rest = await ask(port, "s/generate_stream", {"IN": [1]}, version="1.0")
        assert not [line for line in head if line.startswith("transfer-encoding")]
        assert rest == 'data: {"OUT":1,"model_name":"s","model_version":"1"}\n\n'


async def test_answers_leave_as_they_are_made(opened, server):
    """The first event arrives while the model is still at it."""
    async with opened(server) as (port, script, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        script.hold = trio.Event()
        await stream.send_all(asked("s/generate_stream", {"IN": [1]}))
        got = b""
        with trio.fail_after(5):
            while b'"OUT":1' not in got:
                got += await stream.receive_some()
            assert b"0\r\n\r\n" not in got
            script.hold.set()
            while not got.endswith(b"0\r\n\r\n"):
                got += await stream.receive_some()


async def test_a_slow_reader_stops_the_model(opened, server):
    """Of 5000 large answers only what the buffers hold is made; when the client reads, all arrive."""
    async with opened(server) as (port, script, _):
        script.pad = 4000
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await sock.connect(("127.0.0.1", port))
        stream = trio.SocketStream(sock)
        async with stream:
            await stream.send_all(asked("s/generate_stream", {"IN": [7] * 3000}))
            seen = -1
            with trio.fail_after(10):
                while seen != script.sent or not seen:
                    seen = script.sent
                    await trio.sleep(0.3)
            assert 0 < seen < 2000
            events = 0
            tail = b""
            with trio.fail_after(20):
                while b"0\r\n\r\n" not in tail[-7:]:
                    data = await stream.receive_some(1 << 20)
                    events += (tail[-5:] + data).count(b"data: ") - tail[-5:].count(b"data: ")
                    tail = data[-16:]
            assert events == script.sent == 3000


async def test_a_client_that_leaves_tells_the_model(opened, server):
    """A reset in the middle of a stream cancels the job; the engine has nothing in flight afterwards."""
    async with opened(server) as (port, script, engine):
        script.hold = trio.Event()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(asked("s/generate_stream", {"IN": [1]}))
        await stream.receive_some()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()
        await until(lambda: script.jobs[0].is_cancelled())
        script.hold.set()
        await until(lambda: not engine.model("s").ledger.inflight)


async def test_a_client_that_closes_while_nothing_comes_is_found_out(opened):
    """An orderly close, which looks like that of one side, ends the job."""
    async with opened() as (port, script, _):
        script.hold = trio.Event()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(asked("s/generate_stream", {"IN": [1]}))
        await stream.receive_some()
        await stream.aclose()
        await until(lambda: script.jobs[0].is_cancelled())
        script.hold.set()


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_half_closed_client_has_left_its_stream(opened, when):
    """The end of its sending side ends an event stream after what was there by then, and the job with it."""
    async with opened() as (port, script, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        script.hold = trio.Event()
        await stream.send_all(asked("s/generate_stream", {"IN": [1]}))
        if when == "at once":
            await stream.send_eof()
        got = b""
        with trio.fail_after(5):
            while b'"OUT":1' not in got:
                got += await stream.receive_some()
            if when == "later":
                await stream.send_eof()
            while data := await stream.receive_some():
                got += data
            await until(lambda: script.jobs[0].is_cancelled())
        assert got.count(b"data: ") == 1
        assert not got.endswith(b"0\r\n\r\n")
        script.hold.set()


async def test_a_half_closed_client_gets_an_answer_that_is_whole(opened):
    """Of a model that answers once there is nothing to leave: its event arrives, and the end."""
    async with opened() as (port, _, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(asked("plain/generate_stream", {"IN": [1]}))
        await stream.send_eof()
        got = b""
        with trio.fail_after(5):
            while data := await stream.receive_some():
                got += data
        assert got.count(b"data: ") == 1
        assert got.endswith(b"0\r\n\r\n")


async def test_a_client_that_never_reads_is_cut_off(opened):
    """It holds its connection for the stall timeout only."""
    async with opened(write_stall_timeout=0.5) as (port, script, _):
        script.pad = 4000
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(asked("s/generate_stream", {"IN": [7] * 5000}))
            await until(lambda: script.jobs and script.jobs[0].is_cancelled())
