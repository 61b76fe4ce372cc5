"""Compressed request bodies. What a small body may become is bounded, and so is the time that it may take inline."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from ....schema.fault import InvalidArgument
from ..request.breakdown import NoRoomForBody

if TYPE_CHECKING:
    from ..request.request import Buffer

ENCODINGS: Final = (b"gzip", b"deflate")

_AUTO: Final = 32 + zlib.MAX_WBITS
"""zlib finds out by itself whether the header is gzip's or zlib's; clients mix up the names."""

_INLINE_BYTES_MAX: Final = 256 * 1024
"""Inflated at once, in about a millisecond; what is larger goes on in a thread."""


class Inflation:
    """One body on its way to its plain form: `start` does the beginning, `finish`, in any thread, the rest."""

    def __init__(self, body: Buffer, bytes_max: int) -> None:
        """Raises InvalidArgument for an empty body."""
        if not len(body):
            raise InvalidArgument("nothing to be decompressed")
        self._rest: Buffer = body
        self._bytes_max = bytes_max
        self._stream = zlib.decompressobj(_AUTO)
        self._parts: list[bytes] = []
        self._size = 0

    def start(self) -> bytes | None:
        """The plain body if it is small, else None. Raises InvalidArgument for a damaged or too large one, and
        NoRoomForBody for one that there is no memory for."""
        self._inflate(min(_INLINE_BYTES_MAX, self._bytes_max + 1))
        return self._parts[0] if self._stream.eof else None

    def finish(self) -> bytes:
        """The plain body. Raises as `start` does."""
        while not self._stream.eof:
            self._inflate(self._bytes_max + 1 - self._size)
        try:
            return b"".join(self._parts)
        except MemoryError as problem:
            raise NoRoomForBody(self._size) from problem

    def _inflate(self, count: int) -> None:
        stream = self._stream
        try:
            part = stream.decompress(self._rest, count)
        except zlib.error as problem:
            raise InvalidArgument(f"unable to decompress the request body: {problem}") from problem
        except MemoryError as problem:
            raise NoRoomForBody(self._size + len(self._rest)) from problem
        self._rest = stream.unconsumed_tail
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._bytes_max:
            raise InvalidArgument(
                f"Decompressed data size exceeds the maximum allowed value of {self._bytes_max} bytes. "
                "Use --http-max-input-size to increase the limit."
            )
        if not stream.eof and not self._rest and len(part) < count:
            raise InvalidArgument("unable to decompress the request body: it ends too early")
