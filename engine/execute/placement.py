"""Where batches execute: on the trio thread or on an instance's own. The one place that decides.

    a job comes to an idle instance ──┬─ cheap and movable: here ──┬─ it need not queue: before `submit` returns
                                      │                            ├─ nobody else may join: at once
                                      │                            └─ else at the end of the pass, see inline.py
                                      ├─ cheap, but bound to its thread: there, at the end of the pass, waited for
                                      └─ else: the instance starts by itself

What runs here holds everybody up, so it runs for a slice at most, and moves to its own thread once it is no longer
cheap (cost.py). Everything here is for the trio thread.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ...schema.wire.generated.inference import ModelOptimizationPolicyModelPriority as Priority
from ..port.concerns import of_model
from ..request.batch import Batch
from ..request.job import JobState, move
from ..request.ledger import End
from .company import Company
from .cost import LONG_S

if TYPE_CHECKING:
    from ..port.work import Instance
    from ..request.job import Job
    from .feed import Feed
    from .inline import InlineRunner, PlacedInstance

log = logging.getLogger("despina.engine.execute.placement")

LEARN_EVERY = 8
"""Of the executions that skip the queue, which the cost is learned from."""

INLINE_SLICE_NS = 5_000_000
"""How long executions may hold the trio thread before everybody else gets a turn."""

HELD_S = 0.1
"""An execution that holds the trio thread for so long is told of by itself, others by what they take as a rule."""


class Placement:
    """Of one model version."""

    def __init__(self, feed: Feed, runner: InlineRunner, priority: Priority = Priority.PRIORITY_DEFAULT) -> None:
        """`priority` is the model's, among models whose batches wait for the trio thread."""
        self.company = Company()
        self._feed = feed
        self._cost = feed.cost
        self._scheduler = feed.scheduler
        self._ledger = feed.ledger
        self._statistics = feed.ledger.statistics
        self._runner = runner
        by_priority = {
            Priority.PRIORITY_MAX: runner.soon_before_others,
            Priority.PRIORITY_MIN: runner.soon_after_others,
        }
        self._soon = by_priority.get(priority, runner.soon)
        self._running = False
        """Something executes on the trio thread just now: what it calls may submit again."""
        self._learn_in = 0
        self._held_s_told = LONG_S / 2

    def execute_at_once(self, job: Job) -> bool:
        """Executes a job that never queued, if that can be done here and now; it is over then."""
        if self._running or not self._cost.inline:
            return False
        instance = self._scheduler.claim()
        if instance is None:
            return False
        self._ledger.inflight += 1
        self._running = True
        try:
            batch = Batch([job], job.batch_size, "eager" if self._scheduler.joins else "single")
            move(batch.jobs, JobState.EXECUTING)
            instance.execute(batch)  # type: ignore[attr-defined]  # its model's instances are all movable
            self._statistics.inline_count += 1
            self._ledger.end(batch.jobs, End.EXECUTED, batch)
            self._learn_in -= 1
            if self._learn_in <= 0:
                self._learn_in = LEARN_EVERY
                self._learn(batch)
            elif self._cost.forced:
                self._tell_if_held((batch.ended_ns - batch.started_ns) * 1e-9)
        except Exception:  # what raises here is beside the execution: the job is over
            log.exception("learning from an execution failed")
        finally:
            self._running = False
            if instance.ends or not (self._cost.inline and self._scheduler.rest(instance)):  # type: ignore[attr-defined]
                self.start(instance)
        return True

    def start(self, instance: Instance) -> None:
        """Starts an instance that is off the idle list, here or where it executes by itself."""
        if instance.prompt:
            self._soon(instance)  # type: ignore[arg-type]  # it has `run_slice`
        elif not (self._cost.inline and (instance.movable or instance.has_thread)):
            instance.start()
        elif not instance.movable:
            self._soon(instance)  # type: ignore[arg-type]  # has a thread
        elif self._running or (self._scheduler.joins and (self._runner.in_pass or self.company.is_there())):
            # After everybody who is runnable now: their requests may share the batch.
            self._soon(instance)  # type: ignore[arg-type]  # movable
        elif self.execute(instance):  # type: ignore[arg-type]  # movable
            self._soon(instance)  # type: ignore[arg-type]  # movable

    def end_here(self, batch: Batch) -> bool:
        """On an instance's own thread: see inline.py."""
        return self._runner.end_here(batch, self._ledger)

    def rests(self) -> None:
        """On an instance's own thread: see inline.py."""
        self._runner.rests(self._ledger)

    def look(self) -> bool:
        """Starts an idle instance if anything waits. Whether there was one."""
        instance = self._scheduler.wake()
        if instance is not None:
            self.start(instance)
        return instance is not None

    def run_slice(self, instance: PlacedInstance) -> bool:
        """See inline.py: executes what waits, or has it executed on the instance's own thread and waits for that."""
        if instance.movable:
            return self.execute(instance)
        instance.start()
        if self._cost.inline:
            self._runner.attend(instance)
        return False

    def execute(self, instance: PlacedInstance) -> bool:
        """Executes what waits. True when a slice was used up and more may wait."""
        cost = self._cost
        until = time.monotonic_ns() + INLINE_SLICE_NS
        self._running = True
        try:
            while cost.inline and not instance.ends:
                batch = self._feed.take(instance)
                if batch is None:
                    return False
                instance.execute(batch)
                self._statistics.inline_count += 1
                batch.over(self._ledger)
                self._learn(batch)
                if batch.ended_ns > until:
                    return True
        except Exception:  # its own thread looks next, and ends if that fails there, too
            log.exception("executing on the engine's own thread failed")
        finally:
            self._running = False
        instance.start()
        return False

    def _learn(self, batch: Batch) -> None:
        lasted_s = (batch.ended_ns - batch.started_ns) * 1e-9
        self._cost.learn(lasted_s, lasted_s)
        if self._cost.forced:
            self._tell_if_held(lasted_s)

    def _tell_if_held(self, lasted_s: float) -> None:
        """Its parameter keeps the model here, however long it takes: the log says so, again each time that doubles."""
        held_s = lasted_s if lasted_s > HELD_S else self._cost.cost_s
        if held_s <= 2 * self._held_s_told:
            return
        self._held_s_told = held_s
        log.warning(
            "model '%s' executes on the engine's own thread (DESPINA_EXECUTOR = inline) and held up every other "
            "request and health check for %.0f ms: without that parameter it would not",
            self._ledger.name,
            held_s * 1e3,
            extra=of_model(self._ledger.name),
        )
