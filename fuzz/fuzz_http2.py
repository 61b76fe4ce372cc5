"""Feeds damaged HTTP/2 byte streams to the gRPC door, cut into random segments.

    python fuzz/fuzz_http2.py [--seconds 60] [--seed 1]

Whatever arrives, the door must not raise, must keep no call and no connection once the peer has gone, and must answer a
well-formed call on another connection afterwards. A failure ends the run; the bytes are printed as a Python literal.
"""

from __future__ import annotations

import argparse
import logging
import random
import socket
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio
from despina.engine.observe.trace_file import open_trace_file
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.frontends.grpc import GrpcServer, GrpcSettings, serve_grpc
from despina.schema.inference import InferenceResponse

SEEDS = Path(__file__).parent / "seeds" / "http2"
LIVE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + (SEEDS / "live.bin").read_bytes()[33:]
)
SETTINGS = GrpcSettings(
    handshake_timeout_s=0.5, read_stall_s=0.5, write_stall_s=0.5, receive_bytes_max=1 << 20, resets_burst=20
)


class EchoEngine:
    """Answers every inference request with its inputs."""

    decoupled = False
    shared_memory = None
    inline = None
    tracer = Tracer(TraceSettings(), lambda name: True, open_trace_file)

    def is_live(self) -> bool:
        return True

    is_ready = is_live

    def model(self, name: str, version: int = -1) -> EchoEngine:
        return self

    def submit(self, request: Any, on_done: Any, deadline: float = 0.0) -> Any:
        job = EchoJob()
        job.response = InferenceResponse("m", "1", list(request.inputs.values()), id=request.id)
        on_done(job)
        return job


class EchoJob:
    fault = None
    response: InferenceResponse | None = None

    def cancel(self) -> None:
        """Nothing is left to cancel."""


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


async def feed(port: int, data: bytes, rng: random.Random) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(_swallow, stream)
        try:
            while data:
                size = rng.choice((1, 9, 100, 100_000))
                await stream.send_all(data[:size])
                data = data[size:]
            await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def _swallow(stream: trio.SocketStream) -> None:
    try:
        while await stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass


async def check_alive(port: int, server: GrpcServer) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(LIVE)
        got = b""
        while b"\x00\x00\x00\x00\x02\x08\x01" not in got:
            data = await stream.receive_some(65536)
            assert data, "the door closed a well-behaved connection"
            got += data
    while server.connections:  # noqa: ASYNC110 - the door has no event for this
        await trio.sleep(0.001)


async def fuzz(seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    until = time.monotonic() + seconds
    count = 0
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_grpc, EchoEngine(), SETTINGS, sockets=[listener]))
        while time.monotonic() < until:
            data = damage(bytearray(rng.choice(seeds)), rng)
            try:
                with trio.fail_after(10):
                    await feed(port, data, rng)
                    await check_alive(port, server)
            except BaseException:
                print(f"after {count} inputs, seed {seed}: {data!r}")
                raise
            count += 1
        nursery.cancel_scope.cancel()
    print(f"{count} inputs, the door stands")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.getLogger("despina.grpc").addHandler(Complaints())
    trio.run(fuzz, arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
