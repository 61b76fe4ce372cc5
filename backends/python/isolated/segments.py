"""Shared memory between two processes: one fills a segment, the other reads it, then the first may fill it again.

    SegmentPool.take(size) ──fill──▶ (number, offset, size) in a message ──▶ Mappings.lease(number) ──▶ views
         ▲                                                                        │ the last view is gone
         └──────────────── returned(number) ◀── in the next message ◀── released()

A segment is an anonymous file, passed along with the first message that speaks of it; its number is its name from then
on. It is leased once at a time: whoever reads it has it until nothing refers to the lease any more.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from ..memory import Room

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....schema.tensor import Buffer

SEGMENT_BYTES_MIN: Final = 1 << 16
FINE_BYTES_MIN: Final = 1 << 20
RELEASE_BYTES_MIN: Final = 1 << 18
IDLE_BYTES_MAX: Final = 1 << 26
"""Of segments that wait to be filled again, or what two of the largest need; beyond that they are given back to the
system, and after a while of quiet they are beyond this alone."""
QUIET_S: Final = 10.0
SHOWN_MAX: Final = 60
"""Files of one kind that go with one message."""
ARRAYS_MAX: Final = SHOWN_MAX
"""Segments up to which arrays have some of their own: each takes descriptors, here two at first, and models may keep
what they have made, a batch may have hundreds, and callers may be slow."""
PIECE_BYTES: Final = 1 << 20
"""Given back in one step, which takes a fraction of a millisecond."""


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
            self.memory = Room(self.fd, size)
            self.memory.number = number
        except BaseException:
            os.close(self.fd)
            raise

    def close_file(self) -> None:
        fd = self.take_fd()
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """There is no array made by `array_like`: those do not hold the memory."""
        self.close_file()
        with suppress(BufferError):  # somebody fills it just now: the system takes it when that is over
            self.memory.close()

    def discard(self, pause_s: float = 0.0) -> None:
        """As `close`, where neither side needs what is in it: its memory is given back in pieces, with pauses between.
        All at once it takes 12 ms for 64 MiB, in which the interpreter is not let go of; and as much again on the
        other side, whoever is the last."""
        with suppress(OSError, ValueError):  # where that cannot be done it goes all at once
            for start in range(0, self.size, PIECE_BYTES):
                self.memory.madvise(mmap.MADV_REMOVE, start, min(PIECE_BYTES, self.size - start))
                if pause_s:
                    time.sleep(pause_s)
        self.close()

    def fill(self, start: int, data: Buffer) -> None:
        """Copies it there. Much of it without the interpreter: others go on meanwhile."""
        if len(data) < RELEASE_BYTES_MIN:
            self.memory[start : start + len(data)] = data
        else:
            there = np.frombuffer(self.memory, np.uint8, len(data), start)
            np.copyto(there, np.frombuffer(data, np.uint8))

    def take_fd(self) -> int:
        """The file, for whoever sends it and closes it then; -1 if it has been taken."""
        fd, self.fd = self.fd, -1
        return fd


class SegmentPool:
    """The segments that this process fills. For any thread; who reads what the other side has returned waits for
    nobody."""

    def __init__(self, discard: Callable[[Segment], None] = Segment.discard, gone: deque[int] | None = None) -> None:
        """`discard` is given those that are not needed any more, `gone` their numbers: the other side is to forget
        them."""
        self._discard = discard
        self._gone: deque[int] = deque() if gone is None else gone
        self.byte_size = 0
        """Of all there are."""
        self._lock = threading.RLock()
        self._idle: list[Segment] = []
        """The one that was used last is the last."""
        self._idle_bytes = 0
        self._busy: dict[int, Segment] = {}
        self._arrays: dict[int, weakref.ref[np.ndarray]] = {}
        """Those that have a busy segment here."""
        self._ended: deque[int] = deque()
        """Of them, those that are no more."""
        self._lent: set[int] = set()
        """Segments of arrays that the other side has."""
        self._returned: deque[int] = deque()
        """What the other side has done with, and is busy here still."""
        self._last = 0
        self._largest = self._largest_before = 0
        """What was taken together in the last QUIET_S, and in those before."""
        self._together = 0
        self._counted_since = 0.0

    def take(self, size: int) -> Segment:
        """One of at least that size. Raises OSError or MemoryError where there is no room."""
        with self._lock:
            now = time.monotonic()
            if now - self._counted_since > QUIET_S:
                self._counted_since = now
                self._largest, self._largest_before = 0, self._largest
            self._settle()
            idle = self._idle
            if idle and _fits(idle[-1], size):
                segment = idle.pop()
                self._idle_bytes -= segment.size
            elif (found := min((one for one in idle if _fits(one, size)), key=_size, default=None)) is not None:
                segment = found
                idle.remove(segment)
                self._idle_bytes -= segment.size
            else:
                self._last += 1
                segment = Segment(self._last, rounded(size))
                self.byte_size += segment.size
            self._together += segment.size
            self._largest = max(self._largest, self._together)
            self._busy[segment.number] = segment
            return segment

    def placed(self) -> None:
        """What was taken until now goes to the other side together."""
        self._together = 0

    def settle(self) -> None:
        """What was returned, or let go of, may be filled again."""
        if self._returned or self._ended:
            with self._lock:
                self._settle()

    def array_like(self, other: np.ndarray) -> np.ndarray | None:
        """One in a segment of its own, uninitialized, which is busy while the array is there, and while it is lent.
        None where there are ARRAYS_MAX segments already. Raises OSError or MemoryError where there is no room."""
        with self._lock:
            self._settle()
            if len(self._busy) >= ARRAYS_MAX or (
                len(self._busy) + len(self._idle) >= ARRAYS_MAX
                and not any(_fits(one, other.nbytes) for one in self._idle)
            ):
                return None
        segment = self.take(other.nbytes)
        array = np.ndarray(other.shape, other.dtype, segment.memory)
        with self._lock:
            self._arrays[segment.number] = weakref.ref(array, partial(self._end, segment.number))
        return array

    def lendable(self, part: Buffer) -> Segment | None:
        """The segment whose array these bytes are, if the other side does not have it."""
        if type(part) is not memoryview:
            return None
        array: object = part.obj
        if not isinstance(array, np.ndarray) or len(part) != array.nbytes:
            return None
        room: object = array.base
        if not isinstance(room, Room):
            return None
        number = room.number
        with self._lock:
            known = self._arrays.get(number)
            return self._busy[number] if known is not None and known() is array and number not in self._lent else None

    def lend(self, number: int) -> None:
        """The other side has that array's until it gives it back."""
        with self._lock:
            self._lent.add(number)

    def _end(self, number: int, _: object) -> None:
        self._ended.append(number)  # maybe from within garbage collection, under the lock

    def returned(self, numbers: list[int]) -> None:
        """The other side has done with these: they are used again from the next message on. Waits for nobody. Raises
        KeyError for one that it did not have."""
        for number in numbers:
            if number not in self._busy:
                raise KeyError(number)
            self._returned.append(number)

    def _settle(self) -> None:
        while self._returned:
            number = self._returned.popleft()
            self._lent.discard(number)
            if number not in self._arrays:
                self._put_by(number)
        while self._ended:
            number = self._ended.popleft()
            self._arrays.pop(number, None)
            if number not in self._lent:
                self._put_by(number)
        if self._idle_bytes > IDLE_BYTES_MAX:
            # What large batches go back and forth in is made once: new memory costs more than what is put there.
            self._drop(max(IDLE_BYTES_MAX, 2 * max(self._largest, self._largest_before)))

    def _put_by(self, number: int) -> None:
        segment = self._busy.pop(number, None)
        if segment is not None:  # it was not returned twice, and the pool is not closed
            self._idle.append(segment)
            self._idle_bytes += segment.size

    def tidy(self) -> None:
        """Nothing was taken for QUIET_S."""
        with self._lock:
            self._settle()
            self._drop(IDLE_BYTES_MAX)

    def _drop(self, bytes_max: int) -> None:
        while self._idle_bytes > bytes_max:
            segment = self._idle.pop(0)
            self._idle_bytes -= segment.size
            self.byte_size -= segment.size
            self._gone.append(segment.number)
            self._discard(segment)

    def close(self) -> None:
        """The other side is gone, or will be."""
        with self._lock:
            self._settle()
            busy, idle = [*self._busy.values()], [*self._idle]
            arrays = {*self._arrays}
            self._busy.clear()
            self._idle.clear()
            self._idle_bytes = self.byte_size = 0
        for segment in busy:
            if segment.number in arrays:  # which keeps its memory
                segment.close_file()
            else:
                segment.close()
        for segment in idle:
            self._discard(segment)


