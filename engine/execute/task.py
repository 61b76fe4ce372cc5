"""An instance whose executor is awaited: a child process, a scripted fake. Its task is the executor's client.

| message  | to            | effect                                                                               |
|----------|---------------|--------------------------------------------------------------------------------------|
| start()  | idle instance | look for work; over a memory channel of one, for a second ring would say nothing new |
| retire() | any           | finish what is being executed, then end                                              |
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ...schema.fault import ExecutorDied, Fault, ShuttingDown
from ..port.foreign import as_fault
from ..request.fetching import fetch, fetched_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..port.backend import AsyncInstance, InstanceContext
    from ..request.batch import Batch
    from .feed import Feed

log = logging.getLogger("despina.engine.execute.task")

FETCH_BYTES_MAX = 1 << 18
"""Of shared memory that are copied on the trio thread itself."""


class TaskInstance:
    """See the module's table. `run` is one life of its executor; it may be called again when that has ended."""

    movable = False

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
        self._ring, self._bell = trio.open_memory_channel[None](1)
        self.ends = False

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
            task_status.started()
            while not self.ends:
                batch = self._feed.take(self)
                if batch is None:
                    await self._bell.receive()
                    continue
                await self._execute(executor, batch)
        finally:
            batch, self.current = self.current, None
            if batch is not None:
                batch.lose(self._feed.ledger, ShuttingDown("the model was unloaded while it executed"))
            self._feed.rest(self)
            await close(executor, self.context.name, close_timeout_s)

    def start(self) -> None:
        with suppress(trio.WouldBlock):
            self._ring.send_nowait(None)

    def retire(self) -> None:
        """Ends once what it executes is done."""
        self.ends = True
        self.start()

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
                log.error("instance %s raised", self.context.name, exc_info=caught)
        batch.settle(fault)
        if sound is not batch:
            batch.join(sound)
        lasted_s = feed.clock() - began
        feed.cost.learn(lasted_s, lasted_s)
        self.current = None
        if isinstance(fault, ExecutorDied):
            self._on_death(self, fault)
        batch.over(feed.ledger)
        if isinstance(fault, ExecutorDied):
            log.error("instance %s: its executor died: %s", self.context.name, fault.message)
            raise fault

    async def _fetch(self, batch: Batch) -> Batch:
        """`fetch`, in a thread where it copies much."""
        if fetched_bytes(batch) <= FETCH_BYTES_MAX:
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
