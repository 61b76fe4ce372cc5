"""The priority levels of a queue: those in use. How many a configuration allows costs nothing, and of those in use only
their number's logarithm.

Levels are served strictly in order, lowest number first; within a level first come, first served, unless another order
is asked for (order.py), and what was delayed by its timeout comes after what was not. A job that has left stays in its
level as a tombstone until it comes to the front.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING

from ..request.job import JobState
from .lines import ArrivalLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..request.job import Job
    from .lines import Line

EMPTY_MAX = 16
"""While so few levels are in use, one that has become empty stays: who comes next is likely to be of the same."""


class Level:
    """One priority level: its jobs and its bound."""

    __slots__ = ("delayed", "jobs", "live", "number", "size_max")

    def __init__(self, number: int, size_max: int, jobs: Line) -> None:
        self.number = number
        self.jobs = jobs
        self.delayed = ArrivalLine()
        self.live = 0
        self.size_max = size_max
        """0 for the engine's bound only."""

    def sweep(self) -> None:
        """Drops tombstones."""
        self.jobs.sweep()
        self.delayed.sweep()

    def __len__(self) -> int:
        """Tombstones included."""
        return len(self.jobs) + len(self.delayed)


class Levels:
    """By number, 0 the first to be served. The first one is always there."""

    def __init__(self, size_max_of: Callable[[int], int], line: Callable[[], Line] = ArrivalLine) -> None:
        self.first = Level(0, size_max_of(0), line())
        self.tombstones = 0
        """Over all levels in use."""
        self.newest_first = False
        """Within a level, for the time being."""
        self._line = line
        self._size_max_of = size_max_of
        self._numbers: list[int] = []
        """A heap: of the levels in use but the first."""
        self._by_number = {0: self.first}

    @property
    def in_use(self) -> list[Level]:
        """Ascending: the first, and those that had jobs when they were last looked at."""
        return [self._by_number[number] for number in sorted(self._by_number)]

    def at(self, number: int) -> Level:
        """The level of that number, made if it is not in use."""
        level = self._by_number.get(number)
        if level is None:
            numbers = self._numbers
            while len(numbers) > EMPTY_MAX and not (top := self._by_number[numbers[0]]).live:
                self._drop(top)  # or ever more urgent requests would leave a level each behind
            level = self._by_number[number] = Level(number, self._size_max_of(number), self._line())
            heappush(numbers, number)
        return level

    def next(self) -> Level | None:
        """The first level with a job that waits; levels before it that are empty go, with their tombstones."""
        first = self.first
        if first.live:
            return first
        numbers = self._numbers
        while numbers:
            level = self._by_number[numbers[0]]
            if level.live:
                return level
            self._drop(level)
        return None

    def clear(self) -> None:
        """Forgets all jobs."""
        first = self.first
        first.jobs.clear()
        first.delayed.clear()
        first.live = 0
        self._numbers.clear()
        self._by_number = {0: first}
        self.tombstones = 0

    def sweep(self) -> None:
        """Drops tombstones, and the levels that had nothing else."""
        for level in self._by_number.values():
            level.sweep()
        self._by_number = {
            number: level for number, level in self._by_number.items() if level.live or level is self.first
        }
        self._numbers = [number for number in self._by_number if number]
        heapify(self._numbers)
        self.tombstones = 0

    def waiting(self) -> Iterator[Job]:
        """Every job that waits, in serving order. Costs what is looked at, not what there is."""
        for level in self._ascending() if self._numbers else (self.first,):
            for job in chain(level.jobs.in_order(self.newest_first), level.delayed.in_order(self.newest_first)):
                if job.state is JobState.QUEUED:
                    yield job

    def _ascending(self) -> Iterator[Level]:
        yield self.first
        numbers = self._numbers
        # Down the heap: a number's followers may come as soon as it has gone.
        ahead = [(numbers[0], 0)]
        while ahead:
            number, place = heappop(ahead)
            for follower in (2 * place + 1, 2 * place + 2):
                if follower < len(numbers):
                    heappush(ahead, (numbers[follower], follower))
            yield self._by_number[number]

    def _drop(self, level: Level) -> None:
        """The lowest number's level."""
        heappop(self._numbers)
        del self._by_number[level.number]
        self.tombstones -= len(level)