def rounded(size: int) -> int:
    """The size of a segment for so much: powers of two, and quarters of them where much would be wasted."""
    whole = SEGMENT_BYTES_MIN
    while whole < size:
        whole *= 2
    step = whole // 8
    return whole if whole <= FINE_BYTES_MIN else -(-size // step) * step


def address_of(array: np.ndarray) -> int:
    """Of its first byte."""
    address: int = array.__array_interface__["data"][0]
    return address


def _size(segment: Segment) -> int:
    return segment.size


def _fits(segment: Segment, size: int) -> bool:
    return size <= segment.size <= 4 * max(size, SEGMENT_BYTES_MIN)


class Mappings:
    """The segments that the other process fills, as this one sees them. Leases may end on any thread."""

    def __init__(self) -> None:
        self.byte_size = 0
        """Of all that are known."""
        self._maps: dict[int, mmap.mmap] = {}
        self._leases: dict[int, weakref.ref[np.ndarray]] = {}
        """Of the arrays that all views of a segment refer to."""
        self._received: dict[int, tuple[int, int]] = {}
        """Of the server's own buffers that are leased: from which address to which."""
        self._released: deque[int] = deque()

    def add(self, number: int, fd: int) -> None:
        """Takes over the file of a new one. Raises OSError or ValueError where it cannot be mapped, or could shrink:
        reading what is not there any more would end this process."""
        try:
            if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError("a segment that is not sealed")
            self._maps[number] = memory = mmap.mmap(fd, 0)
            self.byte_size += len(memory)
        finally:
            os.close(fd)

    def knows(self, number: int) -> bool:
        return number in self._maps

    def forget(self, number: int) -> None:
        """Its owner does not use it any more. What still refers to it keeps it alive."""
        memory = self._maps.pop(number, None)
        if memory is not None:
            self.byte_size -= len(memory)

    def lease(self, number: int) -> memoryview:
        """All of it, writable. `released` has its number once neither this nor any view of it is referred to."""
        whole = np.frombuffer(self._maps[number], np.uint8)
        self._leases[number] = weakref.ref(whole, partial(self._release, number))
        if number < 0:
            address = address_of(whole)
            self._received[number] = address, address + len(whole)
        return whole.data

    def whereabouts(self, part: Buffer) -> tuple[int, int] | None:
        """The server's buffer that these bytes are in, and where, if they are in one that is leased."""
        if self._received and part:
            address = address_of(np.frombuffer(part, np.uint8))
            for number, (start, stop) in [*self._received.items()]:
                if start <= address and address + len(part) <= stop:
                    return number, address - start
        return None

    @property
    def has_released(self) -> bool:
        return bool(self._released)

    def released(self) -> list[int]:
        """Those whose leases have ended since the last call."""
        numbers: list[int] = []
        while self._released:
            numbers.append(self._released.popleft())
        return numbers

    def close(self) -> None:
        """Leases stay good until their ends."""
        self._maps.clear()

    def keep_released(self, numbers: list[int]) -> None:
        """They could not be told of: `released` has them again."""
        self._released.extendleft(reversed(numbers))

    def _release(self, number: int, _: object) -> None:
        self._leases.pop(number, None)
        self._received.pop(number, None)
        self._released.append(number)
