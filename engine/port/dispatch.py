"""Doors are served within trio's wait for I/O: what epoll finds on their connections costs no turn of the scheduler.

    trio's loop ──before it waits──▶ Dispatcher ──waits for──┬─ a door's epoll: serves the door, and waits again
         ▲                                                   └─ trio's own: others have something to do
         └── at once when a task can run, a deadline is due, or trio's epoll has something

For a lone caller a turn costs as much as answering a health check. Whatever trio would have noticed while it waits is
noticed here, so nobody waits longer than before. This needs to know of trio what it does not export: the doors'
tasks wait as all others do where that is not as expected, and where trio does not wait itself (virtual time, guests).
"""

from __future__ import annotations

import contextlib
import math
import select
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable


WAIT_S_MAX: Final = 86_400.0
"""As trio's own: without a deadline there is no end to the time, which epoll refuses."""


async def dispatch(fd: int, serve: Callable[[], object]) -> None:
    """Calls `serve`, which must not block, whenever the descriptor is readable, until cancelled. Raises what it raises.
    The descriptor stays the caller's, and must be open until this has ended."""
    dispatcher = _dispatcher()
    if dispatcher is not None:
        await dispatcher.dispatch(fd, serve)
    while True:
        await trio.lowlevel.wait_readable(fd)
        serve()


@attrs.define
class _Served:
    """A door."""

    task: trio.lowlevel.Task
    """It waits as long as the door is served, and has the context in which that is done."""
    serve: Callable[[], object]
    waits: bool = True
    """The task has not been woken yet."""
    problem: BaseException | None = None
    """What it is woken with."""

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """The task is cancelled."""
        self.waits = False
        return trio.lowlevel.Abort.SUCCEEDED

    def fail(self, problem: BaseException) -> None:
        """Wakes the task with this, unless it is cancelled already."""
        if self.waits:
            self.waits = False
            self.problem = problem
            trio.lowlevel.reschedule(self.task)


class Dispatcher(trio.abc.Instrument):
    """Of one run of trio. Raises AttributeError where trio's inside is not as expected."""

    def __init__(self) -> None:
        self._here: Any = trio._core._run.GLOBAL_RUN_CONTEXT
        """Knows which task is run."""
        runner = self._runner = self._here.runner
        self._can_run = runner.runq
        self._next_deadline: Callable[[], float] = runner.deadlines.next_deadline
        self._sleep_time: Callable[[float], float] = runner.clock.deadline_to_sleep_time
        self._wake: Callable[[], None] = runner.io_manager.force_wakeup
        self.may_wait = not runner.is_guest and runner.clock_autojump_threshold == math.inf
        """Trio waits for I/O itself, in true time."""
        self._idle = runner.waiting_for_idle
        """Who wants to know when nothing is going on."""
        self._trio_fd: int = runner.io_manager._epoll.fileno()
        self._doors: dict[int, _Served] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._trio_fd, select.EPOLLIN)

    async def dispatch(self, fd: int, serve: Callable[[], object]) -> None:
        """As the function of that name; needs no loop."""
        door = _Served(trio.lowlevel.current_task(), serve)
        self._epoll.register(fd, select.EPOLLIN)
        self._doors[fd] = door
        trio.lowlevel.add_instrument(self)
        try:
            await trio.lowlevel.wait_task_rescheduled(door.abort)
        finally:
            del self._doors[fd]
            self._epoll.unregister(fd)
            if not self._doors:
                trio.lowlevel.remove_instrument(self)
        assert door.problem is not None, "it is woken for no other reason"
        raise door.problem

    def before_io_wait(self, timeout: float) -> None:
        """Trio would wait so long now. Never raises: trio would not call again."""
        try:
            self._serve_while_waiting(timeout)
        except BaseException as problem:
            for door in self._doors.values():
                door.fail(problem)
            self._wake()

    def _serve_while_waiting(self, timeout: float) -> None:
        if self._idle:
            self._serve(0.0)
            return
        is_free = timeout > 0
        while self._serve(timeout) and is_free:
            timeout = 0.0 if self._can_run else min(self._sleep_time(self._next_deadline()), WAIT_S_MAX)
            if timeout <= 0:
                self._wake()  # trio has not noticed, and would wait
                return

    def _serve(self, timeout: float) -> bool:
        """Waits for doors, and serves those that have something. False when trio has something as well."""
        is_trios = False
        for fd, _ in self._epoll.poll(timeout):
            if fd == self._trio_fd:
                is_trios = True
                continue
            door = self._doors[fd]
            self._here.task = door.task
            try:
                door.task.context.run(door.serve)
            except BaseException as problem:
                door.fail(problem)
            finally:
                del self._here.task
        return not is_trios


_DISPATCHER: trio.lowlevel.RunVar[Dispatcher | None] = trio.lowlevel.RunVar("DISPATCHER")


def _dispatcher() -> Dispatcher | None:
    try:
        return _DISPATCHER.get()
    except LookupError:
        pass
    dispatcher: Dispatcher | None = None
    with contextlib.suppress(AttributeError, OSError):
        dispatcher = Dispatcher()
        if not dispatcher.may_wait:
            dispatcher = None
    _DISPATCHER.set(dispatcher)
    return dispatcher
