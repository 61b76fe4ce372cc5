"""The priority levels of a queue: those in use. How many a configuration allows costs nothing.

Levels are served strictly in order, lowest number first; within a level first come, first served, unless another order
is asked for (order.py), and what was delayed by its timeout comes after what was not. A job that has left stays in its
level as a tombstone until it comes to the front.
"""

from __future__ import annotations

from bisect import insort
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from ..request.job import JobState
from .lines import ArrivalLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..request.job import Job
    from .lines import Line


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
        self.in_use = [self.first]
        """Ascending: the first, and those that had jobs when they were last looked at."""
        self.tombstones = 0
        """Over all levels in use."""
        self.newest_first = False
        """Within a level, for the time being."""
        self._line = line
        self._size_max_of = size_max_of
        self._by_number = {0: self.first}

    def at(self, number: int) -> Level:
        """The level of that number, made if it is not in use."""
        level = self._by_number.get(number)
        if level is None:
            level = self._by_number[number] = Level(number, self._size_max_of(number), self._line())
            insort(self.in_use, level, key=attrgetter("number"))
        return level

    def next(self) -> Level | None:
        """The first level with a job that waits; levels before it that are empty go, with their tombstones."""
        first = self.first
        if first.live:
            return first
        in_use = self.in_use
        while len(in_use) > 1:
            level = in_use[1]
            if level.live:
                return level
            self.tombstones -= len(level)
            del in_use[1]
            del self._by_number[level.number]
        return None

    def sweep(self) -> None:
        """Drops tombstones, and the levels that had nothing else."""
        for level in self.in_use:
            level.sweep()
        self.in_use = [level for level in self.in_use if level.live or level is self.first]
        self._by_number = {level.number: level for level in self.in_use}
        self.tombstones = 0

    def waiting(self) -> Iterator[Job]:
        """Every job that waits, in serving order."""
        for level in self.in_use:
            for job in chain(level.jobs.in_order(self.newest_first), level.delayed.in_order(self.newest_first)):
                if job.state is JobState.QUEUED:
                    yield job
