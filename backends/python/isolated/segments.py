"""Shared memory between two processes: one fills a segment, the other reads it, then the first may fill it again.

    SegmentPool.take(size) ──fill──▶ (number, offset, size) in a message ──▶ Mappings.lease(number) ──▶ views
         ▲                                                                        │ the last view is gone
         └──────────────── give_back(number) ◀── in the next message ◀── released()

A segment is an anonymous file, passed along with the first message that speaks of it; its number is its name from then
on. It is leased once at a time: whoever reads it has it until nothing refers to the lease any more.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import Any, Final

SEGMENT_BYTES_MIN: Final = 1 << 16
IDLE_BYTES_MAX: Final = 1 << 26
"""Of segments that wait to be filled again; beyond that they are given back to the system."""


class Segment:
    """Some shared memory of the process that made it."""

    __slots__ = ("fd", "memory", "number", "size")

    def __init__(self, number: int, size: int) -> None:
        """Raises OSError or MemoryError where there is no room."""
        self.number = number
        self.size = size
        self.fd = os.memfd_create(f"despina_{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        """Until the other side has it."""
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self.memory = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        fd = self.take_fd()
        if fd >= 0:
            os.close(fd)
        with suppress(BufferError):  # somebody fills it just now: the system takes it when that is over
            self.memory.close()

    def take_fd(self) -> int:
        """The file, for whoever sends it and closes it then; -1 if it has been taken."""
        fd, self.fd = self.fd, -1
        return fd


class SegmentPool:
    """The segments that this process fills. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[int, list[Segment]] = {}
        """By size."""
        self._idle_bytes = 0
        self._busy: dict[int, Segment] = {}
        self._last = 0

    @property
    def byte_size(self) -> int:
        """Of all there are."""
        with self._lock:
            return self._idle_bytes + sum(segment.size for segment in self._busy.values())

    def take(self, size: int) -> Segment:
        """One of at least that size. Raises OSError or MemoryError where there is no room."""
        rounded = SEGMENT_BYTES_MIN
        while rounded < size:
            rounded *= 2
        with self._lock:
            idle = self._idle.get(rounded)
            if idle:
                segment = idle.pop()
                self._idle_bytes -= rounded
            else:
                self._last += 1
                segment = Segment(self._last, rounded)
            self._busy[segment.number] = segment
            return segment

    def give_back(self, numbers: list[int]) -> list[int]:
        """The other side has done with these. Returns those that are gone: it is to forget them.

        Raises KeyError for one that it did not have.
        """
        gone = []
        with self._lock:
            for number in numbers:
                segment = self._busy.pop(number)
                if self._idle_bytes + segment.size > IDLE_BYTES_MAX:
                    segment.close()
                    gone.append(number)
                else:
                    self._idle.setdefault(segment.size, []).append(segment)
                    self._idle_bytes += segment.size
        return gone

    def close(self) -> None:
        """The other side is gone, or will be."""
        with self._lock:
            segments = [*self._busy.values(), *(segment for idle in self._idle.values() for segment in idle)]
            self._busy.clear()
            self._idle.clear()
            self._idle_bytes = 0
        for segment in segments:
            segment.close()


class Mappings:
    """The segments that the other process fills, as this one sees them. Leases may end on any thread."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._leases: dict[int, weakref.ref[Any]] = {}
        self._released: deque[int] = deque()

    def add(self, number: int, fd: int) -> None:
        """Takes over the file of a new one. Raises OSError or ValueError where it cannot be mapped, or could shrink:
        reading what is not there any more would end this process."""
        try:
            if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError("a segment that is not sealed")
            self._maps[number] = mmap.mmap(fd, 0)
        finally:
            os.close(fd)

    def forget(self, number: int) -> None:
        """Its owner does not use it any more. What still refers to it keeps it alive."""
        self._maps.pop(number, None)

    def lease(self, number: int) -> memoryview:
        """All of it, writable. `released` has its number once neither this nor any view of it is referred to."""
        memory = self._maps[number]
        whole = (ctypes.c_char * len(memory)).from_buffer(memory)
        self._leases[number] = weakref.ref(whole, lambda _: self._release(number))
        return memoryview(whole).cast("B")

    def released(self) -> list[int]:
        """Those whose leases have ended since the last call."""
        numbers = []
        while self._released:
            numbers.append(self._released.popleft())
        return numbers

    def close(self) -> None:
        """Leases stay good until their ends."""
        self._maps.clear()

    def _release(self, number: int) -> None:
        self._leases.pop(number, None)
        self._released.append(number)
