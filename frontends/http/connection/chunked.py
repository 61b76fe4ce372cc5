"""Decodes a chunked body as its bytes arrive: in time linear in them, holding the decoded bytes and half a line.

    SIZE ──n > 0──▶ DATA ──n bytes──▶ DATA_END ──▶ SIZE
      └───n = 0──▶ TRAILER ──empty line──▶ DONE

No sockets here. Lines end with CRLF and nothing else; sizes are plain hexadecimal digits; extensions and trailers are
skipped, and count against a limit.
"""

from __future__ import annotations

import re
from typing import Final

from ..request.breakdown import NoRoomForBody
from .head import Refusal

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)
_LINE_BYTES_MAX: Final = 4096
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n\0]*)?\Z")


class ChunkedBody:
    """`feed` it what arrives until it says that the body is whole; then `body` is that, and not written to again."""

    __slots__ = ("_bytes_max", "_count", "_count_max", "_left", "_line", "_overhead", "_overhead_max", "_state", "body")

    def __init__(self, *, bytes_max: int, count_max: int, overhead_max: int) -> None:
        self.body = bytearray()
        self._bytes_max = bytes_max
        self._count_max = count_max
        self._overhead_max = overhead_max
        """Bytes of chunk extensions, and of trailers, that are put up with."""
        self._state = _SIZE
        self._line = b""
        """The beginning of a line that ends in bytes yet to come."""
        self._left = 0
        self._count = 0
        self._overhead = 0

    def feed(self, data: bytes, at: int) -> int:
        """Takes `data[at:]`. Returns the offset after the body's last byte, or -1 while more is to come.

        Raises Refusal when the framing is broken or a limit passed, NoRoomForBody when there is no memory for more.
        """
        end = len(data)
        while at < end:
            if self._state == _DATA:
                taken = min(self._left, end - at)
                try:
                    self.body += memoryview(data)[at : at + taken]
                except MemoryError as problem:
                    raise NoRoomForBody(len(self.body) + self._left) from problem
                at += taken
                self._left -= taken
                if not self._left:
                    self._state = _DATA_END
                continue
            stop = data.find(b"\n", at)
            piece = data[at:] if stop < 0 else data[at : stop + 1]
            line = self._line + piece if self._line else piece
            if len(line) > _LINE_BYTES_MAX:
                raise Refusal(400, "malformed request: line too long in a chunked body")
            if stop < 0:
                self._line = line
                return -1
            self._line = b""
            at = stop + 1
            if not line.endswith(b"\r\n"):
                raise Refusal(400, "malformed request: line in a chunked body does not end with CRLF")
            self._take_line(line[:-2])
            if self._state == _DONE:
                return at
        return -1

    def _take_line(self, line: bytes) -> None:
        if self._state == _DATA_END:
            if line:
                raise Refusal(400, "malformed request: chunk is longer than its size")
            self._state = _SIZE
        elif self._state == _SIZE:
            found = _SIZE_LINE.match(line)
            if found is None:
                raise Refusal(400, "malformed request: bad chunk size")
            digits = found[1]
            self._spend(len(line) - len(digits))
            self._start_chunk(int(digits, 16))
        elif line:
            if b"\r" in line or b"\0" in line or b":" not in line:
                raise Refusal(400, "malformed request: bad trailer")
            self._spend(len(line))
        else:
            self._state = _DONE

    def _start_chunk(self, size: int) -> None:
        if not size:
            self._state = _TRAILER
            return
        self._count += 1
        if self._count > self._count_max:
            raise Refusal(
                400,
                f"Chunked request body exceeds maximum of {self._count_max} non-empty chunks. "
                "Send fewer or larger HTTP chunks.",
            )
        if len(self.body) + size > self._bytes_max:
            raise Refusal(400, f"request body exceeds the maximum of {self._bytes_max} bytes")
        self._left = size
        self._state = _DATA

    def _spend(self, count: int) -> None:
        self._overhead += count
        if self._overhead > self._overhead_max:
            raise Refusal(431, f"chunk extensions and trailers exceed {self._overhead_max} bytes")
