"""Feeds damaged HTTP/1.1 byte streams to the door, each twice: in one piece, and cut into random segments.

    python fuzz/fuzz_http1.py [--seconds 60] [--seed 1]

Whatever arrives, the listener must not raise, must answer each request that it took in order, and must end the
connection once the client's stream has ended. Where the bytes were cut must make no difference: the same requests are
taken, and the stream is refused or not. Half of the streams go to the whole door over an engine that echoes, behind
three inference requests of one form, of which the last must have gone past the handler; another connection, whose
requests all go to the handler, must then be answered the same bytes. A failure ends the run; the bytes are printed as a
Python literal, and the seed reproduces it.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
from functools import partial
from pathlib import Path

import trio
import trio.testing
from despina.frontends.http import HttpSettings, Listener, serve_http
from despina.frontends.http.connection.head import HeadReader
from despina.frontends.http.request.request import HttpRequest
from despina.frontends.http.server import HttpServer
from despina.schema import kserve_http, kserve_http_reply

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.echo import EchoEngine, Entered
from fuzz.span import span

OF_FRAMES = "requests made of frames"
WAYS = {
    OF_FRAMES: (kserve_http, "_filled"),
    "answers of known forms": (kserve_http_reply._Form, "filled"),
}
SEEDS = Path(__file__).parent / "seeds" / "http1"
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b";", b"0\r\n\r\n", b"\r\n\r\n", b"\xff", b"1\r\na\r\n"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"CONNECT ",
        b"ffffffff",
        b"-1",
        b"Expect: 100-continue\r\n",
    ),
]
SETTINGS = HttpSettings(
    body_bytes_max=200_000, chunk_count_max=50, head_bytes_max=4096, header_count_max=20, pipelined_bytes_max=8192
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` after a few cuts, insertions and repetitions."""
    for _ in range(chance.randint(0, 4)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice([0, 0, 1, 3, 20, 1000]))
        match chance.randrange(3):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:start] + chance.choice(PIECES) + data[start:]
            case 2:
                data = data[:end] + data[start:end] + data[end:]
    return data


