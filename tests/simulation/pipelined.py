"""An executor as a model's process is one: what it has is executed one after the other, what it says comes later.

begin, begin_ahead ──▶ its line ──claimed──▶ executed ──said──▶ over, in order, some time afterwards
         take_back: all that is not claimed
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio
from despina.engine.port.backend import InstanceContext
from despina.engine.port.foreign import as_fault
from despina.engine.request.batch import Batch
from despina.schema.fault import ExecutorDied, Fault

from tests.simulation.models import AwaitedExecutor

if TYPE_CHECKING:
    from tests.simulation.models import Model


@attrs.define(eq=False)
class Entry:
    """A batch in its line."""

    batch: Batch
    over: Callable[[Fault | None], None]
    unbegun: Callable[[], None] | None = None
    latest: float = math.inf
    is_withdrawn: bool = False


class PipelinedExecutor(AwaitedExecutor):
    """See port/backend.py: PipelinedInstance."""

    def __init__(self, model: Model, context: InstanceContext) -> None:
        super().__init__(model, context)
        self.ahead_max = model.backend.history.chance.choice([1, 3, 15])
        self._line: deque[Entry] = deque()
        """What is not claimed, those that were taken back included."""
        self._unsaid: deque[tuple[Entry, Fault | None, bool]] = deque()
        """What is over, with its fault, and whether it was executed."""
        self._came = trio.Event()
        self._has_said = trio.Event()
        self._is_over = trio.Event()
        self._scope = trio.CancelScope()
        self._is_dead = False
        self._is_busy = False

    async def open(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._run, name="executor of a TaskInstance")

    async def aclose(self) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._is_over.wait()
        self.close()

    def begin(self, batch: Batch, over: Callable[[Fault | None], None]) -> bool:
        assert not self._is_busy
        assert all(entry.is_withdrawn for entry in self._line)
        if self._is_dead or self.model.chance.random() < 0.1:
            return False
        self._put(Entry(batch, over))
        return True

    def begin_ahead(
        self, batch: Batch, over: Callable[[Fault | None], None], unbegun: Callable[[], None], within_s: float
    ) -> bool:
        if self._is_dead or self.model.chance.random() < 0.1:
            self._note("not handed over")
            return False
        self._note("handed over")
        self._put(Entry(batch, over, unbegun, trio.current_time() + within_s))
        return True

    def take_back(self) -> int:
        taken = [entry for entry in self._line if entry.unbegun is not None and not entry.is_withdrawn]
        for entry in taken:
            entry.is_withdrawn = True
        self._note("taken back", len(taken))
        return len(taken)

    def _note(self, what: str, count: int = 1) -> None:
        self.history.books.mix[f"ahead: {what}"] += count

    def _put(self, entry: Entry) -> None:
        self._line.append(entry)
        self._came.set()

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                with self._scope:
                    nursery.start_soon(self._say)
                    await self._serve()
                nursery.cancel_scope.cancel()
        finally:
            self._is_over.set()

    async def _serve(self) -> None:
        while not self._is_dead:
            while not self._line:
                self._came = trio.Event()
                await self._came.wait()
            entry = self._line.popleft()
            if entry.is_withdrawn:
                continue
            if entry.unbegun is not None and trio.current_time() > entry.latest:
                self._end(entry, None, was_executed=False)
                continue
            if entry.unbegun is not None:
                self._check(entry)
            fault = None
            self._is_busy = True
            try:
                with self.executing(entry.batch):
                    await self._execute(entry.batch)
            except (Exception, SystemExit) as caught:
                fault = as_fault(caught)
            self._is_busy = False
            self._is_dead = isinstance(fault, ExecutorDied)
            self._end(entry, fault, was_executed=True)
        await trio.sleep_forever()

    def _end(self, entry: Entry, fault: Fault | None, *, was_executed: bool) -> None:
        self._unsaid.append((entry, fault, was_executed))
        self._has_said.set()

    def _check(self, entry: Entry) -> None:
        """Nobody is executed before his turn who has left, or is late."""
        self._note("executed")
        with self.history.books.asserting():
            for job in entry.batch.jobs:
                assert not job.is_cancelled(), "executed for nobody"
                assert not job.deadline or trio.current_time() <= job.deadline, "executed too late"

    async def _say(self) -> None:
        while True:
            while not self._unsaid:
                self._has_said = trio.Event()
                await self._has_said.wait()
            await trio.sleep(self.model.chance.choice([0, 20e-6, 200e-6, 0.002]))
            for _ in range(len(self._unsaid)):
                entry, fault, was_executed = self._unsaid.popleft()
                if was_executed:
                    entry.over(fault)
                else:
                    assert entry.unbegun is not None
                    self._note("too late")
                    entry.unbegun()
