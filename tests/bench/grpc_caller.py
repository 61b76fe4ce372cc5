"""The load generator's gRPC side: as much HTTP/2 as one unary call at a time on a connection needs.

The connection forbids the server's header compression state (a table of size 0), so that a header block seen once can
be recognised by its bytes. Its own headers enter the server's table with the first call and are references to it from
then on, as gRPC's C core has it.
"""

from __future__ import annotations

import struct
from collections import deque
from itertools import chain, repeat
from typing import TYPE_CHECKING

import hpack

from tests.bench.cases import Case, grpc_framed, grpc_message, read_grpc
from tests.bench.grpc_traffic import INFER, Call, grpc_asks
from tests.bench.load import Answers, WrongAnswer, connected
from tests.bench.traffic import Row, in_turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
PRIORITY, PADDED = 0x20, 0x8
WINDOW_MAX = 2**31 - 1
READ_BYTES = 1 << 16
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def grpc_callers(case: Case | Row, host: str, port: int, count: int) -> Sequence[GrpcCaller]:
    """`count` connections that make the same call, or a row's in turn."""
    blocks = Blocks()
    if isinstance(case, Row):
        path, asks = grpc_asks(case, f"{host}:{port}")
        return [GrpcCaller(host, port, path, in_turn(asks, place, count), blocks, asks) for place in range(count)]
    answers = Answers(lambda _, body: case.check(read_grpc(body)))
    ids = range(1, count + 1) if case.of_sequences else [0] * count
    return [GrpcCaller(host, port, INFER, _the_same(case, id, answers), blocks) for id in ids]


def _the_same(case: Case, id: int, answers: Answers) -> Iterator[Call]:
    first, other = (Call(grpc_framed(grpc_message(case, id, starts=one)), answers.check) for one in (True, False))
    return chain([first], repeat(other))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return frame_head(len(payload), kind, flags, stream) + payload


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return length.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream)


