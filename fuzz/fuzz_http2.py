"""Feeds damaged HTTP/2 byte streams to the gRPC door, cut into random segments.

    python fuzz/fuzz_http2.py [--seconds 60] [--seed 1]

Whatever arrives, the door must not raise, must keep no call and no connection once the peer has gone, and must answer a
well-formed call on another connection afterwards. Half of the streams follow three whole calls, which must have been
taken at once; a connection that takes all calls frame by frame and remembers no heads must then be
answered the same bytes. A failure ends the run; the bytes are printed as a Python literal.
"""

from __future__ import annotations

import argparse
import logging
import random
import socket
import struct
import sys
from functools import partial
from pathlib import Path

import hpack
import trio
from despina.frontends.grpc import GrpcServer, GrpcSettings, serve_grpc
from despina.frontends.grpc.connection.connection import Connection
from despina.frontends.grpc.handler import unary_infer
from despina.schema.memo import Memo
from despina.schema.wire import codec
from despina.schema.wire.generated import inference as pb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.echo import EchoEngine, Entered
from fuzz.span import span

SEEDS = Path(__file__).parent / "seeds" / "http2"
LIVE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + (SEEDS / "live.bin").read_bytes()[33:]
)
SETTINGS = GrpcSettings(
    handshake_timeout_s=0.5, read_stall_s=0.5, write_stall_s=0.5, receive_bytes_max=1 << 20, resets_burst=20
)


class Complaints(logging.Handler):
    """The door logs what it did not foresee."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


def damage(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(5)):
        at = rng.randrange(min(len(data), 24 if rng.random() < 0.95 else 0), len(data) + 1)
        choice = rng.randrange(6)
        if choice == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif choice == 1:
            payload = rng.randbytes(rng.choice((0, 1, 4, 5, 6, 8, 60)))
            head = struct.pack(">IBI", len(payload) << 8 | rng.randrange(12), rng.randrange(64), rng.randrange(8))
            data[at:at] = head + payload
        elif choice == 2:
            del data[at : at + rng.randrange(1, 12)]
        elif choice == 3:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(1, 200)]
        elif choice == 4 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        else:
            del data[at:]
    return bytes(data)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
FIELDS = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/inference.GRPCInferenceService/ModelInfer",
    ":authority": "h",
}
WHOLE = "calls taken whole"
WAYS = {
    WHOLE: (Connection, "take_call"),
    "requests read straight from their bytes": (unary_infer, "read_plain_request"),
}
WARM, COLD = 3, 2
"""Calls before the damage, and damaged ones."""


class Calls:
    """The frames of calls that differ in their stream and in what is the caller's own of their heads."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        # Of one of the two texts the answers tell their form.
        text = rng.choice((b"odd", b"even"))
        inputs = [
            pb.ModelInferRequestInferInputTensor(name=name, datatype="INT8", shape=[size])
            for name, size in (("a", 8), ("b", len(text)))
        ]
        request = pb.ModelInferRequest(model_name="m", id="7", inputs=inputs, raw_input_contents=[bytes(8), text])
        message = codec.encode_to_bytes(request)
        self._data = b"\0" + len(message).to_bytes(4, "big") + message
        self._encoder = hpack.Encoder()
        self._last = -1

    def next(self) -> bytes:
        self._last += 2
        fields = [*FIELDS.items(), ("te", "trailers"), ("content-type", "application/grpc")]
        own = self._rng.choice(("x-own", "traceparent", "user-agent", "grpc-timeout"))
        fields.append(hpack.NeverIndexedHeaderTuple(own, f"{self._rng.randrange(1000)}S"))
        block = self._encoder.encode(fields, huffman=False)
        head = struct.pack(">IBI", len(block) << 8 | 1, 4, self._last)
        return head + block + struct.pack(">IBI", len(self._data) << 8, 1, self._last) + self._data


