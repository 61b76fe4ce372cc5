"""An instance whose executor is awaited: a child process, a scripted fake. Its task is the executor's client.

| message     | to       | effect                                                                                 |
|-------------|----------|----------------------------------------------------------------------------------------|
| start()     | started  | its task looks for work; a second ring before it has looked would say nothing new      |
| run_slice() | the same | what waits is begun here and now, without a turn of its task, if its executor can that |
| take_back() | any      | what its executor has before its turn is queued again, see ahead.py                    |
| retire()    | any      | finish what is being executed, then end                                                |
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ...schema.fault import ExecutorDied, Fault, ShuttingDown
from ..port.concerns import concerning
from ..port.foreign import as_fault
from ..request.fetching import fetch, fetched_bytes
from ..request.sharing import place_on_devices
from .ahead import Ahead
from .readiness import of_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..port.backend import AsyncInstance, InstanceContext
    from ..request.batch import Batch
    from .feed import Feed
    from .readiness import Readiness

log = logging.getLogger("despina.engine.execute.task")

FETCH_BYTES_MAX = 1 << 18
"""Of shared memory that are copied on the trio thread itself."""


class TaskInstance:
    """See the module's table. `run` is one life of its executor; it may be called again when that has ended."""

    movable = False
    has_thread = False

    def __init__(
        self,
        context: InstanceContext,
        feed: Feed,
        open_executor: Callable[[InstanceContext, trio.Nursery], Awaitable[AsyncInstance]],
        on_death: Callable[[TaskInstance, Fault], None],
    ) -> None:
        """What `open_executor` returns is ready for requests. `on_death` is told that the executor has died before the
        callers of its last batch are: letting go of it takes a while."""
        self.context = context
        self.current: Batch | None = None
        self._feed = feed
        self._open_executor = open_executor
        self._on_death = on_death
        self._rung = False
        self._waiting: trio.lowlevel.Task | None = None
        """Its task, while there is nothing to do."""
        self._begin: Callable[[Batch, Callable[[Fault | None], None]], bool] | None = None
        """Its executor's, if it has one."""
        self._ahead: Ahead | None = None
        """Of an executor that takes what comes next."""
        self._began = 0.0
        self._handed: Batch | None = None
        """Taken, but for the task to execute."""
        self._fault: Fault | None = None
        """Its executor has died of what was begun, or that could not be done."""
        self.ends = False
        self.readiness: Readiness | None = None
        """What its executor says, while it is open; None where it has no say."""

    async def run(self, close_timeout_s: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens the executor, reports started, serves until cancelled or retired, closes.

        Cancelled, a batch in execution is given up and its callers are told. Raises (in a group) what opening raised,
        and ExecutorDied when the executor cannot go on. Closing may take `close_timeout_s`.
        """
        self.ends = False
        async with trio.open_nursery() as nursery:
            executor = await self._open_executor(self.context, nursery)
            await self._serve(executor, close_timeout_s, task_status)
            nursery.cancel_scope.cancel()

    async def _serve(self, executor: AsyncInstance, close_timeout_s: float, task_status: trio.TaskStatus[None]) -> None:
        try:
            self._begin = getattr(executor, "begin", None)
            if hasattr(executor, "begin_ahead"):
                self._ahead = Ahead(self, self._feed, executor)  # type: ignore[arg-type]  # it has all of them
            self.readiness = of_task(executor, self.context.name)
            task_status.started()
            while True:
                batch, self._handed = self._handed, None
                if batch is None:
                    if self._fault is not None:
                        raise self._fault
                    if self.current is None:
                        if self.ends:
                            break
                        if self._begin is None:
                            batch = self._feed.take(self)
                        else:
                            self._take_and_begin()
                if batch is None:
                    await self._ring()
                else:
                    await self._execute(executor, batch)
        finally:
            self._begin = self._handed = self._fault = None
            self.readiness = None
            self.take_back()
            for batch in self._left():
                batch.lose(self._feed.ledger, ShuttingDown("the model was unloaded while it executed"))
            self._ahead = None
            self._feed.rest(self)
            await close(executor, self.context.name, close_timeout_s)

    def start(self) -> None:
        self._rung = True
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def retire(self) -> None:
        """Ends once what it executes is done."""
        self.ends = True
        self.take_back()
        self.start()

    def take_back(self) -> None:
        """What its executor has not begun is queued again."""
        if self._ahead is not None and self._ahead.take_back(self.current):
            self.current = None
            self.start()

    def _left(self) -> list[Batch]:
        """What its executor has, which is not to be any more."""
        current, self.current = self.current, None
        left = [] if current is None else [current]
        while self._ahead is not None and (batch := self._ahead.next()) is not None:
            left.append(batch)
        return left

    async def _ring(self) -> None:
        """Waits until it is started."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting = None
            return trio.lowlevel.Abort.SUCCEEDED

        if not self._rung:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        self._rung = False

    # --- Without a turn of its task

    @property
    def prompt(self) -> bool:
        """`run_slice` may do instead of `start`."""
        return self._begin is not None

    def run_slice(self) -> bool:
        """Begins what waits, here and now; what cannot be begun like that is its task's to execute. Never raises."""
        if self._waiting is None or self.ends or self.current is not None:
            self.start()
        else:
            self._begin_next()
        return False

    def _begin_next(self) -> None:
        try:
            self._take_and_begin()
        except Exception as error:  # its task ends of it, as if it had been raised there
            self._fault = as_fault(error)
            self.start()

    def _take_and_begin(self) -> None:
        feed = self._feed
        batch = feed.take(self)
        if batch is None:
            return
        self.current = batch
        self._began = feed.clock()
        batch.begin()
        begin = self._begin
        if begin is None or feed.ledger.shares or not begin(batch, self._over):
            self._handed = batch
            self.start()
        elif self._ahead is not None:
            self._ahead.hand(self._over, self._unbegun)

    def _over(self, fault: Fault | None) -> None:
        """What was begun has been executed."""
        if isinstance(fault, ExecutorDied):
            self._lose(fault)
            return
        batch = self.current
        if batch is None:
            return  # it was given up
        if fault is None and not self._feed.scheduler.joins:
            # What waits is begun before callers are told of this. Where jobs may join, more of them wait after that.
            self._executed(batch, None, self._began)
            self._go_on()
            batch.over(self._feed.ledger)
            return
        self._settle(batch, batch, fault, self._began)
        self._go_on()

    def _unbegun(self) -> None:
        """What was handed over before its turn would have been begun too late."""
        batch, self.current = self.current, None
        if batch is not None:
            self._feed.give_back(batch)
            self._go_on()

    def _go_on(self) -> None:
        """Begins what comes next."""
        ahead = self._ahead
        batch = None if ahead is None else ahead.next()
        if batch is not None and ahead is not None:
            self.current = batch
            self._began = self._feed.clock()
            batch.begin()
            if not self.ends:
                ahead.hand(self._over, self._unbegun)
        elif self.ends:
            self.start()
        elif not self._feed.idles(self):
            self._begin_next()

    def _lose(self, fault: ExecutorDied) -> None:
        """Its executor has died of what was begun; what was not is the next one's."""
        self._fault = fault
        self.take_back()
        self._on_death(self, fault)
        for batch in self._left():
            batch.settle(fault)
            batch.over(self._feed.ledger)
        log.error("instance %s: its executor died: %s", self.context.name, fault.message)
        self.start()

    # --- By its task

    async def _execute(self, executor: AsyncInstance, batch: Batch) -> None:
        """Raises ExecutorDied, after the batch has been answered with it."""
        self.current = batch
        feed = self._feed
        fault: Fault | None = None
        began = feed.clock()
        batch.begin()
        sound = await self._fetch(batch) if feed.ledger.shares else batch
        try:
            if sound.jobs:
                await executor.execute_async(sound)
        except (Exception, SystemExit) as caught:  # a user model may call sys.exit; cancellation must pass
            fault = as_fault(caught)
            if not isinstance(caught, Fault):
                log.error("instance %s raised", self.context.name, exc_info=caught, extra=concerning(batch.jobs))
        if feed.ledger.on_devices:
            # A cancelled wait goes on until the copies are done: their memory is the answers'.
            await trio.to_thread.run_sync(place_on_devices, sound.jobs)
        self._settle(batch, sound, fault, began)
        if isinstance(fault, ExecutorDied):
            raise fault

    def _settle(self, batch: Batch, sound: Batch, fault: Fault | None, began: float) -> None:
        """It is over; `sound` is what was executed of it."""
        self._executed(batch, fault, began)
        if sound is not batch:
            batch.join(sound)
        if isinstance(fault, ExecutorDied):
            self._on_death(self, fault)
        batch.over(self._feed.ledger)
        if isinstance(fault, ExecutorDied):
            log.error("instance %s: its executor died: %s", self.context.name, fault.message)

    def _executed(self, batch: Batch, fault: Fault | None, began: float) -> None:
        """Its callers are still to be told."""
        batch.settle(fault)
        lasted_s = self._feed.clock() - began
        self._feed.cost.learn(lasted_s, lasted_s)
        self.current = None

    async def _fetch(self, batch: Batch) -> Batch:
        """`fetch`, in a thread where it copies much."""
        if fetched_bytes(batch) <= FETCH_BYTES_MAX and not self._feed.ledger.on_devices:
            return fetch(batch, self._feed.admission)
        # A cancelled wait goes on until the thread is done: nobody else may have the batch meanwhile.
        return await trio.to_thread.run_sync(fetch, batch, self._feed.admission)


async def close(executor: AsyncInstance, name: str, timeout_s: float) -> None:
    """Closes it, whatever happens: errors are logged."""
    try:
        # Bounded: what cannot finalize in time is cut off.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + timeout_s):
            await executor.aclose()
    except Exception:
        log.exception("instance %s failed to close", name)
