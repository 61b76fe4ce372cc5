"""Memory that was freed and that the C library keeps: given back to the system when it has become much.

The allocator gives back by itself only what lies at its heap's end, and it takes the blocks of large tensors from the
heap once it has seen a few. So after a rush a server would keep for good what it needed at the height of it.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WORTH_BYTES: Final = 32 << 20
"""Growth since the last time that makes it worth the while: it takes milliseconds, during which others who allocate
wait."""


class Heap:
    """This process's. There is one: see `HEAP`."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._floor = resident_bytes()
        """What was in use when there was nothing to give back."""

    def is_swollen(self) -> bool:
        """Whether so much was allocated since the last `trim` that another may be worth it. Cheap."""
        now = resident_bytes()
        self._floor = min(self._floor, now)
        return self._trim is not None and now - self._floor > WORTH_BYTES

    def trim(self) -> None:
        """Gives back what is free. Takes milliseconds: call it in a thread, when others have little to do."""
        if self._trim is not None:
            self._trim(0)
        self._floor = resident_bytes()


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None with another C library."""
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_size_t]
    function.restype = ctypes.c_int
    return function


HEAP: Final = Heap()
