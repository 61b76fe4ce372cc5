"""Who executes on the trio thread, and when: instances that wait for the end of a pass.

Requests that arrive in the same pass of a door's loop should share a batch. So an instance that was started for a model
that batches is not executed at once but put here:

| message                 | from             | effect                                                              |
|-------------------------|------------------|---------------------------------------------------------------------|
| soon(instance)          | placement        | executed at the end of the pass, else when the task gets its turn;   |
|                         |                  | before or after others, as its model's priority says                 |
| begin_pass, end_pass    | doors            | brackets what a door's loop has found; the end executes what waits   |

    door's pass:   begin ─ submit ─ submit ─ submit ─ end: execute what was started, here and now
    other callers:          submit ──────────────────── the task executes, after everybody who is runnable now

Bracketing spares the door's requests one turn of the scheduler; without it nothing but that turn is lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import Abort

from ..observe.status import ActorStatus
from ..port.work import Instance

if TYPE_CHECKING:
    from ..request.batch import Batch


class MovableInstance(Instance, Protocol):
    """An instance that can execute on the trio thread, too."""

    ends: bool
    """Nothing more may be executed on it: it was retired, or its executor cannot go on."""

    def execute(self, batch: Batch) -> None:
        """Executes here and now, and settles every job. Never raises."""
        ...

    def run_slice(self) -> bool:
        """Executes what waits, for a slice of time. True when that was used up and more may wait. Never raises."""
        ...


class InlineRunner:
    """One for each engine; everything on the trio thread."""

    def __init__(self) -> None:
        self._ready: deque[MovableInstance] = deque()
        self._last: deque[MovableInstance] = deque()
        """Those that all others go before."""
        self._task: trio.lowlevel.Task | None = None
        self.in_pass = False
        """Between `begin_pass` and `end_pass`."""

    def status(self) -> ActorStatus:
        """What waits for the trio thread."""
        resting = "waits" if self._task is not None else "executes"
        doing = "waits for the end of a door's pass" if self.in_pass else resting
        return ActorStatus(name="inline runner", doing=doing, depth=len(self._ready) + len(self._last))

    def soon(self, instance: MovableInstance) -> None:
        """Executes the started `instance` at the end of the pass, or when the task gets its turn."""
        self._ready.append(instance)
        if not self.in_pass:
            self._wake()

    def soon_before_others(self, instance: MovableInstance) -> None:
        """The same, before those that wait already."""
        self._ready.appendleft(instance)
        if not self.in_pass:
            self._wake()

    def soon_after_others(self, instance: MovableInstance) -> None:
        """The same, after all that wait by then, and come until its turn."""
        self._last.append(instance)
        if not self.in_pass:
            self._wake()

    def begin_pass(self) -> None:
        """A door is about to submit what its loop has found. Call `end_pass` before the next checkpoint."""
        self.in_pass = True

    def end_pass(self) -> None:
        """Executes what the pass has started. What does not fit a slice is left to the task."""
        self.in_pass = False
        ready = self._ready
        for _ in range(len(ready)):
            self._execute(ready.popleft())
        if self._last and not ready:
            for _ in range(len(self._last)):
                self._execute(self._last.popleft())
        if ready or self._last:
            self._wake()

    async def run(self) -> None:
        """The task. Cancelled, it hands what is left to the instances' own threads."""

        def abort(_: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        ready, last = self._ready, self._last
        try:
            while True:
                if not (ready or last):
                    self._task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(abort)
                while ready or last:
                    if self._execute((ready or last).popleft()):
                        await trio.lowlevel.checkpoint()
        finally:
            for instance in (*ready, *last):
                instance.start()

    def _execute(self, instance: MovableInstance) -> bool:
        """True when the instance used up its slice and waits for its next one."""
        more = instance.run_slice()
        if more:
            self._ready.append(instance)
        return more

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
