"""Many at once on few sockets: connections that do nothing, and calls of one gRPC connection side by side.

What is asked and answered is always the same, so that answers are checked by their bytes and their count.
"""

from __future__ import annotations

import contextlib
import selectors
import struct
import time
from typing import TYPE_CHECKING

from tests.bench.cases import delimited, grpc_framed, varint
from tests.bench.grpc_caller import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    WINDOW_MAX,
    Blocks,
    frame,
    request_blocks,
)
from tests.bench.load import WrongAnswer, connected

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

SERVICE = "/inference.GRPCInferenceService/"
PATIENCE_S = 120.0
"""For the next byte of anybody."""
BYTES_AT_ONCE = 1 << 18


def number_request(model: str) -> bytes:
    """A ModelInferRequest with a 7 in the one input, behind gRPC's prefix."""
    described = delimited(1, b"INPUT0") + delimited(2, b"INT32") + delimited(3, varint(1) + varint(1))
    tensor = struct.pack("<i", 7)
    return grpc_framed(delimited(1, model.encode()) + delimited(5, described) + delimited(7, tensor))


class Connection:
    """Something that reads and writes when it can."""

    def __init__(self, host: str, port: int) -> None:
        self.socket: socket.socket = connected(host, port)
        self.unsent = bytearray()

    def flush(self) -> None:
        """Sends as much as the socket takes."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                sent = self.socket.send(memoryview(self.unsent)[:BYTES_AT_ONCE])
                del self.unsent[:sent]

    def took(self, data: bytes) -> None:
        """What came."""
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether all has been answered. Raises WrongAnswer."""
        raise NotImplementedError


class HttpConnection(Connection):
    """One request, whose answer is one body or several events."""

    def __init__(self, host: str, port: int, request: bytes, end: bytes, expected: tuple[bytes, int]) -> None:
        """`end` is how the answer ends, `expected` what it has so many times."""
        super().__init__(host, port)
        self.unsent += request
        self._end = end
        self._expected = expected
        self._received = bytearray()

    def took(self, data: bytes) -> None:
        self._received += data

    def is_done(self) -> bool:
        if not self._received.endswith(self._end):
            return False
        text, count = self._expected
        if not self._received.startswith(b"HTTP/1.1 200 ") or self._received.count(text) != count:
            raise WrongAnswer(bytes(self._received[:500]).decode("latin-1"))
        return True


class GrpcConnection(Connection):
    """Any number of calls side by side, each of one message."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.is_open = False
        """The server has said what it allows."""
        self.ended = self.data_bytes = 0
        self.sample = bytearray()
        """The beginning of all messages."""
        self._authority = f"{host}:{port}"
        self._blocks = Blocks()
        self._calls = self._message_bytes = 0
        self._received = bytearray()
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, WINDOW_MAX) + struct.pack(">HI", 5, 2**24 - 1)
        self.unsent += PREFACE + frame(SETTINGS, 0, 0, settings)
        self.unsent += frame(8, 0, 0, (WINDOW_MAX - 65535).to_bytes(4, "big"))

    def call(self, path: str, message: bytes, count: int, answer_bytes: int) -> None:
        """Begins so many calls. Each is to be answered with so many bytes of messages, prefixes included; 0 if that
        is not known."""
        first, later = request_blocks(self._authority, SERVICE + path)
        for index in range(count):
            stream = 2 * (self._calls + index) + 1
            self.unsent += frame(HEADERS, END_HEADERS, stream, later if stream > 1 else first)
            self.unsent += frame(DATA, END_STREAM, stream, message)
        self._calls += count
        self._message_bytes = answer_bytes

    def is_done(self) -> bool:
        if self.ended < self._calls:
            return False
        if self._message_bytes and self.data_bytes != self._message_bytes * self._calls:
            raise WrongAnswer(f"{self.data_bytes} bytes of {self._calls} answers of {self._message_bytes}")
        return True

    def took(self, data: bytes) -> None:
        self._received += data
        at, whole = 0, self._received
        while len(whole) - at >= 9:
            size = int.from_bytes(whole[at : at + 3], "big")
            if len(whole) - at < 9 + size:
                break
            kind, flags = whole[at + 3], whole[at + 4]
            if kind == DATA:
                self.data_bytes += size
                if len(self.sample) < BYTES_AT_ONCE:
                    self.sample += whole[at + 9 : at + 9 + size]
            elif kind == HEADERS:
                self._blocks.check(bytes(whole[at + 9 : at + 9 + size]))
                self.ended += flags & END_STREAM
            elif kind == SETTINGS and not flags & ACK:
                self.is_open = True
                self.unsent += frame(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self.unsent += frame(PING, ACK, 0, bytes(whole[at + 9 : at + 9 + size]))
            elif kind in (RESET, GOAWAY):
                raise WrongAnswer(f"frame of type {kind}: {bytes(whole[at + 9 : at + 9 + size])!r}")
            at += 9 + size
        del self._received[:at]


class Crowd:
    """Connections that are served together. A context: leaving it closes them."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = connections
        self._selector = selectors.DefaultSelector()
        for each in connections:
            self._selector.register(each.socket, selectors.EVENT_READ, each)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for each in self.connections:
            each.socket.close()

    def opened(self) -> None:
        """Returns when every gRPC connection may be used."""
        self._until(lambda each: isinstance(each, GrpcConnection) and each.is_open)

    def sent(self) -> None:
        """Returns when nothing waits to be sent."""
        self._until(lambda each: not each.unsent)

    def answered(self) -> None:
        """Returns when all has been answered rightly. Raises WrongAnswer."""
        self._until(lambda each: each.is_done())

    def _until(self, is_done: Callable[[Connection], bool]) -> None:
        left = {each for each in self.connections if not self._is_through(each, is_done)}
        deadline = time.monotonic() + PATIENCE_S
        while left:
            events = self._selector.select(1.0)
            if events:
                deadline = time.monotonic() + PATIENCE_S
            elif time.monotonic() > deadline:
                raise WrongAnswer(f"{len(left)} connections are still not answered")
            for key, mask in events:
                each = key.data
                if mask & selectors.EVENT_READ:
                    with contextlib.suppress(BlockingIOError):
                        data = each.socket.recv(BYTES_AT_ONCE)
                        if not data:
                            raise WrongAnswer("the server closed a connection")
                        each.took(data)
                if self._is_through(each, is_done):
                    left.discard(each)

    def _is_through(self, each: Connection, is_done: Callable[[Connection], bool]) -> bool:
        each.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if each.unsent else 0)
        if self._selector.get_key(each.socket).events != wanted:
            self._selector.modify(each.socket, wanted, each)
        return is_done(each)
