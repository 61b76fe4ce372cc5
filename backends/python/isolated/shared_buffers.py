"""Shared memory that doors receive in: see received.py."""

from __future__ import annotations

import itertools
import weakref
from typing import Final

import numpy as np

from .discarding import DISCARDER
from .segments import Segment

COUNT_MAX: Final = 64
"""Of a model's buffers that are shared: each takes two descriptors, its file and the mapping's."""

_numbers = itertools.count(1)


class SharedBuffer(np.ndarray):
    """Shared memory of the server's, as bytes."""

    number: int
    """Less than 0: others are of segments that one side of a link fills."""
    file: int


class SharedBuffers:
    """Makes what a BufferPool keeps."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        """Of those there are."""

    def __call__(self, size: int) -> np.ndarray:
        """So many bytes, shared where that can be had. Raises MemoryError."""
        if len(self._numbers) >= COUNT_MAX:
            return np.empty(size, np.uint8)
        try:
            segment = Segment(-next(_numbers), size)
        except OSError:
            return np.empty(size, np.uint8)
        buffer = SharedBuffer((size,), np.uint8, segment.memory)
        buffer.number = segment.number
        buffer.file = segment.fd
        self._numbers.add(segment.number)
        weakref.finalize(buffer, self._end, segment).atexit = False
        return buffer

    def _end(self, segment: Segment) -> None:
        self._numbers.discard(segment.number)
        DISCARDER.discard(segment)
