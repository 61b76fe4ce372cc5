"""The port of schedulers: where accepted jobs wait, and who gives them to instances.

    put ──▶ waiting ──take──▶ Batch          leave, drain: out of the queue, to be ended by the ledger

An instance that finds nothing to take is on the scheduler's idle list from then on, in the same breath, so no arrival
can be missed. Whoever takes it off the list (`put`, `claim`, `wake`) starts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..port.work import Instance
    from ..request.batch import Batch
    from ..request.job import Job, JobState


class AheadScheduler(Protocol):
    """One whose jobs may be taken for an instance that still executes others. For the trio thread."""

    def take_ahead(self, cost_s: float) -> tuple[Batch | None, list[Job]]:
        """As `Scheduler.take`, but no instance is idle afterwards."""
        ...

    def give_back(self, jobs: list[Job]) -> None:
        """What was taken ahead was not begun: it is queued again, before all others of its level."""
        ...


class Scheduler(Protocol):
    """Everything is for the trio thread where nothing else is said. None blocks for long.

    Every move of a job out of QUEUED happens here, under one lock, so exactly one of take, cancel and expire wins.
    """

    live: int
    """Jobs waiting, now."""
    size_max: int
    """Of them, at most."""

    @property
    def joins(self) -> bool:
        """Whether several jobs may share an execution."""
        ...

    @property
    def ahead(self) -> AheadScheduler | None:
        """The same, where nobody else's turn comes by a job's being taken early: jobs do not join, and are served as
        they come."""
        ...

    @property
    def forms_anew(self) -> bool:
        """Whether a job that leaves may make a batch ready which waited before."""
        ...

    def put(self, job: Job) -> Instance | None:
        """Queues the job. Returns an idle instance to start, now the caller's, or None. Raises QueueFull."""
        ...

    def put_all(self, jobs: list[Job]) -> tuple[int, list[Instance]]:
        """Queues the first of these, none of a level of its own or with a deadline, as far as it is as simple as that.
        How many, and the idle instances to start for them, now the caller's. The others are put by themselves."""
        ...

    def claim(self) -> Instance | None:
        """An idle instance for a job that need not queue, now the caller's; None while anything waits."""
        ...

    def rest(self, instance: Instance) -> bool:
        """Puts a claimed instance back on the idle list. False, and it is still the caller's, if something waits."""
        ...

    def rest_if_idle(self, instance: Instance) -> float | None:
        """On the thread that would execute: puts the instance on the idle list if nothing waits, and says when to look
        again (0 for never). None, and it is still the caller's, if something may wait for it."""
        ...

    def order_idle(self, rank: Callable[[Instance], int]) -> None:
        """Of those that are idle now, the one with the lowest rank is started first. From any thread."""
        ...

    def withdraw(self, instance: Instance) -> None:
        """Takes an instance that is down off the idle list, if it is there."""
        ...

    def wake(self) -> Instance | None:
        """An idle instance to start although nothing arrived, now the caller's, or None."""
        ...

    def leave(self, job: Job, state: JobState) -> bool:
        """Takes a queued job out. False if it was no longer queued: somebody else has won."""
        ...

    def delay(self, job: Job) -> bool:
        """Moves a queued job behind all unexpired ones of its level. False if it was no longer queued."""
        ...

    def take(self, instance: Instance, cost_s: float) -> tuple[Batch | None, list[Job], float]:
        """On the thread that will execute: the next batch for `instance`, the jobs found too late to finish, and when
        to look again (0 for never).

        Without a batch the instance is idle from here on and must not execute until it is started again.
        `cost_s` is what an execution is known to cost: a job whose caller's deadline falls inside it is given up now.
        """
        ...

    def drain(self, state: JobState) -> list[Job]:
        """Takes everything out at once."""
        ...

    def oldest_ns(self) -> int:
        """When the job that is served next was accepted, on the monotonic clock; 0 when none waits."""
        ...
