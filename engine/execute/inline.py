"""Who executes on the trio thread, and when: instances that wait for the end of a pass.

Requests that arrive in the same pass of a door's loop should share a batch. So an instance that was started for a model
that batches is not executed at once but put here:

    door's pass:   begin ─ submit ─ submit ─ submit ─ end: execute what was started, here and now
    other callers:          submit ──────────────────── the task executes, after everybody who is runnable now

Bracketing spares the door's requests one turn of the scheduler; without it nothing but that turn is lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import Abort

if TYPE_CHECKING:
    from .instance import ThreadInstance


LONELY_MAX = 8
"""Batches without company, after which requests are executed at once again."""


class Company:
    """Of one model's callers in process: whether several are at work, whose requests should wait for each other's.

    They are if one comes while another, answered at once, has not had its turn again; and until no request has found
    another one waiting for some time. Who comes through a door waits for the end of its pass, and says nothing of this.
    """

    __slots__ = ("at_once", "calling", "lonely", "resting")

    def __init__(self) -> None:
        self.at_once = True
        """A caller that finds nobody waiting is executed before its `submit` returns."""
        self.calling = False
        """A caller in process submits just now."""
        self.resting = 0
        """Callers who have been answered like that and let others run."""
        self.lonely = 0
        """Batches begun since a request found another one waiting."""

    def is_there(self) -> bool:
        """For a request that finds nobody waiting: whether it should wait nevertheless. Notices who comes and goes."""
        if not self.calling:
            return True
        if self.resting:
            self.at_once = False
            self.lonely = 0
        elif not self.at_once:
            self.lonely += 1
            self.at_once = self.lonely > LONELY_MAX
        return not self.at_once


class InlineRunner:
    """One for each engine; everything on the trio thread."""

    def __init__(self) -> None:
        self._ready: deque[ThreadInstance] = deque()
        self._task: trio.lowlevel.Task | None = None
        self.in_pass = False
        """Between `begin_pass` and `end_pass`."""

    def soon(self, instance: ThreadInstance) -> None:
        """Executes the started `instance` at the end of the pass, or when the task gets its turn."""
        self._ready.append(instance)
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
        if ready:
            self._wake()

    async def run(self) -> None:
        """The task. Cancelled, it hands what is left to the instances' own threads."""

        def abort(_: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        ready = self._ready
        try:
            while True:
                if not ready:
                    self._task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(abort)
                while ready:
                    if self._execute(ready.popleft()):
                        await trio.lowlevel.checkpoint()
        finally:
            for instance in ready:
                instance.start()

    def _execute(self, instance: ThreadInstance) -> bool:
        """True when the instance used up its slice and waits for its next one."""
        more = instance.model.execute_inline(instance)
        if more:
            self._ready.append(instance)
        return more

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
