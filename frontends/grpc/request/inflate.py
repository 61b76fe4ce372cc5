"""Decompression of request messages, bounded in time and memory, whatever a few bytes say that they become.

small, and small when inflated ──inflate_at_once──▶ bytes, on the trio thread
all others ──inflate_in_steps, in a worker──▶ pieces ──up to `_KEPT_BYTES_MAX`──▶ one buffer
                                                └─beyond: counted, not kept, and made again ──▶ one buffer
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ....schema.tensor import Buffer

INLINE_BYTES_MAX: Final = 65_536
"""Messages that are small before and after decompression are inflated on the trio thread; the others in a worker."""
_KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""What is held of a message before it is known to be within the limit; so much a bomb can cost, and no more. Larger
ones are inflated twice. Too much for the allocator to keep: what is freed goes back to the system."""
_NOTHING: Final = memoryview(b"")
_INPUT_BYTES: Final = 65_536
_PIECE_BYTES: Final = 262_144
"""Moved at one time by a worker that holds the interpreter: some 50 microseconds."""


class TooLarge(ValueError):
    """The decompressed message is larger than allowed."""


class BadCompression(ValueError):
    """Not what its encoding says, cut off, or followed by something else."""

    def __init__(self) -> None:
        super().__init__("Failed to decompress message")


class NobodyWaits(Exception):
    """The call is over, so the message is of no use."""


def inflate_at_once(data: Buffer, encoding: str, size_max: int) -> bytes:
    """The decompressed message, for a small `size_max`. Raises TooLarge beyond that and BadCompression for anything but
    one whole stream."""
    engine = _decompressor(encoding)
    try:
        out = engine.decompress(data, size_max + 1)
    except zlib.error as error:
        raise BadCompression from error
    if len(out) > size_max:
        raise TooLarge
    if not engine.eof or engine.unused_data:
        raise BadCompression
    return out


def inflate_in_steps(data: memoryview, encoding: str, size_max: int, is_wanted: Callable[[], bool]) -> memoryview:
    """The decompressed message, made in a worker thread without keeping others from the interpreter for more than a
    moment. Raises TooLarge beyond `size_max` bytes, BadCompression, MemoryError, and NobodyWaits soon after `is_wanted`
    says no; it has let go of all it made then."""
    message, size = _beginning(data, encoding, size_max, is_wanted)
    return message[:size] if size <= len(message) else _whole(data, encoding, size, is_wanted)


def _beginning(data: memoryview, encoding: str, size_max: int, is_wanted: Callable[[], bool]) -> tuple[memoryview, int]:
    """The message, if there is room for all of it, and its size."""
    # Pages of an empty array are not touched before the bytes are there.
    message = np.empty(min(size_max, _KEPT_BYTES_MAX), np.uint8).data
    size = 0
    try:
        for piece in _pieces(data, encoding):
            start, size = size, size + len(piece)
            if size > size_max:
                raise TooLarge
            if not is_wanted():
                raise NobodyWaits
            if size <= len(message):
                message[start:size] = piece
            else:
                message = _NOTHING
    except Exception:
        message = _NOTHING  # not to live on with the traceback
        raise
    return message, size


def _whole(data: memoryview, encoding: str, size: int, is_wanted: Callable[[], bool]) -> memoryview:
    message = np.empty(size, np.uint8).data
    at = 0
    for piece in _pieces(data, encoding):
        if not is_wanted():
            message = _NOTHING
            raise NobodyWaits
        message[at : at + len(piece)] = piece
        at += len(piece)
    return message


def _pieces(data: memoryview, encoding: str) -> Iterator[bytes]:
    """What `data` becomes, piece by piece. Raises BadCompression, at the latest behind the last one."""
    engine = _decompressor(encoding)
    for at in range(0, len(data), _INPUT_BYTES):
        rest: bytes | memoryview = data[at : at + _INPUT_BYTES]
        more = True
        while more:
            try:
                piece = engine.decompress(rest, _PIECE_BYTES)
            except zlib.error as error:
                raise BadCompression from error
            rest = engine.unconsumed_tail
            if engine.eof and (engine.unused_data or at + _INPUT_BYTES < len(data)):
                raise BadCompression
            more = not engine.eof and (bool(rest) or len(piece) == _PIECE_BYTES)
            yield piece
    if not engine.eof:
        raise BadCompression


def _decompressor(encoding: str) -> zlib._Decompress:
    return zlib.decompressobj(31 if encoding == "gzip" else 15)