class Target:
    """The door, and the ways to talk to it."""

    def __init__(self, server: GrpcServer, port: int, entered: Entered) -> None:
        self.server = server
        self.port = port
        self._entered = entered

    async def feed(self, data: bytes, sizes: list[int]) -> None:
        """Sends all of it on a fresh connection, in pieces of these sizes."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await self._exchange(stream, data, sizes)

    async def feed_warm(self, calls: list[bytes], data: bytes, sizes: list[int], *, short: bool) -> bytes:
        """The same behind whole calls, which must have been answered. What came after their answers."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(PREFACE)
            connection = await self._connection_of(stream)
            if not short:
                connection.whole_bytes_max = 0
                connection._heads._known = Memo(count_max=0, bytes_max=0, text_bytes_max=-1)
            before = self._entered.count(WHOLE)
            known = connection._heads._known
            for call in calls:
                await stream.send_all(call)
                got = b""
                while not got.endswith(b"grpc-status\x010"):
                    got += await stream.receive_some(65536)
            taken = self._entered.count(WHOLE) - before
            assert taken == (len(calls) if short else 0), "whether a seed was taken whole"
            assert any(calls[-1].startswith(first, 9) for first in known) == short, "whether a head began as one before"
            return await self._exchange(stream, data, sizes)

    async def _connection_of(self, stream: trio.SocketStream) -> Connection:
        """The door's side of it."""
        address = stream.socket.getsockname()
        while True:
            for connection in self.server.connections.values():
                if connection.sock.getpeername() == address:
                    return connection
            await trio.lowlevel.checkpoint()

    async def _exchange(self, stream: trio.SocketStream, data: bytes, sizes: list[int]) -> bytes:
        """Sends everything and ends the stream; what came until its other end."""
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, stream, received)
            try:
                for size in sizes:
                    await stream.send_all(data[:size])
                    data = data[size:]
                await stream.send_all(data)
                await stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return bytes(received)

    async def _receive(self, stream: trio.SocketStream, received: bytearray) -> None:
        try:
            while data := await stream.receive_some(65536):
                received += data
        except trio.BrokenResourceError:
            pass

    async def check_alive(self) -> None:
        """Raises AssertionError unless a well-behaved client is served and nothing is left of the others."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(LIVE)
            got = b""
            while b"\x00\x00\x00\x00\x02\x08\x01" not in got:
                data = await stream.receive_some(65536)
                assert data, "the door closed a well-behaved connection"
                got += data
        while self.server.connections:  # noqa: ASYNC110 - the door has no event for this
            await trio.sleep(0.001)


async def try_one(target: Target, rng: random.Random, seeds: list[bytes]) -> None:
    """One stream; raises whatever is wrong, with the bytes in a note."""
    calls = Calls(rng)
    warm = [calls.next() for _ in range(WARM)] if rng.random() < 0.5 else []
    data = b"".join(calls.next() for _ in range(COLD)) if warm else rng.choice(seeds)
    data = damage(bytearray(data), rng)
    sizes = [] if rng.random() < 0.5 else [rng.choice((1, 9, 100)) for _ in range(rng.randrange(len(data) + 1))]
    try:
        with trio.fail_after(10):
            if warm:
                short = await target.feed_warm(warm, data, sizes, short=True)
                if not sizes:  # in pieces, what is refused depends on how many have arrived
                    long = await target.feed_warm(warm, data, sizes, short=False)
                    assert short == long, f"{short!r} taken whole, {long!r} frame by frame"
            else:
                await target.feed(data, sizes)
            await target.check_alive()
    except BaseException as problem:
        problem.add_note(f"behind {len(warm)} calls, in pieces of {sizes}: {data!r}")
        raise


async def fuzz(seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    engine, entered = EchoEngine(), Entered()
    entered.watch(WAYS)
    count = 0
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_grpc, engine, SETTINGS, sockets=[listener]))
        target = Target(server, port, entered)
        for _ in span(seconds, lambda: entered.all_of(WAYS)):
            try:
                await try_one(target, rng, seeds)
            except BaseException:
                print(f"seed {seed}, after {count} inputs")
                raise
            count += 1
        nursery.cancel_scope.cancel()
    print(f"{count} inputs, the door stands")
    entered.check(WAYS)
    assert any(template.protobuf for template in engine.templates.values()), "no form of answers was known"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.getLogger("despina.grpc").addHandler(Complaints())
    trio.run(fuzz, arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
