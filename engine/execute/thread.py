"""An instance on a thread of its own, which opens its executor, executes and closes it.

| message          | to            | effect                                                                         |
|------------------|---------------|--------------------------------------------------------------------------------|
| start()          | idle instance | look for work; the sender took it off the idle list                            |
| retire()         | any           | finish what is being executed, then end                                        |
| batch.over       | ledger        | once per executed batch: on the trio thread, or in its place while that waits   |
| placement.start  | placement     | on the trio thread: the model has become cheap, this instance may execute there |

A movable one executes on the trio thread, too, when placement.py says so: then its own thread waits.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from ...schema.fault import ExecutorDied, Fault, ShuttingDown
from ..port.concerns import HERE
from ..port.foreign import as_fault
from ..request.fetching import fetch
from ..request.sharing import place_on_devices
from .readiness import of_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..port.backend import BackendInstance, InstanceContext
    from ..request.batch import Batch
    from .feed import Feed
    from .placement import Placement
    from .readiness import Readiness

log = logging.getLogger("despina.engine.execute.thread")


class ThreadInstance:
    """See the module's table. `run` is one life of its executor; it may be called again when that has ended."""

    def __init__(
        self,
        context: InstanceContext,
        feed: Feed,
        placement: Placement,
        open_executor: Callable[[InstanceContext], BackendInstance],
        *,
        may_move: bool,
    ) -> None:
        """`open_executor` is called on the new thread; what it returns is ready for requests."""
        self.context = context
        self._placement = placement
        self.movable = False
        self.prompt = False
        self.has_thread = feed.ledger.threads.run_by_themselves
        self.resting = True
        self.current: Batch | None = None
        """What its executor works on now, on its own thread."""
        self.ends = False
        self.readiness: Readiness | None = None
        """What its executor says, while it is open; None where it has no say."""
        self._feed = feed
        self._ledger = feed.ledger
        self._open_executor = open_executor
        self._may_move = may_move
        self._takes_device_memory = False
        self._executor: BackendInstance | None = None
        self._bell = feed.ledger.threads.bell()
        """True: look for work; False: stop."""
        self._error: Fault | None = None
        self._handover = threading.Lock()
        self._lost: Batch | None = None
        """What it executed when it was abandoned: its callers have been told."""

    async def run(self, close_timeout_s: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens the executor, reports started, serves until cancelled or retired, closes.

        Raises what opening raised, and ExecutorDied when the executor cannot go on. Opening and executing cannot be
        interrupted; cancellation waits for them at most `close_timeout_s`. A thread that does not come back by then is
        abandoned, and its callers are told.
        """
        opened, ended = trio.Event(), trio.Event()
        self._begin_life()
        post = trio.lowlevel.current_trio_token().run_sync_soon
        self._ledger.threads.start(
            partial(contextvars.copy_context().run, self._thread, post, opened.set, ended.set),
            f"despina/{self.context.name}",
        )
        try:
            await opened.wait()
            if self._error is None:
                task_status.started()
            await ended.wait()
        finally:
            self.retire()
            # Bounded: the executor is closed on its own thread, or given up.
            with trio.move_on_after(close_timeout_s, shield=True) as patience:
                await ended.wait()
            if patience.cancelled_caught:
                self._abandon(close_timeout_s)
        if self._error is not None:
            raise self._error

    def _begin_life(self) -> None:
        self._bell = self._ledger.threads.bell()
        self._error = None
        self.ends = False

    def start(self) -> None:
        self.resting = False
        self._bell.put(True)

    def retire(self) -> None:
        """Ends once what it executes is done. For the trio thread."""
        self.ends = True
        self._bell.put(False)

    def take_back(self) -> None:
        """Nothing is handed to it before its turn."""

    def run_slice(self) -> bool:
        """For the trio thread: see inline.py."""
        return self._placement.run_slice(self)

    def execute(self, batch: Batch) -> None:
        """Executes on the calling thread, and settles every job. Never raises."""
        executor = self._executor
        assert executor is not None, "an instance executes only once it is open"
        fault: Fault | None = None
        before = HERE.jobs
        HERE.jobs = batch.jobs
        batch.begin()
        sound = batch
        if self._ledger.shares:
            sound = fetch(batch, self._feed.admission, leave_on_devices=self._takes_device_memory)
        try:
            if sound.jobs:
                executor.execute(sound)
        except BaseException as caught:  # a model may raise anything, SystemExit too, and must not end its server
            fault = as_fault(caught)
            if isinstance(caught, ExecutorDied):
                self._die(caught)
            elif fault is not caught:
                log.exception("instance %s raised", self.context.name)
        if self._ledger.on_devices:
            place_on_devices(sound.jobs)
        batch.settle(fault)
        HERE.jobs = before
        if sound is not batch:
            batch.join(sound)

    def _die(self, error: Fault) -> None:
        """The executor cannot go on: its thread ends, and with it this life."""
        log.error("instance %s: its executor died: %s", self.context.name, error.message)
        self._error = error
        self.ends = True

    def _abandon(self, waited_s: float) -> None:
        log.error("instance %s did not return within %g s: its thread is abandoned", self.context.name, waited_s)
        with self._handover:
            self._lost = batch = self.current
        if batch is not None:
            batch.lose(self._ledger, ShuttingDown("the model was unloaded while it executed"))

    def _hand_back(self) -> bool:
        """The executed batch is no longer this instance's. False if it was lost meanwhile."""
        with self._handover:
            batch, self.current = self.current, None
            return batch is not self._lost

    def _thread(self, post: Callable[..., object], opened: Callable[[], None], ended: Callable[[], None]) -> None:
        HERE.model = self._ledger.name
        try:
            self._executor = executor = self._open_executor(self.context)
            self.movable = executor.movable and self._may_move
            self._takes_device_memory = getattr(executor, "takes_device_memory", False)
            self.readiness = of_thread(executor, self.context.name)
        except BaseException as error:  # to be raised by run(), on the trio thread, where SystemExit would end it all
            self._error = error if isinstance(error, Fault) else as_fault(error)
            if self._error is not error:
                self._error.__cause__ = error
        try:
            post(opened)
            if self._error is None:
                self._serve_guarded()
            self._feed.rest(self)
            self._close()
            post(ended)
        except trio.RunFinishedError:
            log.debug("instance %s outlived its event loop", self.context.name)

    def _serve_guarded(self) -> None:
        try:
            self._serve()
        except trio.RunFinishedError:
            raise
        except Exception as error:  # a bug of ours or of a scheduler's: as bad as an executor that died
            log.exception("instance %s: its thread ends", self.context.name)
            died = ExecutorDied(f"instance {self.context.name} cannot go on: {as_fault(error).message}")
            self._error, self.ends = died, True
            batch = self.current
            if batch is not None and self._hand_back():
                self._ledger.post(batch.lose, self._ledger, died)

    def _serve(self) -> None:
        feed, bell, cost = self._feed, self._bell, self._feed.cost
        post = feed.ledger.post
        measured = self.movable and not cost.forced
        has_ended_here = False
        while not self.ends:
            batch = feed.take_from_thread(self)
            if batch is None:
                self.resting = True  # after a new start, too, if that came just now: then nobody waits for it
                if has_ended_here:
                    has_ended_here = False
                    self._placement.rests()
                if not bell.get():
                    return
                continue
            self.current = batch
            if measured:
                # CPU time, not wall: waiting for the interpreter lock is no cost of the model's.
                began = time.thread_time_ns()
                self.execute(batch)
                cost.learn((time.thread_time_ns() - began) * 1e-9, (batch.ended_ns - batch.started_ns) * 1e-9)
            else:
                self.execute(batch)
                lasted_s = (batch.ended_ns - batch.started_ns) * 1e-9
                cost.learn(lasted_s, lasted_s)
            if not self._hand_back():
                return
            if batch.jobs[0].request.goes_on and self._placement.end_here(batch):
                has_ended_here = True
            else:
                has_ended_here = False
                post(batch.over, feed.ledger)
            batch = None
            if measured and cost.inline and not self.ends:
                post(self._placement.start, self)
                if not bell.get():
                    return

    def _close(self) -> None:
        executor, self._executor = self._executor, None
        self.readiness = None
        if executor is not None:
            try:
                executor.close()
            except BaseException:  # finalizers of user models: logged, nobody waits for them
                log.exception("instance %s failed to close", self.context.name)
