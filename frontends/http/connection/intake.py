"""What a client has sent and nobody has consumed yet, and the heads of requests in it.

No sockets here. The search for the end of a head goes on where it stopped, so a head that arrives byte by byte costs
time linear in its length; what can become no head is refused at once, not when the timeout comes.
"""

from __future__ import annotations

from typing import Final

from .head import Head, HeadReader, Refusal

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
_CARRIAGE_RETURN: Final = 13


class Intake:
    """The bytes of one connection from `at` on in `data`. Whoever consumes some moves `at`."""

    __slots__ = ("_heads", "_scanned", "at", "data", "text")

    def __init__(self, heads: HeadReader) -> None:
        self._heads = heads
        self.data = b""
        self.at = 0
        self.text = b""
        """Of the last head."""
        self._scanned = 0
        """Where the search for the end of the head goes on; 0 for one that has not begun."""

    def append(self, data: bytes) -> bool:
        """Whether nothing was left of what came before."""
        at = self.at
        if at >= len(self.data):
            self.data = data
            self.at = self._scanned = 0
            return True
        self.data = self.data[at:] + data
        self._scanned = max(0, self._scanned - at)
        self.at = 0
        return False

    def clear(self) -> None:
        self.data = b""
        self.at = self._scanned = 0

    def is_http2(self) -> bool:
        """Whether a connection opens with the preface of HTTP/2."""
        return self.data.startswith(_PREFACE, self.at)

    def next_head(self) -> Head | None:
        """Consumes the next head, up to where the body begins; None while it is not whole. Raises Refusal."""
        data = self.data
        at = self.at
        there = len(data)
        while at < there and data[at] == _CARRIAGE_RETURN and data.startswith(b"\r\n", at):
            at += 2  # HTTP asks servers to skip empty lines before a request
        end = data.find(b"\r\n\r\n", self._scanned or at) + 4
        if end < 4:
            self.at = at
            self._check_unfinished()
            self._scanned = max(at, there - 3)
            return None
        self.text = text = data[at:end]
        self.at = end
        self._scanned = 0
        return self._heads.known(text) or self._heads.read(text)

    def _check_unfinished(self) -> None:
        data = self.data
        at = self.at
        limit = self._heads.bytes_max
        if len(data) - at > limit:
            raise Refusal(431, f"request head exceeds {limit} bytes")
        if at < len(data) and not (65 <= data[at] <= 90 or (data[at] == _CARRIAGE_RETURN and at + 1 == len(data))):
            raise Refusal(400, "malformed request: a method in capitals is expected")
        start = self._scanned or at
        if data.find(b"\0", start) >= 0:
            raise Refusal(400, "malformed request: NUL in the head")
        while (line_end := data.find(b"\n", start)) >= 0:
            if line_end == at or data[line_end - 1] != _CARRIAGE_RETURN:
                raise Refusal(400, "malformed request: line does not end with CRLF")
            start = line_end + 1
