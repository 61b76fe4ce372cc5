"""Who executes on the trio thread, and when: instances that wait for the end of a pass.

Requests that arrive in the same pass of a door's loop should share a batch. So an instance that was started for a model
that batches is not executed at once but put here:

| message                 | from             | effect                                                              |
|-------------------------|------------------|---------------------------------------------------------------------|
| soon(instance)          | placement        | executed at the end of the pass, else when the task gets its turn;   |
|                         |                  | before or after others, as its model's priority says                 |
| begin_pass, end_pass    | doors            | brackets what a door's loop has found; the end executes what waits   |
| attend(instance)        | placement        | it was started on its own thread, and will soon be done: wait for it |
| end_here, rests         | that thread      | what it has executed leads to further executions only: they begin    |
|                         |                  | at once, while the trio thread sleeps on                             |

    door's pass:   begin ─ submit ─ submit ─ submit ─ end: execute what was started, here and now
    other callers:          submit ──────────────────── the task executes, after everybody who is runnable now

Bracketing spares the door's requests one turn of the scheduler; without it nothing but that turn is lost.

Models whose code must stay on its own thread are waited for instead, where they are as cheap: what they have done then
needs no wake-up through trio's loop, and while they work nobody takes the interpreter lock from them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import Abort

from ..observe.status import ActorStatus
from ..port.mailbox import mailbox
from ..port.work import Instance

if TYPE_CHECKING:
    from ..port.mailbox import Mailbox
    from ..request.batch import Batch
    from ..request.ledger import Ledger


ATTEND_S = 0.002
"""How long the trio thread waits for threads at most before everybody else gets a turn."""


class PlacedInstance(Instance, Protocol):
    """An instance that can execute on the trio thread, too, or be waited for there."""

    ends: bool
    """Nothing more may be executed on it: it was retired, or its executor cannot go on."""

    def execute(self, batch: Batch) -> None:
        """Executes here and now, and settles every job. Never raises."""
        ...

    def run_slice(self) -> bool:
        """Executes what waits, for a slice of time. True when that was used up and more may wait. Never raises."""
        ...

    @property
    def resting(self) -> bool:
        """It has found nothing more to take since it was started. A moment late or early at times."""
        ...


class InlineRunner:
    """One for each engine; everything on the trio thread."""

    def __init__(self) -> None:
        self._ready: deque[PlacedInstance] = deque()
        self._last: deque[PlacedInstance] = deque()
        """Those that all others go before."""
        self._at_work: list[PlacedInstance] = []
        """Those that are waited for."""
        self._attending = False
        self._mailbox: Mailbox | None = None
        self._task: trio.lowlevel.Task | None = None
        self.in_pass = False
        """Between `begin_pass` and `end_pass`."""
        self.is_alone = False
        """In a pass with one request at most."""

    def status(self) -> ActorStatus:
        """What waits for the trio thread."""
        resting = "waits" if self._task is not None else "executes"
        doing = "waits for the end of a door's pass" if self.in_pass else resting
        return ActorStatus(name="inline runner", doing=doing, depth=len(self._ready) + len(self._last))

    def soon(self, instance: PlacedInstance) -> None:
        """Executes the started `instance` at the end of the pass, or when the task gets its turn."""
        self._ready.append(instance)
        if not self.in_pass:
            self._wake()

    def attend(self, instance: PlacedInstance) -> None:
        """The instance, which is being executed here, was started on its own thread: wait for it."""
        self._at_work.append(instance)

    def soon_before_others(self, instance: PlacedInstance) -> None:
        """The same, before those that wait already."""
        self._ready.appendleft(instance)
        if not self.in_pass:
            self._wake()

    def soon_after_others(self, instance: PlacedInstance) -> None:
        """The same, after all that wait by then, and come until its turn."""
        self._last.append(instance)
        if not self.in_pass:
            self._wake()

    def begin_pass(self, *, is_alone: bool = False) -> None:
        """A door is about to submit what its loop has found, one request at most if `is_alone`: then there is nobody
        to wait for. Call `end_pass` before the next checkpoint."""
        self.in_pass = True
        self.is_alone = is_alone

    def end_pass(self) -> None:
        """Executes what the pass has started. What does not fit a slice is left to the task."""
        self.in_pass = self.is_alone = False
        ready = self._ready
        if not (ready or self._last or self._at_work):
            return
        for _ in range(len(ready)):
            self._execute(ready.popleft())
        if self._last and not ready:
            for _ in range(len(self._last)):
                self._execute(self._last.popleft())
        if self._at_work:
            self._attend()
        if ready or self._last:
            self._wake()

    def end_here(self, batch: Batch, ledger: Ledger) -> bool:
        """On an instance's own thread, while the trio thread waits for it: ends what has been executed, and starts what
        follows. False, and nothing is done, where that is for the trio thread. To be followed by `rests`, once there is
        nothing more to take."""
        box = self._mailbox
        return box is not None and box.make_here(self._end_here, batch, ledger)

    def rests(self, ledger: Ledger) -> None:
        """On such a thread: unless there are others to wait for, the trio thread need not sleep on."""
        if all(one.resting for one in tuple(self._at_work)):
            ledger.post(_nothing)

    def _end_here(self, batch: Batch, ledger: Ledger) -> bool:
        if not ledger.ends_anywhere(batch.jobs):
            return False
        batch.over(ledger)
        for _ in range(len(self._ready)):
            self._execute(self._ready.popleft())
        return True

    async def run(self) -> None:
        """The task. Cancelled, it hands what is left to the instances' own threads."""

        def abort(_: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        self._mailbox = mailbox()
        ready, last = self._ready, self._last
        try:
            while True:
                if not (ready or last):
                    self._task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(abort)
                while ready or last:
                    if self._execute((ready or last).popleft()):
                        await trio.lowlevel.checkpoint()
                if self._at_work:
                    self._attend()
                    await trio.lowlevel.checkpoint()
        finally:
            self._mailbox = None
            for instance in (*ready, *last):
                instance.start()

    def _execute(self, instance: PlacedInstance) -> bool:
        """True when the instance used up its slice and waits for its next one."""
        more = instance.run_slice()
        if more:
            self._ready.append(instance)
        return more

    def _attend(self) -> None:
        """Waits for those at work, makes the calls that they post, and starts what waits in consequence."""
        at_work, box = self._at_work, self._mailbox
        if box is None:
            at_work.clear()
            return
        until = time.monotonic() + ATTEND_S
        self._attending = True
        try:
            while True:
                for _ in range(len(self._ready)):
                    self._execute(self._ready.popleft())
                at_work[:] = [one for one in at_work if not one.resting]
                left = until - time.monotonic()
                if not at_work or left <= 0 or not box.attend(left):
                    break
        finally:
            self._attending = False
            at_work.clear()

    def _wake(self) -> None:
        if self._task is not None and not self._attending:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)


def _nothing() -> None:
    """What a thread posts that only wakes."""