def request_blocks(authority: str, path: str) -> tuple[bytes, bytes]:
    """The header block of a connection's first call, and that of the later ones, which refers to what the first has put
    into the table."""
    headers = {
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "despina-bench",
        "grpc-accept-encoding": "identity, deflate, gzip",
    }
    first = b"".join(
        b"\x40" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    post_http = b"\x83\x86"
    return post_http + first, post_http + bytes(range(0x80 + 61 + len(headers), 0x80 + 61, -1))


class Blocks:
    """Header blocks that are known to be good; shared by the callers of one run."""

    def __init__(self) -> None:
        self._good: set[bytes] = set()

    def check(self, block: bytes) -> None:
        """Raises WrongAnswer for a status that is not success, in the head or the trailers."""
        if block in self._good:
            return
        decoder = hpack.Decoder()
        headers = {str(name): str(value) for name, value in decoder.decode(block)}
        if headers.get(":status", "200") != "200" or headers.get("grpc-status", "0") != "0":
            raise WrongAnswer(str(headers))
        if len(self._good) < 1000:
            self._good.add(block)


class GrpcCaller:
    """One connection with one call under way."""

    def __init__(
        self, host: str, port: int, path: str, calls: Iterator[Call], blocks: Blocks, pool: Sequence[Call] = ()
    ) -> None:
        self.connection = connected(host, port)
        self.pool = pool
        self._calls = calls
        self._blocks = blocks
        self._head, self._next_head = request_blocks(f"{host}:{port}", path)
        self._stream = -1
        self._waiting: deque[memoryview] = deque()  # bytes to send
        self._unsent = memoryview(b"")  # of the message, not yet in frames
        self._connection_window = self._stream_window = self._initial_window = 65535
        self._frame_bytes_max = 16384
        self._received = bytearray()  # the beginning of a frame
        self._body = bytearray()
        self._filled = 0  # of the body
        self._missing = 0  # of the DATA frame that goes on
        self._consumed = 0
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, WINDOW_MAX) + struct.pack(">HI", 5, 2**24 - 1)
        self._queue(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._queue(frame(WINDOW_UPDATE, 0, 0, (WINDOW_MAX - 65535).to_bytes(4, "big")))

    def start(self) -> None:
        self._stream += 2
        self._call = call = next(self._calls)
        if self._sent_at_once(call):
            return
        self._filled = 0
        self._stream_window = self._initial_window
        self._unsent = memoryview(call.request)
        self._queue(frame(HEADERS, END_HEADERS, self._stream, self._head + call.own))
        self._head = self._next_head
        self._frame_message()
        self.writable()

    def _sent_at_once(self, call: Call) -> bool:
        """Sends a call that fits its windows in one piece, if nothing waits."""
        size = len(call.request)
        if (
            self._waiting
            or self._head is not self._next_head
            or size > min(self._connection_window, self._initial_window, self._frame_bytes_max, 4096)
        ):
            return False
        if call.pieces is None:
            block = self._next_head + call.own
            head = frame_head(len(block), HEADERS, END_HEADERS, 0)[:5]
            call.pieces = head, block + frame_head(size, DATA, END_STREAM, 0)[:5], call.request
        whole = self._stream.to_bytes(4, "big").join(call.pieces)
        try:
            sent = self.connection.send(whole)
        except BlockingIOError:
            sent = 0
        if sent < len(whole):
            self._waiting.append(memoryview(whole)[sent:])
        self._connection_window -= size
        self._stream_window = self._initial_window - size
        self._filled = 0
        return True

    def wants_to_write(self) -> bool:
        return bool(self._waiting)

    def writable(self) -> None:
        try:
            while self._waiting:
                parts = [self._waiting[index] for index in range(min(len(self._waiting), 64))]
                sent = (
                    self.connection.send(b"".join(parts))
                    if sum(map(len, parts)) < 4096
                    else self.connection.sendmsg(parts)
                )
                while sent:
                    first = self._waiting.popleft()
                    if sent < len(first):
                        self._waiting.appendleft(first[sent:])
                    sent -= min(sent, len(first))
        except BlockingIOError:
            pass

    def readable(self) -> bool:
        """Takes one read's worth of frames."""
        if self._missing:
            self._continue_data()
            return False
        try:
            fresh = self.connection.recv(READ_BYTES)
        except BlockingIOError:
            return False
        if not fresh:
            raise WrongAnswer("the server closed the connection")
        if not self._received and not self._filled:
            stream_id = self._stream.to_bytes(4, "big")
            for pieces in self._call.right:
                if fresh == stream_id.join(pieces):
                    self._consumed += len(pieces[2]) - 5
                    return True
        if self._received:
            self._received += fresh
            fresh, self._received = bytes(self._received), bytearray()
        at, complete = 0, False
        while len(fresh) - at >= 9:
            end = at + 9 + int.from_bytes(fresh[at : at + 3], "big")
            if end > len(fresh):
                if fresh[at + 3] == DATA and not fresh[at + 4]:
                    self._missing = end - len(fresh)
                    self._take_data(memoryview(fresh)[at + 9 :])
                    at = len(fresh)
                break
            stream = int.from_bytes(fresh[at + 5 : at + 9], "big")
            complete |= self._took(fresh[at + 3], fresh[at + 4], stream, memoryview(fresh)[at + 9 : end])
            at = end
        if complete and at == len(fresh):
            self._know(fresh)
        self._received += fresh[at:]
        self.writable()
        return complete

    def _took(self, kind: int, flags: int, stream: int, payload: memoryview) -> bool:
        """One frame; True when it ended the call."""
        if kind == DATA:
            self._take_data(payload)
            if flags & END_STREAM:
                raise WrongAnswer("an answer without trailers")
        elif kind == HEADERS:
            if flags & PADDED or not flags & END_HEADERS:
                raise WrongAnswer("a header block in a form that this client does not know")
            self._blocks.check(bytes(payload[5:] if flags & PRIORITY else payload))
            if flags & END_STREAM:
                self._finish()
                return True
        elif kind == SETTINGS and not flags & ACK:
            self._configure(payload)
        elif kind == PING and not flags & ACK:
            self._queue(frame(PING, ACK, 0, bytes(payload)))
        elif kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self._connection_window += increment
            elif stream == self._stream:
                self._stream_window += increment
            self._frame_message()
        elif kind in (RESET, GOAWAY):
            raise WrongAnswer(f"frame of type {kind}: {bytes(payload)!r}")
        return False

    def _take_data(self, payload: memoryview) -> None:
        """Part of the message, behind what is there of it."""
        self._room(len(payload))
        self._body[self._filled : self._filled + len(payload)] = payload
        self._count(len(payload))

    def _continue_data(self) -> None:
        """Reads what is missing of a DATA frame to its place in the message."""
        self._room(self._missing)
        with memoryview(self._body) as whole, whole[self._filled : self._filled + self._missing] as place:
            try:
                count = self.connection.recv_into(place)
            except BlockingIOError:
                return
        if not count:
            raise WrongAnswer("the server closed the connection")
        self._missing -= count
        self._count(count)

    def _room(self, count: int) -> None:
        """Lets the message's buffer, which is kept for the next, have so many bytes more."""
        if len(self._body) < self._filled + count:
            self._body.extend(bytes(self._filled + count - len(self._body)))

    def _count(self, count: int) -> None:
        """Bytes of the message that were received."""
        self._filled += count
        self._consumed += count
        if self._consumed > 2**28:
            self._queue(frame(WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4, "big")))
            self._consumed = 0
            self.writable()

    def _know(self, answer: bytes) -> None:
        """An answer was good that came in one piece: its frames, and nothing else."""
        pieces, at, start = [], 0, 0
        ours = self._stream.to_bytes(4, "big")
        while at < len(answer):
            if answer[at + 5 : at + 9] != ours or answer[at + 3] not in (DATA, HEADERS):
                return
            pieces.append(answer[start : at + 5])
            start = at + 9
            at = start + int.from_bytes(answer[at : at + 3], "big")
        if len(pieces) == 3:  # head, message, trailers
            self._call.know((*pieces, answer[start:]), len(answer))

    def _finish(self) -> None:
        """Checks the answer of the call that ended."""
        if self._filled < 5 or self._body[0] or int.from_bytes(self._body[1:5], "big") != self._filled - 5:
            raise WrongAnswer(f"not one gRPC message: {bytes(self._body[:20])!r}")
        with memoryview(self._body) as whole, whole[5 : self._filled] as message:
            self._call.check(b"", message)

    def _configure(self, payload: memoryview) -> None:
        """The server's settings."""
        for number, value in struct.iter_unpack(">HI", payload):
            if number == 4:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif number == 5:
                self._frame_bytes_max = value
        self._queue(frame(SETTINGS, ACK, 0))
        self._frame_message()

    def _frame_message(self) -> None:
        """Puts as much of the message into frames as both windows allow."""
        while self._unsent:
            count = min(len(self._unsent), self._frame_bytes_max, self._connection_window, self._stream_window)
            if count <= 0:
                return
            flags = END_STREAM if count == len(self._unsent) else 0
            self._queue(frame_head(count, DATA, flags, self._stream))
            self._waiting.append(self._unsent[:count])
            self._unsent = self._unsent[count:]
            self._connection_window -= count
            self._stream_window -= count

    def _queue(self, data: bytes) -> None:
        """Something to send."""
        self._waiting.append(memoryview(data))
