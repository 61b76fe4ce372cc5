"""The priority levels of a queue: those in use. How many a configuration allows costs nothing.

Levels are served strictly in order, lowest number first; within a level first come, first served, and what was delayed
by its timeout comes after what was not. A job that left stays in its level as a tombstone until it comes to the front.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from ..request.job import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..request.job import Job


class Level:
    """One priority level: its jobs and its bound."""

    __slots__ = ("delayed", "jobs", "live", "number", "size_max")

    def __init__(self, number: int, size_max: int) -> None:
        self.number = number
        self.jobs: deque[Job] = deque()
        self.delayed: deque[Job] = deque()
        self.live = 0
        self.size_max = size_max
        """0 for the engine's bound only."""

    def sweep(self) -> None:
        """Drops tombstones."""
        self.jobs = deque(job for job in self.jobs if job.state is JobState.QUEUED)
        self.delayed = deque(job for job in self.delayed if job.state is JobState.QUEUED)

    def __len__(self) -> int:
        """Tombstones included."""
        return len(self.jobs) + len(self.delayed)


class Levels:
    """By number, 0 the first to be served. The first one is always there."""

    def __init__(self, size_max_of: Callable[[int], int]) -> None:
        self.first = Level(0, size_max_of(0))
        self.in_use = [self.first]
        """Ascending: the first, and those that had jobs when they were last looked at."""
        self.tombstones = 0
        """Over all levels in use."""
        self._size_max_of = size_max_of
        self._by_number = {0: self.first}

    def at(self, number: int) -> Level:
        """The level of that number, made if it is not in use."""
        level = self._by_number.get(number)
        if level is None:
            level = self._by_number[number] = Level(number, self._size_max_of(number))
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
            for job in chain(level.jobs, level.delayed):
                if job.state is JobState.QUEUED:
                    yield job
