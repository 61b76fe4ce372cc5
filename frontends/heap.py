"""Memory that was freed and that the C library keeps: given back to the system when it has become much.

The allocator gives back by itself only what lies at its heap's end, and it takes the blocks of large tensors from the
heap once it has seen a few. So after a rush a server would keep for good what it needed at the height of it.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WORTH_BYTES: Final = 32 << 20
"""So much makes it worth the while: it takes milliseconds, during which others who allocate wait."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class Heap:
    """This process's. There is one: see `HEAP`."""

    def __init__(self) -> None:
        self._trim = _glibc("malloc_trim", ctypes.c_int, ctypes.c_size_t)
        self._info = _glibc("mallinfo2", _Mallinfo)
        self._floor = self._idle_bytes()
        """What was resident and idle when there was nothing to give back."""

    def is_swollen(self) -> bool:
        """Whether so much has become idle since the last `trim` that another is worth it. Cheap."""
        now = self._idle_bytes()
        self._floor = min(self._floor, now)
        return self._trim is not None and now - self._floor > WORTH_BYTES

    def trim(self) -> None:
        """Gives back what is free. Takes milliseconds: call it in a thread, when others have little to do."""
        if self._trim is not None:
            self._trim(0)
        self._floor = self._idle_bytes()

    def _idle_bytes(self) -> int:
        """Of what is resident that which nobody has from the allocator: free blocks, besides code and mapped files."""
        if self._info is None:
            return resident_bytes()
        info = self._info()
        return max(0, resident_bytes() - int(info.uordblks) - int(info.hblkhd))


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _glibc(name: str, result: type, *arguments: type) -> Callable[..., Any] | None:
    """A function of that C library; None with another one."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
    function.argtypes = arguments
    function.restype = result
    return function  # type: ignore[no-any-return]  # ctypes' functions are made at run time


HEAP: Final = Heap()
