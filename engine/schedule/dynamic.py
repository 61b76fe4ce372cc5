"""The dynamic batcher: the queue of one model version, and the batches that are formed of it.

The only object that the trio thread and the instances' threads both touch. Rules:
1. Every move of a job out of QUEUED happens here, under the one lock, so exactly one of take, cancel and expire wins.
2. Which jobs come next is levels.py's, lines.py's and standing.py's; how many of them share a batch is batching.py's,
   a pure decision.
3. A job that left stays in its deque as a tombstone until it comes to the front or tombstones outnumber the living.
4. An instance that finds nothing to take is put on the idle list in the same breath, so no arrival can be missed.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from ...schema.fault import QueueFull
from ..port.mutex import Mutex
from ..request.batch import Batch
from ..request.job import JobState, move
from .batching import form
from .levels import Levels
from .order import ARRIVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..port.work import Instance
    from ..request.job import Job
    from .batching import BatchRule
    from .order import QueueOrder
    from .standing import StandingQueue


TOMBSTONES_MIN = 64
"""Fewer are not worth a sweep."""


class DynamicBatcher:
    """See scheduler.py, which says what each method promises."""

    def __init__(
        self,
        rule: BatchRule,
        size_max: int,
        clock: Callable[[], float],
        *,
        prioritised: bool = False,
        size_max_of: Callable[[int], int] = lambda _: 0,
        ordered: bool = False,
        batch_type: type[Batch] = Batch,
        order: QueueOrder = ARRIVAL,
    ) -> None:
        """`prioritised`: there is more than one level. `size_max_of` says a level's own bound, 0 for none. `ordered`:
        note the order in which jobs are taken. `order` is the one within a level."""
        self.lock = Mutex()
        self.rule = rule
        self.levels = Levels(size_max_of, order.line)
        self.size_max = size_max
        self.live = 0
        self.clock = clock
        self.idle: list[Instance] = []
        self.joins = rule.rows_max > 1
        self.prioritised = prioritised
        self.order = order
        self.standing = order.standing(rule.delay_s)
        """Where a queue that stands is served in another order."""
        self.eager = self.joins and rule.delay_s == 0 and not prioritised and order.is_of_arrival
        """Batches are formed from what waits, in order of arrival."""
        self.greedy = rule.preferred in ((), (rule.rows_max,)) and rule.bounds is None
        """No smaller size is preferred to what waits, and rows are all that bounds it."""
        self.deadlines = False
        """A job that waits may have a deadline of its caller's."""
        self.ordered: deque[Job] | None = deque() if ordered else None
        """The jobs taken and not yet told, in the order they were taken."""
        self._batch_type = batch_type
        is_plain = order.is_of_arrival and self.standing is None and batch_type is Batch
        self._goes_ahead = is_plain and not (self.joins or prioritised or ordered)

    @property
    def forms_anew(self) -> bool:
        return self.rule.delay_s > 0

    @property
    def ahead(self) -> DynamicBatcher | None:
        return self if self._goes_ahead else None

    def put(self, job: Job) -> Instance | None:
        with self.lock:
            level = self.levels.at(job.level) if job.level else self.levels.first
            if (level.size_max and level.live >= level.size_max) or self.live >= self.size_max:
                move((job,), JobState.REJECTED)  # its timers may be running already; they must find it over
                raise QueueFull(f"{job.request.log_prefix()}Exceeds maximum queue size")
            if job.deadline:
                self.deadlines = True
            level.jobs.append(job)
            level.live += 1
            self.live += 1
            return self.idle.pop() if self.idle else None

    def put_all(self, jobs: list[Job]) -> tuple[int, list[Instance]]:
        with self.lock:
            level = self.levels.first
            room = self.size_max - self.live
            if level.size_max:
                room = min(room, level.size_max - level.live)
            count = max(0, min(len(jobs), room))
            for job in jobs if count == len(jobs) else jobs[:count]:
                level.jobs.append(job)
            level.live += count
            self.live += count
            return count, [self.idle.pop() for _ in range(min(count, len(self.idle)))]

    def claim(self) -> Instance | None:
        # Without the lock, as `rest`: jobs come and idle instances go on the trio thread only.
        return self.idle.pop() if self.idle and not self.live else None

    def rest(self, instance: Instance) -> bool:
        if self.live:
            return False
        self.deadlines = False
        self.idle.append(instance)
        return True

    def rest_if_idle(self, instance: Instance) -> float | None:
        with self.lock:
            if self.live:
                return None
            self.idle.append(instance)
            return 0.0

    def order_idle(self, rank: Callable[[Instance], int]) -> None:
        with self.lock:
            self.idle.sort(key=rank, reverse=True)

    def withdraw(self, instance: Instance) -> None:
        with self.lock:
            if instance in self.idle:
                self.idle.remove(instance)

    def leave(self, job: Job, state: JobState) -> bool:
        with self.lock:
            if job.state is not JobState.QUEUED:
                return False
            move((job,), state)
            self._forget(job)
            return True

    def delay(self, job: Job) -> bool:
        with self.lock:
            if job.state is not JobState.QUEUED:
                return False
            level = self.levels.at(job.level)
            if job not in level.jobs:
                return False
            level.jobs.remove(job)
            level.delayed.append(job)
            return True

    def drain(self, state: JobState) -> list[Job]:
        with self.lock:
            jobs = list(self.levels.waiting())
            move(jobs, state)
            self.levels.clear()
            self.live = 0
        return jobs

    def oldest_ns(self) -> int:
        with self.lock:
            first = next(self.levels.waiting(), None)
            return 0 if first is None else first.received_ns

    def wake(self) -> Instance | None:
        with self.lock:
            return self.idle.pop() if self.idle and self.live else None

    def take(self, instance: Instance, cost_s: float) -> tuple[Batch | None, list[Job], float]:
        late: list[Job] = []
        with self.lock:
            if self.eager and not self.levels.tombstones and not self.deadlines and not self.levels.first.delayed:
                batch = self._take_front()
                if batch is None:
                    self.idle.append(instance)
                return batch, late, 0.0
            now = self.clock()
            if self.standing is not None:
                self.standing.cost_s = cost_s
            if not self.joins:
                job = self._pop(now + cost_s, late)
                if job is None:
                    self.idle.append(instance)
                    return None, late, 0.0
                return self._taken([job], job.batch_size, "single"), late, 0.0
            first = next(self.levels.waiting(), None)
            if first is None:
                self.deadlines = False
                self.idle.append(instance)
                return None, late, 0.0
            oldest = self._oldest(first)
            due = oldest + self.rule.delay_s
            # Compared as points in time: a difference may round to just below the delay when it has just passed.
            age_s = self.rule.delay_s if now >= due else now - oldest
            verdict = form(islice(self.levels.waiting(), self.rule.rows_max + 1), self.rule, age_s)
            if verdict.count == 0:
                self.idle.append(instance)
                return None, late, due
            jobs: list[Job] = []
            rows = 0
            for _ in range(verdict.count):
                job = self._pop(now + cost_s, late)
                if job is None:
                    break
                if jobs and (
                    rows + job.batch_size > self.rule.rows_max
                    or job.key != jobs[0].key
                    or (late and self.rule.bounds is not None)
                ):
                    # A late one left the batch and a stranger came up in its place: it goes first next time.
                    level = self.levels.at(job.level)
                    level.jobs.give_back(job, self.levels.newest_first)
                    level.live += 1
                    self.live += 1
                    break
                jobs.append(job)
                rows += job.batch_size
            if not jobs:
                # All were late. Somebody may still wait behind them: look again at once.
                self.idle.append(instance)
                return None, late, now if self.live else 0.0
            return self._taken(jobs, rows, verdict.reason), late, 0.0

    def take_ahead(self, cost_s: float) -> tuple[Batch | None, list[Job]]:
        late: list[Job] = []
        with self.lock:
            job = self._pop(self.clock() + cost_s, late)
            return None if job is None else self._taken([job], job.batch_size, "single"), late

    def give_back(self, jobs: list[Job]) -> None:
        with self.lock:
            move(jobs, JobState.QUEUED)
            for job in reversed(jobs):
                level = self.levels.at(job.level)
                level.jobs.give_back(job, self.levels.newest_first)
                level.live += 1
                self.live += 1

    # Below: the lock is held.

    def _take_front(self) -> Batch | None:
        """What `form` and `_pop` come to where nobody has left, is late, urgent or delayed, and nothing waits."""
        level = self.levels.first
        waiting = level.jobs
        if not waiting:
            return None
        count = len(waiting)
        rows_max = self.rule.rows_max
        rows = rows_max + 1
        if count <= rows_max and self.greedy:
            rows = _rows_of_one_key(waiting, rows)
        if rows <= rows_max:
            jobs = list(waiting)  # all of them fit, as they mostly do
            waiting.clear()
            reason = "full" if rows == rows_max else "eager"
        else:
            verdict = form(waiting, self.rule, 0.0)
            count, rows, reason = verdict.count, verdict.rows, verdict.reason
            jobs = [waiting.popleft() for _ in range(count)]
        level.live -= count
        self.live -= count
        return self._taken(jobs, rows, reason)

    def _oldest(self, first: Job) -> float:
        """When the oldest job that the next batch could hold arrived: behind urgent ones it is not the first."""
        if not self.rule.delay_s or not (self.prioritised or self.levels.first.delayed or not self.order.is_of_arrival):
            return first.queued_at
        return min(job.queued_at for job in islice(self.levels.waiting(), self.rule.rows_max))

    def _pop(self, finish_at: float, late: list[Job]) -> Job | None:
        """The next job in serving order, still QUEUED but no longer in the queue."""
        while (level := self.levels.next()) is not None:
            line = level.jobs or level.delayed
            job = line.pop() if self.levels.newest_first else line.popleft()
            if job.state is not JobState.QUEUED:
                self.levels.tombstones -= 1
                continue
            level.live -= 1
            self.live -= 1
            if job.deadline and finish_at > job.deadline:
                line.forgive(job)
                move((job,), JobState.REJECTED)
                late.append(job)
                continue
            return job
        return None

    def _taken(self, jobs: list[Job], rows: int, reason: str) -> Batch:
        move(jobs, JobState.EXECUTING)
        if self.ordered is not None:
            self.ordered.extend(jobs)
        if self.standing is not None:
            self._look_whether_it_stands(self.standing, jobs)
        return self._batch_type(jobs, rows, reason)

    def _look_whether_it_stands(self, standing: StandingQueue, jobs: list[Job]) -> None:
        now = self.clock()
        waited_s = min((now - job.queued_at for job in jobs if not job.deadline), default=None)
        standing.took(now, waited_s, self.live)
        self.levels.newest_first = standing.newest_first

    def _forget(self, job: Job) -> None:
        levels = self.levels
        levels.at(job.level).live -= 1
        self.live -= 1
        levels.tombstones += 1
        if levels.tombstones > TOMBSTONES_MIN and levels.tombstones > self.live:
            levels.sweep()


def _rows_of_one_key(waiting: Iterable[Job], otherwise: int) -> int:
    """Of all these together; `otherwise`, if they may not be together."""
    rows = 0
    first: Job | None = None
    for job in waiting:
        rows += job.batch_size
        if first is None:
            first = job
        elif job.key != first.key:
            return otherwise
    return rows
