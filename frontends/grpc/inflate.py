"""Decompression of request messages, bounded: a small bomb must not grow, a large message not stop the loop."""

from __future__ import annotations

import zlib

INLINE_BYTES_MAX = 65_536
"""Messages that are small before and after decompression are inflated on the trio thread; the others in a worker."""


class TooLarge(ValueError):
    """The decompressed message is larger than allowed."""


class BadCompression(ValueError):
    """Not what its encoding says, cut off, or followed by something else."""


def inflate(data: bytes | memoryview, encoding: str, size_max: int) -> bytes:
    """The decompressed message. Raises TooLarge beyond `size_max` bytes and BadCompression for anything but one whole
    stream. May be called from any thread."""
    engine = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        out = engine.decompress(data, size_max + 1)
    except zlib.error as error:
        raise BadCompression("Failed to decompress message") from error
    if len(out) > size_max:
        raise TooLarge
    if not engine.eof or engine.unused_data:
        raise BadCompression("Failed to decompress message")
    return out
