"""Doors are served within trio's wait for I/O: what epoll finds on their connections costs no turn of the scheduler.

    trio's loop ──before it waits──▶ Dispatcher ──one epoll for──┬─ all doors' connections: each door is served with
         ▲                                                       │  what was found of its own, and all wait again
         │                                                       └─ trio's epoll: others have something to do
         └── at once when a task can run, a deadline is due, or trio's epoll has something

For a lone caller a turn costs as much as answering a health check. Whatever trio would have noticed while it waits is
noticed here, so nobody waits longer than before. This needs to know of trio what it does not export: the doors'
tasks wait as all others do where that is not as expected, and where trio does not wait itself (virtual time, guests).
"""

from __future__ import annotations

import contextlib
import math
import select
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    Found = list[tuple[int, int]]
    """Descriptors, and the events that epoll has found on them."""


EVENTS_MAX: Final = 64
"""Found at a time: then others have their turn."""
WAIT_S_MAX: Final = 86_400.0
"""As trio's own: without a deadline there is no end to the time, which epoll refuses."""


class Watch:
    """The descriptors of a door and what each is watched for, in epoll's bits. They stay the caller's, who says
    `unregister` before it closes one. Between two calls of `dispatch` they only are remembered."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}
        self._epoll: select.epoll | None = None
        """While it is dispatched: the dispatcher's, or one of its own where there is none."""
        self._doors: dict[int, _Door | None] = {}
        """The dispatcher's."""
        self._door: _Door | None = None

    def __contains__(self, fd: int) -> bool:
        return fd in self._wanted

    def register(self, fd: int, events: int) -> None:
        """OSError if the kernel does not take it: it is not watched then."""
        self._enter(fd, events)
        self._wanted[fd] = events

    def modify(self, fd: int, events: int) -> None:
        """Costs nothing where it is watched for these already."""
        if self._wanted[fd] != events:
            self._wanted[fd] = events
            if self._epoll is not None:
                self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        del self._wanted[fd]
        self._leave(fd)

    async def dispatch(self, serve: Callable[[Found], object]) -> None:
        """Calls `serve`, which must not block, with what is found, until cancelled. Raises what it raises."""
        dispatcher = _dispatcher()
        if dispatcher is None:
            await self._dispatch_alone(serve)
        else:
            await self._dispatch_with_others(dispatcher, serve)

    async def _dispatch_with_others(self, dispatcher: Dispatcher, serve: Callable[[Found], object]) -> None:
        door = _Door(trio.lowlevel.current_task(), serve)
        self._epoll, self._doors, self._door = dispatcher.epoll, dispatcher.doors, door
        try:
            for fd, events in self._wanted.items():
                self._enter(fd, events)
            await dispatcher.wait(door)
        finally:
            for fd in self._wanted:
                self._leave(fd)
            self._epoll = self._door = None

    async def _dispatch_alone(self, serve: Callable[[Found], object]) -> None:
        with contextlib.closing(select.epoll()) as self._epoll:
            try:
                for fd, events in self._wanted.items():
                    self._enter(fd, events)
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    serve(self._epoll.poll(0, EVENTS_MAX))
            finally:
                self._epoll = None

    def _enter(self, fd: int, events: int) -> None:
        if self._epoll is not None:
            self._epoll.register(fd, events)
            if self._door is not None:
                self._doors[fd] = self._door

    def _leave(self, fd: int) -> None:
        if self._epoll is not None:
            with contextlib.suppress(OSError):  # it was not entered, for the kernel did not take one before it
                self._epoll.unregister(fd)
            self._doors.pop(fd, None)


async def dispatch(fd: int, serve: Callable[[], object]) -> None:
    """As `Watch.dispatch` for one descriptor: whenever it is readable. It must be open until this has ended."""
    watch = Watch()
    watch.register(fd, select.EPOLLIN)
    await watch.dispatch(lambda found: serve())


@attrs.define(eq=False)
class _Door:
    """Who is served."""

    task: trio.lowlevel.Task
    """It waits as long as the door is served, and has the context in which that is done."""
    serve: Callable[[Found], object]
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
        self.doors: dict[int, _Door | None] = {self._trio_fd: None}
        """Whose each descriptor of `epoll` is; trio's is nobody's."""
        self._waiting: set[_Door] = set()
        self.epoll = select.epoll()
        self.epoll.register(self._trio_fd, select.EPOLLIN)

    async def wait(self, door: _Door) -> None:
        """Until its task is cancelled the door is served; raises what serving raises."""
        self._waiting.add(door)
        trio.lowlevel.add_instrument(self)
        try:
            await trio.lowlevel.wait_task_rescheduled(door.abort)
        finally:
            self._waiting.remove(door)
            if not self._waiting:
                trio.lowlevel.remove_instrument(self)
        assert door.problem is not None, "it is woken for no other reason"
        raise door.problem

    def before_io_wait(self, timeout: float) -> None:
        """Trio would wait so long now. Never raises: trio would not call again."""
        try:
            self._serve_while_waiting(timeout)
        except BaseException as problem:
            for door in tuple(self._waiting):
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
        doors = self.doors
        found = self.epoll.poll(timeout, EVENTS_MAX)
        if len(found) == 1:
            door = doors[found[0][0]]
            if door is None:
                return False
            self._serve_one(door, found)
            return True
        by_door: defaultdict[_Door | None, Found] = defaultdict(list)
        for event in found:
            by_door[doors[event[0]]].append(event)
        is_trios = by_door.pop(None, None) is not None
        for door, some in by_door.items():
            assert door is not None, "what is trio's has been taken out"
            self._serve_one(door, some)
        return not is_trios

    def _serve_one(self, door: _Door, found: Found) -> None:
        task = door.task
        self._here.task = task
        try:
            task.context.run(door.serve, found)
        except BaseException as problem:
            door.fail(problem)
        finally:
            del self._here.task


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