class Target:
    """A listener whose handler answers at once, or a little later, with the request's number."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.taken: list[tuple[bytes, bytes, bytes]] = []
        self.waiting: list[HttpRequest] = []
        self.is_late = False

    def handle(self, request: HttpRequest) -> None:
        self.taken.append((request.method, request.path, bytes(request.body)))
        if self.is_late:
            self.waiting.append(request)
        else:
            request.reply(200, buffers=[b"%d" % len(self.taken)])

    async def answer_late(self) -> None:
        while True:
            await trio.sleep(0.01)
            for request in self.waiting:
                request.reply(200, buffers=[b"%d" % len(self.taken)])
            self.waiting.clear()

    async def converse(self, segments: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], bool]:
        """The requests taken from `segments`, and whether the stream was refused. Raises AssertionError."""
        self.taken = []
        received = b""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        with trio.fail_after(300):
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(_send, stream, segments)
                try:
                    while data := await stream.receive_some():
                        received += data
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()
        return self.taken, self._check_replies(received)

    def _check_replies(self, received: bytes) -> bool:
        """Replies must be whole, and one for each request taken, in order; a refusal may follow."""
        is_refused = False
        methods = [method for method, _, _ in self.taken]
        count = 0
        while received:
            assert not is_refused, "bytes after a refusal"
            head, separator, received = received.partition(b"\r\n\r\n")
            assert separator, f"half a reply: {head!r}"
            status = int(head.split()[1])
            if status == 100:
                continue
            size = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
            is_refused = status != 200
            if not is_refused:
                count += 1
                if methods[count - 1] == b"HEAD":
                    continue
            body, received = received[:size], received[size:]
            assert len(body) == size, "half a body"
            if not is_refused:
                assert body == b"%d" % count, "answers out of order"
        assert count == len(self.taken), f"{count} answers to {len(self.taken)} requests"
        return is_refused


def infer_request(chance: random.Random) -> bytes:
    """One of two; the answers to one of them tell their form."""
    text = chance.choice((b"odd", b"even"))
    inputs = [
        {"name": name, "datatype": "INT8", "shape": [size], "parameters": {"binary_data_size": size}}
        for name, size in (("a", 8), ("b", len(text)))
    ]
    head = json.dumps({"id": "7", "inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    fields = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d" % (len(head), len(head) + 8 + len(text))
    return b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n%b" % (fields, head + bytes(8) + text)


class InferTarget:
    """The whole door, for connections on which requests repeat."""

    def __init__(self, server: HttpServer, port: int, entered: Entered) -> None:
        self._server = server
        self._port = port
        self._entered = entered

    async def converse(self, request: bytes, segments: list[bytes], *, short: bool) -> bytes:
        """What comes for `segments` behind three of `request`. Raises AssertionError."""
        with trio.fail_after(300):
            async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
                before = self._entered.count(OF_FRAMES)
                for _ in range(3):
                    self._forget(short=short)
                    await stream.send_all(request)
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
                assert (self._entered.count(OF_FRAMES) > before) is short, "a seed did not go the short way"
                if short:
                    assert self.heads._forms, "no form of heads was known"
                    assert self.heads._heads, "no head was known by its text"
                self._forget(short=short)
                received = bytearray()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_receive, stream, received)
                    await _send(stream, segments)
                return bytes(received)

    @property
    def heads(self) -> HeadReader:
        """What the door knows of heads."""
        assert self._server._listener is not None
        return self._server._listener.heads

    def _forget(self, *, short: bool) -> None:
        """Empties, for the long way, what is remembered of heads and of JSON."""
        if not short:
            for memo in (self.heads._heads, self.heads._forms, kserve_http._frames):
                memo.clear()


async def _receive(stream: trio.SocketStream, received: bytearray) -> None:
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        pass


async def _send(stream: trio.SocketStream, segments: list[bytes]) -> None:
    try:
        for segment in segments:
            await stream.send_all(segment)
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def try_one(target: Target, infer: InferTarget, chance: random.Random, seeds: list[bytes]) -> None:
    """One stream; raises whatever is wrong, with the bytes in a note."""
    request = infer_request(chance) if chance.random() < 0.5 else None
    data = damaged(chance.choice(seeds) if request is None else request * chance.choice((1, 2)), chance)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([1, 2, 5, 30])))
    segments = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    segments = [segment for segment in segments if segment]
    target.is_late = chance.random() < 0.1
    try:
        if request is None:
            whole = await target.converse([data])
            parts = await target.converse(segments)
            assert whole == parts, f"{whole} in one piece, {parts} in {len(segments)}"
        else:
            segments = segments if chance.random() < 0.5 else [data]
            short = await infer.converse(request, segments, short=True)
            long = await infer.converse(request, segments, short=False)
            assert short == long, f"{short!r} the short way, {long!r} the long way"
    except BaseException as problem:
        problem.add_note(f"late {target.is_late}, behind three of {request!r}, segments {segments!r}")
        raise


async def fuzz(seconds: float, seed: int) -> None:
    """Runs for `seconds` of wall-clock time."""
    chance = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    sock, infer_sock = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    target = Target(sock.getsockname()[1])
    entered = Entered()
    entered.watch(WAYS)
    count = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Listener([sock], target.handle, SETTINGS).run)
        nursery.start_soon(target.answer_late)
        port = infer_sock.getsockname()[1]
        server = await nursery.start(partial(serve_http, EchoEngine(), SETTINGS, sockets=[infer_sock]))
        infer = InferTarget(server, port, entered)
        for _ in span(seconds, lambda: entered.all_of(WAYS)):
            try:
                await try_one(target, infer, chance, seeds)
            except BaseException:
                print(f"seed {seed}, after {count} streams")
                raise
            count += 1
        nursery.cancel_scope.cancel()
    print(f"{count} streams")
    entered.check(WAYS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(fuzz, arguments.seconds, arguments.seed, clock=clock)


if __name__ == "__main__":
    main()
