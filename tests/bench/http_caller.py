"""The load generator's HTTP side: prebuilt requests over keep-alive connections, answers framed by Content-Length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.cases import Case, http_request, read_http
from tests.bench.load import Answers, WrongAnswer, connected

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_BYTES = 1 << 16


def http_callers(case: Case, host: str, port: int, count: int) -> Sequence[HttpCaller]:
    """`count` connections that ask the same question."""
    answers = Answers(lambda head, body: case.check(read_http(head, body)))
    ids = range(1, count + 1) if case.of_sequences else [0] * count
    return [
        HttpCaller(
            host, port, *(http_request(case, f"{host}:{port}", id, starts=one) for one in (True, False)), answers
        )
        for id in ids
    ]


class HttpCaller:
    """One keep-alive connection. The answer's buffer is kept from one answer to the next."""

    def __init__(self, host: str, port: int, first: bytes, request: bytes, answers: Answers) -> None:
        self.connection = connected(host, port)
        self._next = memoryview(first)
        self._request = memoryview(request)
        self._answers = answers
        self._unsent = self._request[:0]
        self._buffer = bytearray(READ_BYTES)
        self._filled = 0
        self._head = b""
        self._body_end = 0

    def start(self) -> None:
        self._filled = self._body_end = 0
        self._unsent, self._next = self._next, self._request
        self.writable()

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
            self._answers.check(self._head, body)
        return True


def content_length(head: bytes) -> int:
    """The body's length. Raises WrongAnswer where the head does not tell it."""
    lowered = head.lower()
    start = lowered.find(b"\r\ncontent-length:")
    if start < 0:
        raise WrongAnswer(f"no Content-Length in {head!r}")
    return int(lowered[start + 17 : lowered.index(b"\r\n", start + 2)])
