"""What may befall a request of one model version as time passes: its level, its deadline, its timeout in the queue.

| what passes                               | queued                                   | executing                     |
|-------------------------------------------|------------------------------------------|-------------------------------|
| the caller's deadline                     | DeadlineExceeded                         | told now; the batch goes on   |
| the level's timeout, or the request's own | QueueTimeout, or behind all of its level | nothing                       |

Whenever one goes, what waits is looked at anew: a batch may be ready without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ...schema.fault import DeadlineExceeded, QueueTimeout
from ...schema.wire.generated.inference import ModelQueuePolicyTimeoutAction as TimeoutAction
from ..request.job import JobState
from .timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..request.job import Job
    from ..request.ledger import Ledger
    from .rules import QueuePolicies
    from .scheduler import Scheduler


class Limits:
    """Everything on the trio thread."""

    def __init__(
        self,
        policies: QueuePolicies,
        scheduler: Scheduler,
        ledger: Ledger,
        clock: Callable[[], float],
        look: Callable[[], None],
    ) -> None:
        """`look` starts an idle instance if anything waits."""
        self._policies = policies
        self._prioritised = policies.levels > 1
        self._time_out = policies.time_out
        self.of_all = self._prioritised or scheduler.forms_anew or self._time_out
        """Whether every job's arrival, level or time in the queue makes a difference."""
        self._scheduler = scheduler
        self._ledger = ledger
        self._clock = clock
        self._look = look
        self.timers = Timers(clock, self._expire, look)

    async def run(self) -> None:
        """The task that keeps the limits."""
        await self.timers.run()

    def apply(self, job: Job, deadline: float) -> None:
        """To a job that is about to be queued. `deadline` in seconds of trio's clock, 0 for none."""
        now = job.queued_at = self._clock()
        request = job.request
        if self._prioritised:
            job.level = self._policies.level_of(request.priority)
        if deadline:
            job.deadline = now + deadline - trio.current_time()
            self.timers.at(job.deadline, job, self._ledger.inflight)
        if self._time_out:
            policy = self._policies.at(job.level)
            timeout_us = policy.default_timeout_microseconds
            if timeout_us:
                if policy.allow_timeout_override and 0 < request.timeout_us < timeout_us:
                    timeout_us = request.timeout_us
                self.timers.at(now + timeout_us * 1e-6, job, self._ledger.inflight)

    def look_at(self, when: float) -> None:
        """Looks at what waits at `when`, in seconds of the engine's clock."""
        self.timers.wake_at(when, self._ledger.inflight)

    def refuse_late(self, jobs: list[Job]) -> None:
        """Answers jobs that were taken out of the queue with the faults that they have, else as found too late."""
        for job in jobs:
            if job.fault is None:
                self._ledger.statistics.unserved["given_up"] += 1
            self._ledger.end_refused(job, job.fault or DeadlineExceeded("Deadline Exceeded"))

    def leave(self, job: Job, state: JobState) -> bool:
        """Takes a job out of the queue, and looks at what waits anew. False if it was no longer queued."""
        left = self._scheduler.leave(job, state) or (self._was_ahead(job) and self._scheduler.leave(job, state))
        if left and self._scheduler.forms_anew:
            self._look()
        return left

    def _expire(self, job: Job, now: float) -> None:
        if job.deadline and job.deadline <= now:
            if self._ledger.refuse(job, DeadlineExceeded("Deadline Exceeded")):
                self._ledger.statistics.unserved["deadline_queued"] += 1
            elif job.state is JobState.EXECUTING:
                job.overdue()
        elif job.state is JobState.QUEUED or self._was_ahead(job):
            if self._policies.at(job.level).timeout_action == TimeoutAction.DELAY:
                if self._scheduler.delay(job) and self._scheduler.forms_anew:
                    self._look()
            elif self._ledger.refuse(job, QueueTimeout("Request timeout expired")):
                self._ledger.statistics.unserved["queue_timeout"] += 1

    def _was_ahead(self, job: Job) -> bool:
        """It waited at an executor, and is queued again: what befalls queued jobs befalls it."""
        if job.ahead is None:
            return False
        job.ahead.take_back()
        return job.state is JobState.QUEUED
