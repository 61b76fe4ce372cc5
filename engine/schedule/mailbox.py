"""The queue of one model version: the only object that the trio thread and the instances' threads both touch.

Rules:
1. Every move of a job out of QUEUED happens here, under the one lock, so exactly one of take, cancel and expire wins.
2. Levels are served strictly in order, lowest number first; within a level first come, first served, and what was
   delayed by its timeout comes after what was not.
3. A job that left stays in its deque as a tombstone until it comes to the front or tombstones outnumber the living.
4. An instance that finds nothing to take is put on the idle list in the same breath, so no arrival can be missed.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING

from ...schema.fault import QueueFull
from ..port.backend import Batch
from ..request.job import Job, JobState
from .batching import form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..execute.instance import Instance
    from .batching import BatchRule

_ROWS = attrgetter("batch_size")
_KEY = attrgetter("key")

TOMBSTONES_MIN = 64
"""Fewer are not worth a sweep."""


class Level:
    """One priority level: its jobs and its bound."""

    __slots__ = ("delayed", "jobs", "live", "size_max")

    def __init__(self, size_max: int) -> None:
        self.jobs: deque[Job] = deque()
        self.delayed: deque[Job] = deque()
        self.live = 0
        self.size_max = size_max
        """0 for the engine's bound only."""


