"""The load generator's HTTP side: prebuilt requests over keep-alive connections, answers framed by Content-Length."""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING

from tests.bench.cases import Case, http_request, read_http
from tests.bench.http_traffic import http_asks
from tests.bench.load import Answers, Ask, WrongAnswer, connected
from tests.bench.traffic import Row, in_turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READ_BYTES = 1 << 16


def http_callers(case: Case | Row, host: str, port: int, count: int) -> Sequence[HttpCaller]:
    """`count` connections that ask the same question, or a row's in turn."""
    authority = f"{host}:{port}"
    if isinstance(case, Row):
        asks = http_asks(case, authority)
        return [HttpCaller(host, port, in_turn(asks, place, count), asks) for place in range(count)]
    answers = Answers(lambda head, body: case.check(read_http(head, body)))
    ids = range(1, count + 1) if case.of_sequences else [0] * count
    return [HttpCaller(host, port, _the_same(case, authority, id, answers)) for id in ids]


def _the_same(case: Case, authority: str, id: int, answers: Answers) -> Iterator[Ask]:
    first, other = (Ask(http_request(case, authority, id, starts=one), answers.check) for one in (True, False))
    return chain([first], repeat(other))


class HttpCaller:
    """One keep-alive connection. The answer's buffer is kept from one answer to the next."""

    def __init__(self, host: str, port: int, asks: Iterator[Ask], pool: Sequence[Ask] = ()) -> None:
        self.connection = connected(host, port)
        self.pool = pool
        self._asks = asks
        self._unsent = memoryview(b"")
        self._buffer = bytearray(READ_BYTES)
        self._filled = 0
        self._head = b""
        self._body_end = 0

    def start(self) -> None:
        self._filled = self._body_end = 0
        self._ask = ask = next(self._asks)
        try:
            sent = self.connection.send(ask.request)
        except BlockingIOError:
            sent = 0
        if sent < len(ask.request):
            self._unsent = memoryview(ask.request)[sent:]

    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def writable(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self.connection.send(self._unsent) :]
        except BlockingIOError:
            pass

    def readable(self) -> bool:
        """Reads until the socket is empty or the answer complete."""
        if not self._filled:
            try:
                answer = self.connection.recv(READ_BYTES)
            except BlockingIOError:
                return False
            if answer in self._ask.right:
                return True
            if not answer:
                raise WrongAnswer("the server closed the connection")
            self._buffer[: len(answer)] = answer
            self._filled = len(answer)
            if self._complete():
                return True
        while True:
            if self._filled == len(self._buffer):
                self._buffer.extend(bytes(READ_BYTES))
            try:
                with memoryview(self._buffer) as whole, whole[self._filled :] as free:
                    count = self.connection.recv_into(free)
            except BlockingIOError:
                return False
            if not count:
                raise WrongAnswer(
                    f"the server closed the connection after {bytes(self._buffer[: min(self._filled, 300)])!r}"
                )
            self._filled += count
            if self._complete():
                return True

    def _complete(self) -> bool:
        """Whether the whole answer is there; if so it has been checked."""
        if not self._body_end:
            end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                return False
            self._head = bytes(self._buffer[: end + 4])
            self._body_end = len(self._head) + content_length(self._head)
            if self._body_end > len(self._buffer):
                self._buffer.extend(bytes(self._body_end - len(self._buffer)))
        if self._filled < self._body_end:
            return False
        if not self._head.startswith(b"HTTP/1.1 200"):
            raise WrongAnswer(bytes(self._buffer[: min(self._filled, 500)]).decode("latin-1"))
        with memoryview(self._buffer) as whole, whole[len(self._head) : self._body_end] as body:
            self._ask.check(self._head, body)
        if self._filled == self._body_end:
            self._ask.know(bytes(self._buffer[: self._filled]), self._filled)
        return True


def content_length(head: bytes) -> int:
    """The body's length. Raises WrongAnswer where the head does not tell it."""
    lowered = head.lower()
    start = lowered.find(b"\r\ncontent-length:")
    if start < 0:
        raise WrongAnswer(f"no Content-Length in {head!r}")
    return int(lowered[start + 17 : lowered.index(b"\r\n", start + 2)])
