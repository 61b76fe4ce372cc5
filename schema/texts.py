"""BYTES tensors with very many elements, walked in a worker thread: others get the interpreter between the pieces."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final

from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tensor import Buffer

MANY_BYTES_MIN: Final = 65_536
"""From here on a tensor is worth a thread's time."""
_PIECE: Final = 2_000
PAUSE_S: Final = 2e-5
"""A thread that only offers the interpreter mostly gets it back before others are awake."""
_LENGTH = struct.Struct("<I").unpack_from


class CountedTensor(Tensor):
    """BYTES that somebody has walked: `elements` is how many there are, and that they are whole."""

    __slots__ = ("elements",)

    def __init__(self, tensor: Tensor, elements: int) -> None:
        super().__init__(tensor.name, tensor.datatype, tensor.shape, tensor.wire)
        self.elements = elements


def has_many(tensors: Iterable[Tensor]) -> bool:
    """Whether `counted` has work with one of them."""
    return any(one.datatype == "BYTES" and len(one.wire or b"") >= MANY_BYTES_MIN for one in tensors)


def counted(tensor: Tensor) -> Tensor:
    """The tensor, with its elements counted if they are many BYTES, and whole. For a worker thread."""
    memory = tensor.wire
    if tensor.datatype != "BYTES" or memory is None or len(memory) < MANY_BYTES_MIN:
        return tensor
    elements = count_texts(memory)
    return tensor if elements is None else CountedTensor(tensor, elements)


def count_texts(memory: Buffer) -> int | None:
    """How many elements `memory` has, None unless they are whole."""
    at, end = 0, len(memory)
    count = 0
    try:
        while at < end:
            at += 4 + _LENGTH(memory, at)[0]
            count += 1
            pause(count)
    except struct.error:
        return None
    return count if at == end else None


def pause(count: int) -> None:
    """Lets others run if that many elements end a piece."""
    if not count % _PIECE:
        time.sleep(PAUSE_S)
