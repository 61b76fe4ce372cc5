"""Buffers for large requests: where they come from, and when one may be used again.

A fresh buffer of megabytes costs a page fault for every 4 KiB, more than the copy itself, so buffers are kept. A buffer
is handed out again only when nothing else refers to it: every view of it (memoryview, numpy array, a tensor made of
either) keeps a reference to the array that owns the memory, so the count of references tells, at any depth. Nobody has
to say when he is done, and a view that somebody keeps for ever costs one buffer, never a corrupted tensor.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from ...schema.references import LOCAL_REFERENCES

if TYPE_CHECKING:
    from collections.abc import Callable

RECYCLED_FROM: Final = 128 * 1024
"""Smaller buffers come from the allocator's heap, which recycles them itself."""

ALIGNMENT: Final = 64
"""Of the first tensor in a buffer of a model's own, as models like it."""

_UNSHARED: Final = LOCAL_REFERENCES + 1
"""References to an array that only the pool knows: its list's, and a local name's."""

_LOOKS_MAX: Final = 64
"""How many buffers of a size are looked at before a fresh one is made."""


class BufferPool:
    """Keeps up to `bytes_max` bytes of buffers, of few sizes. Not thread-safe."""

    def __init__(
        self, bytes_max: int, make: Callable[[int], np.ndarray] | None = None, kind: type[np.ndarray] = np.ndarray
    ) -> None:
        """`make` gives a fresh array of so many bytes, and raises MemoryError; without it, it is ordinary memory. Those
        of that `kind` are kept."""
        self._bytes_max = bytes_max
        self._make = make or _fresh
        self._kind = kind
        self.trimmed_at = 0.0
        """By one of the doors that use it, in seconds of trio's clock."""
        self._shelves: dict[int, _Shelf] = {}
        """By the size of the buffers."""
        self.kept_bytes = 0
        self._used = False

    def take(self, size: int) -> np.ndarray:
        """An array of at least `size` uint8 elements with any content. Raises MemoryError.

        Pages of a fresh one are not touched: a length that nothing follows costs address space only."""
        if size < RECYCLED_FROM:
            return _fresh(size)
        self._used = True
        capacity = _rounded(size)
        shelf = self._shelves.get(capacity)
        if shelf is not None:
            kept = shelf.kept
            for index in range(len(kept) - 1, max(-1, len(kept) - 1 - _LOOKS_MAX), -1):
                array = kept[index]
                if sys.getrefcount(array) == _UNSHARED:
                    del kept[index]
                    self.kept_bytes -= capacity
                    shelf.least = min(shelf.least, len(kept))
                    return array
        return self._make(capacity)

    def give(self, array: np.ndarray) -> None:
        """Takes back what `take` gave. Views of it may still be alive."""
        capacity = array.nbytes
        is_kept = capacity >= RECYCLED_FROM and self.kept_bytes + capacity <= self._bytes_max
        if not is_kept or not isinstance(array, self._kind):
            return
        shelf = self._shelves.get(capacity)
        if shelf is None:
            shelf = self._shelves[capacity] = _Shelf()
        shelf.kept.append(array)
        self.kept_bytes += capacity

    def trim(self) -> bool:
        """Called now and then: lets those go that were not needed since the last call. True if none was taken."""
        for capacity, shelf in self._shelves.items():
            del shelf.kept[: shelf.least]
            self.kept_bytes -= shelf.least * capacity
            shelf.least = len(shelf.kept)
        was_used, self._used = self._used, False
        return not was_used


class Pools(set[BufferPool]):
    """Those that one door has given something back to lately: its own, and those of models."""

    def give_back(self, pool: BufferPool, array: np.ndarray) -> None:
        """See `BufferPool.give`."""
        pool.give(array)
        self.add(pool)

    def trim(self, now: float, period_s: float) -> bool:
        """See `BufferPool.trim`: of all that no other door has trimmed within the period, and those in which nothing is
        left are forgotten. True if none was used. `now` is on trio's clock."""
        unused = set()
        for pool in self:
            if now - pool.trimmed_at >= period_s:
                pool.trimmed_at = now
                if pool.trim():
                    unused.add(pool)
        are_unused = len(unused) == len(self)
        self -= {pool for pool in unused if not pool.kept_bytes}
        return are_unused


class _Shelf:
    """Buffers of one size."""

    __slots__ = ("kept", "least")

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []
        """Oldest first. Some may still be in use by somebody."""
        self.least = 0
        """How many of them were there all the time since the last trim."""


def _fresh(size: int) -> np.ndarray:
    return np.empty(size, np.uint8)


def _rounded(size: int) -> int:
    """The size of a buffer for so much: few sizes, and little more than is needed, for that is kept with it."""
    step = max(RECYCLED_FROM, 1 << (size - 1).bit_length()) // 8
    return -(-size // step) * step
