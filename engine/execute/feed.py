"""Where the instances of one model version get their batches from, and what they share besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..port.backend import InstanceContext
    from ..port.work import Instance
    from ..request.admission import Admission
    from ..request.batch import Batch
    from ..request.ledger import Ledger
    from ..schedule.limits import Limits
    from ..schedule.scheduler import Scheduler
    from .cost import ExecutionCost


class Feed:
    """One for each model version."""

    def __init__(
        self,
        scheduler: Scheduler,
        limits: Limits,
        ledger: Ledger,
        admission: Admission,
        cost: ExecutionCost,
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = scheduler
        self.limits = limits
        self.ledger = ledger
        self.admission = admission
        self.cost = cost
        self.clock = clock
        self._instances = 0
        """That take from here."""

    @property
    def hands_ahead(self) -> bool:
        """Whether an instance may have jobs before their turn: nobody else could execute them sooner."""
        return self._instances == 1 and self.scheduler.ahead is not None and not self.ledger.shares

    def enter(self, instance: Instance, context: InstanceContext, start: Callable[[Instance], None]) -> None:
        """An instance will take from here; `start` is for one that waits, on the trio thread. Raises Fault for one that
        could never execute."""
        self._instances += 1

    def rest(self, instance: Instance) -> None:
        """It takes nothing more in this life. From any thread."""

    def leave(self, instance: Instance) -> None:
        """It is gone. On the trio thread."""
        self._instances -= 1

    def holders(self, instance: Instance) -> Sequence[Instance]:
        """Whose turns it waits for, though it is idle; from any thread. None where nothing is limited."""
        return ()

    def idles(self, instance: Instance) -> bool:
        """It has executed, on the trio thread: whether nothing waits. Then it is idle, and need not `take` to be."""
        return self.scheduler.rest(instance)

    def take(self, instance: Instance) -> Batch | None:
        """The next batch; None, and the instance is idle, if there is none. On the trio thread."""
        batch, late, look_at = self.scheduler.take(instance, self.cost.over_within_s)
        if late:
            if batch is None:
                self.cost.doubt()
            self.limits.refuse_late(late)
        if batch is None and look_at:
            self.limits.look_at(look_at)
        return batch

    def take_ahead(self) -> Batch | None:
        """What is to be executed after what an instance executes now; None if nothing waits. On the trio thread."""
        scheduler = self.scheduler.ahead
        if scheduler is None:
            return None
        batch, late = scheduler.take_ahead(self.cost.over_within_s)
        if late:
            self.limits.refuse_late(late)
        return batch

    def give_back(self, batch: Batch) -> None:
        """What was taken ahead was not begun. On the trio thread."""
        scheduler = self.scheduler.ahead
        assert scheduler is not None, "it was taken ahead"
        for job in batch.jobs:
            job.ahead = None
        scheduler.give_back(batch.jobs)

    def take_from_thread(self, instance: Instance) -> Batch | None:
        """The same on an instance's own thread. Raises trio.RunFinishedError when all is over."""
        batch, late, look_at = self.scheduler.take(instance, self.cost.over_within_s)
        if late:
            if batch is None:
                self.cost.doubt()
            self.ledger.post(self.limits.refuse_late, late)
        if batch is None and look_at:
            self.ledger.post(self.limits.look_at, look_at)
        return batch
