"""Feeds damaged HTTP/1.1 byte streams to the listener, each twice: in one piece, and cut into random segments.

    python fuzz/fuzz_http1.py [--seconds 60] [--seed 1]

Whatever arrives, the listener must not raise, must answer each request that it took in order, and must end the
connection once the client's stream has ended. Where the bytes were cut must make no difference: the same requests are
taken, and the stream is refused or not. A failure ends the run; the bytes are printed as a Python literal, and the seed
reproduces it.
"""

from __future__ import annotations

import argparse
import random
import socket
import time
from pathlib import Path

import trio
import trio.testing
from despina.frontends.http import HttpSettings, Listener
from despina.frontends.http.request import HttpRequest

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
                nursery.start_soon(self._send, stream, segments)
                try:
                    while data := await stream.receive_some():
                        received += data
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()
        return self.taken, self._check_replies(received)

    async def _send(self, stream: trio.SocketStream, segments: list[bytes]) -> None:
        try:
            for segment in segments:
                await stream.send_all(segment)
                await trio.testing.wait_all_tasks_blocked()
            await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

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


async def fuzz(seconds: float, seed: int) -> int:
    """Runs for `seconds` of wall-clock time; returns the number of streams tried."""
    chance = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    sock = socket.create_server(("127.0.0.1", 0))
    target = Target(sock.getsockname()[1])
    end = time.monotonic() + seconds
    count = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Listener([sock], target.handle, SETTINGS).run)
        nursery.start_soon(target.answer_late)
        while time.monotonic() < end:
            data = damaged(chance.choice(seeds), chance)
            cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([1, 2, 5, 30])))
            segments = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
            target.is_late = chance.random() < 0.1
            try:
                whole = await target.converse([data])
                parts = await target.converse([segment for segment in segments if segment])
                assert whole == parts, f"{whole} in one piece, {parts} in {len(segments)}"
            except BaseException:
                print(f"seed {seed}, stream {count}, late {target.is_late}, segments {segments!r}")
                raise
            count += 1
        nursery.cancel_scope.cancel()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    clock = trio.testing.MockClock(autojump_threshold=0)
    count = trio.run(fuzz, arguments.seconds, arguments.seed, clock=clock)
    print(f"{count} streams")


if __name__ == "__main__":
    main()
