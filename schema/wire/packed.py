"""Packed lists of varints to arrays, in pieces that are quickly made: nobody is kept from the interpreter for long."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from .varint import Malformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..tensor import Buffer

_PIECE_BYTES: Final = 16_384
_FEW_BYTES: Final = 256
"""Up to here a dozen calls of numpy cost more than what each number costs otherwise."""
_VARINT_BYTES_MAX: Final = 10
_split = re.compile(rb"[\x80-\xff]{0,9}[\0-\x7f]").findall
"""The numbers that are whole and not too long."""


def _in_each(pattern: int) -> int:
    """The same eight bytes for as many numbers as are unpacked at once."""
    return int.from_bytes(pattern.to_bytes(8, "little") * _FEW_BYTES, "little")


_STEPS: Final = (
    (_in_each(0x007F007F007F007F), _in_each(0x7F007F007F007F00), 1),
    (_in_each(0x00003FFF00003FFF), _in_each(0x3FFF00003FFF0000), 2),
    (_in_each(0x000000000FFFFFFF), _in_each(0x0FFFFFFF00000000), 4),
)
"""What stays, what moves and how far, to close the gaps between seven bits, then fourteen, then twenty-eight."""
_LAST: Final = _in_each(0xFF)
"""Of a number's ninth and tenth bytes: the last of its 64 bits."""


def unpack_varints(data: Buffer, bits: int = 64) -> NDArray[np.uint64]:
    """The numbers in `data`; only that many bits of each count, and those beyond the 64th are dropped. Raises Malformed
    for one that is cut off or too long. From any thread."""
    if len(data) <= _FEW_BYTES and not (few := bytes(data)).isascii():
        return _unpack_few(few, bits)
    octets = np.frombuffer(data, np.uint8)
    if len(octets) <= _PIECE_BYTES:
        return _unpack(octets)
    pieces = []
    at, end = 0, len(octets)
    while at < end:
        stop = min(at + _PIECE_BYTES, end)
        if stop < end:
            cut = octets[stop - _VARINT_BYTES_MAX : stop] < 128
            if not cut.any():
                raise Malformed("varint longer than ten bytes")
            stop -= int(cut[::-1].argmax())
        pieces.append(_unpack(octets[at:stop]))
        at = stop
    return np.concatenate(pieces)


def _unpack_few(data: bytes, bits: int) -> NDArray[np.uint64]:
    """Each number in eight bytes of one large number: all of them are shifted together into place."""
    pieces = _split(data)
    if len(b"".join(pieces)) != len(data):
        raise Malformed("truncated list, or a varint longer than ten bytes")
    numbers = _joined(pieces)
    if bits > 56 and max(map(len, pieces)) > 8:
        numbers |= (_joined([piece[8:] for piece in pieces]) & _LAST) << 56
    return np.frombuffer(numbers.to_bytes(8 * len(pieces), "little"), np.uint64)


def _joined(pieces: list[bytes]) -> int:
    """The first 56 bits of each."""
    numbers = int.from_bytes(struct.pack("8s" * len(pieces), *pieces), "little")
    for low, high, gap in _STEPS:
        numbers = numbers & low | (numbers & high) >> gap
    return numbers


def _unpack(octets: NDArray[np.uint8]) -> NDArray[np.uint64]:
    ends = (octets < 128).nonzero()[0]
    count = len(ends)
    if count == len(octets):
        return octets.astype(np.uint64)
    if not count or ends[-1] != len(octets) - 1:
        raise Malformed("truncated list")
    starts = np.empty(count, np.intp)
    starts[0] = 0
    starts[1:] = ends[:-1]
    starts[1:] += 1
    sizes = ends - starts
    sizes += 1
    if sizes.max() > _VARINT_BYTES_MAX:
        raise Malformed("varint longer than ten bytes")
    places = np.arange(len(octets), dtype=np.uint64)
    places -= np.repeat(starts, sizes).astype(np.uint64)
    places *= np.uint64(7)
    values = (octets & 127).astype(np.uint64)
    values <<= places
    return np.bitwise_or.reduceat(values, starts)