class Mailbox:
    """`put` and `leave` are for the trio thread, `take` for the thread that will execute. None blocks for long."""

    def __init__(
        self, rule: BatchRule, size_max_by_level: list[int], size_max: int, clock: Callable[[], float]
    ) -> None:
        self.lock = threading.Lock()
        self.rule = rule
        self.levels = [Level(size) for size in size_max_by_level]
        self.size_max = size_max
        self.live = 0
        self.tombstones = 0
        self.clock = clock
        self.idle: list[Instance] = []
        self.batching = rule.rows_max > 1
        self.eager = self.batching and rule.delay_s == 0 and len(self.levels) == 1
        """Batches are formed from what waits, in order of arrival."""
        self.greedy = rule.preferred in ((), (rule.rows_max,))
        """No smaller size is preferred to what waits."""
        self.deadlines = False
        """A job that waits may have a deadline of its caller's."""
        self.ordered: deque[Job] | None = None
        """With preserve_ordering: the jobs taken and not yet delivered, in the order they were taken."""

    def put(self, job: Job) -> Instance | None:
        """Queues the job. Returns an idle instance to start, now the caller's, or None. Raises QueueFull."""
        level = self.levels[job.level]
        with self.lock:
            if (level.size_max and level.live >= level.size_max) or self.live >= self.size_max:
                job.state = JobState.REJECTED  # its timers may be running already; they must find it over
                raise QueueFull(f"{job.request.log_prefix()}Exceeds maximum queue size")
            if job.deadline:
                self.deadlines = True
            level.jobs.append(job)
            level.live += 1
            self.live += 1
            return self.idle.pop() if self.idle else None

    def claim(self) -> Instance | None:
        """An idle instance for a job that need not queue, now the caller's; None while anything waits.

        Without the lock, as `rest`: jobs come and idle instances go on the trio thread only.
        """
        return self.idle.pop() if self.idle and not self.live else None

    def rest(self, instance: Instance) -> bool:
        """Puts a claimed instance back on the idle list. False, and it is still the caller's, if something waits."""
        if self.live:
            return False
        self.idle.append(instance)
        return True

    def leave(self, job: Job, state: JobState) -> bool:
        """Takes a queued job out. False if it was no longer queued: somebody else has won."""
        with self.lock:
            if job.state is not JobState.QUEUED:
                return False
            job.state = state
            self._forget(job)
            return True

    def delay(self, job: Job) -> bool:
        """Moves a queued job behind all unexpired ones of its level. False if it was no longer queued."""
        level = self.levels[job.level]
        with self.lock:
            if job.state is not JobState.QUEUED or job not in level.jobs:
                return False
            level.jobs.remove(job)
            level.delayed.append(job)
            return True

    def drain(self, state: JobState) -> list[Job]:
        """Takes everything out at once."""
        with self.lock:
            jobs = list(self._waiting())
            for job in jobs:
                job.state = state
            for level in self.levels:
                level.jobs.clear()
                level.delayed.clear()
                level.live = 0
            self.live = self.tombstones = 0
        return jobs

    def wake(self) -> Instance | None:
        """An idle instance to start although nothing arrived (a delay has passed), or None."""
        with self.lock:
            return self.idle.pop() if self.idle and self.live else None

    def take(self, instance: Instance, cost_s: float) -> tuple[Batch | None, list[Job], float]:
        """The next batch for `instance`, the jobs found too late to finish, and when to look again (0 for never).

        Without a batch the instance is idle from here on and must not execute until it is started again.
        `cost_s` is what an execution is known to cost: a job whose caller's deadline falls inside it is given up now.
        """
        late: list[Job] = []
        with self.lock:
            if self.eager and not self.tombstones and not self.deadlines and not self.levels[0].delayed:
                batch = self._take_front()
                if batch is None:
                    self.idle.append(instance)
                return batch, late, 0.0
            now = self.clock()
            if not self.batching:
                job = self._pop(now + cost_s, late)
                if job is None:
                    self.idle.append(instance)
                    return None, late, 0.0
                self._taken(job)
                return Batch([job], job.batch_size, "single"), late, 0.0
            first = next(self._waiting(), None)
            if first is None:
                self.deadlines = False
                self.idle.append(instance)
                return None, late, 0.0
            oldest = self._oldest(first)
            due = oldest + self.rule.delay_s
            # Compared as points in time: a difference may round to just below the delay when it has just passed.
            age_s = self.rule.delay_s if now >= due else now - oldest
            verdict = form(islice(self._waiting(), self.rule.rows_max + 1), self.rule, age_s)
            if verdict.count == 0:
                self.idle.append(instance)
                return None, late, due
            jobs: list[Job] = []
            rows = 0
            for _ in range(verdict.count):
                job = self._pop(now + cost_s, late)
                if job is None:
                    break
                if jobs and (rows + job.batch_size > self.rule.rows_max or job.key != jobs[0].key):
                    # A late one left the batch and a stranger came up in its place: it goes first next time.
                    self.levels[job.level].jobs.appendleft(job)
                    self.levels[job.level].live += 1
                    self.live += 1
                    break
                jobs.append(job)
                rows += job.batch_size
            for job in jobs:
                self._taken(job)
            if not jobs:
                # All were late. Somebody may still wait behind them: look again at once.
                self.idle.append(instance)
                return None, late, now if self.live else 0.0
            return Batch(jobs, rows, verdict.reason), late, 0.0

    # Below: the lock is held.

    def _take_front(self) -> Batch | None:
        """What `form` and `_pop` come to where nobody has left, is late, urgent or delayed, and nothing waits."""
        level = self.levels[0]
        waiting = level.jobs
        if not waiting:
            return None
        count = len(waiting)
        rows_max = self.rule.rows_max
        if (
            count <= rows_max
            and self.greedy
            and (rows := sum(map(_ROWS, waiting))) <= rows_max
            and len(set(map(_KEY, waiting))) == 1
        ):
            jobs = list(waiting)  # all of them fit, as is usual
            waiting.clear()
            reason = "full" if rows == rows_max else "eager"
        else:
            verdict = form(waiting, self.rule, 0.0)
            count, rows, reason = verdict.count, verdict.rows, verdict.reason
            jobs = [waiting.popleft() for _ in range(count)]
        executing = JobState.EXECUTING
        for job in jobs:
            job.state = executing
        level.live -= count
        self.live -= count
        if self.ordered is not None:
            self.ordered.extend(jobs)
        return Batch(jobs, rows, reason)

    def _waiting(self) -> Iterator[Job]:
        for level in self.levels:
            for job in chain(level.jobs, level.delayed):
                if job.state is JobState.QUEUED:
                    yield job

    def _oldest(self, first: Job) -> float:
        """When the oldest job that the next batch could hold arrived: behind urgent ones it is not the first."""
        if not self.rule.delay_s or (len(self.levels) == 1 and not self.levels[0].delayed):
            return first.queued_at
        return min(job.queued_at for job in islice(self._waiting(), self.rule.rows_max))

    def _pop(self, finish_at: float, late: list[Job]) -> Job | None:
        """The next job in serving order, still QUEUED but no longer in the queue."""
        for level in self.levels:
            while level.live:
                source = level.jobs or level.delayed
                job = source.popleft()
                if job.state is not JobState.QUEUED:
                    self.tombstones -= 1
                    continue
                level.live -= 1
                self.live -= 1
                if job.deadline and finish_at > job.deadline:
                    job.state = JobState.REJECTED
                    late.append(job)
                    continue
                return job
        return None

    def _taken(self, job: Job) -> None:
        job.state = JobState.EXECUTING
        if self.ordered is not None:
            self.ordered.append(job)

    def _forget(self, job: Job) -> None:
        self.levels[job.level].live -= 1
        self.live -= 1
        self.tombstones += 1
        if self.tombstones > TOMBSTONES_MIN and self.tombstones > self.live:
            for level in self.levels:
                level.jobs = deque(job for job in level.jobs if job.state is JobState.QUEUED)
                level.delayed = deque(job for job in level.delayed if job.state is JobState.QUEUED)
            self.tombstones = 0
