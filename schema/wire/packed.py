"""Packed lists of varints to arrays, in pieces that are quickly made: nobody is kept from the interpreter for long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .varint import Malformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..tensor import Buffer

_PIECE_BYTES: Final = 16_384
_FEW_BYTES: Final = 256
"""Up to here a loop costs less than a dozen calls of numpy."""
_VARINT_BYTES_MAX: Final = 10
_LARGEST: Final = (1 << 64) - 1


def unpack_varints(data: Buffer) -> NDArray[np.uint64]:
    """The numbers in `data`, bits beyond the 64th dropped. Raises Malformed for one that is cut off or too long. From
    any thread."""
    if len(data) <= _FEW_BYTES:
        return np.array(_one_by_one(bytes(data)), np.uint64)
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


def _one_by_one(data: bytes) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        if byte < 128:
            numbers.append((number + (byte << shift)) & _LARGEST)
            number = shift = 0
        else:
            number += (byte - 128) << shift
            shift += 7
            if shift > 63:
                raise Malformed("varint longer than ten bytes")
    if shift:
        raise Malformed("truncated list")
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
