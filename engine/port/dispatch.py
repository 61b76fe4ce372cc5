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
from typing import TYPE_CHECKING, Any

import trio

from .doors import EVENTS_MAX, Door, Doors

if TYPE_CHECKING:
    from collections.abc import Callable

    from .doors import Found


class Watch:
    """The descriptors of a door and what each is watched for, in epoll's bits. They stay the caller's, who says
    `unregister` before it closes one. Between two calls of `dispatch` they only are remembered."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}
        self._epoll: select.epoll | None = None
        """While it is dispatched: the dispatcher's, or one of its own where there is none."""
        self._doors: dict[int, Door | None] = {}
        """The dispatcher's."""
        self._door: Door | None = None

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
        door = Door(trio.lowlevel.current_task(), serve)
        self._epoll, self._doors, self._door = dispatcher.doors.epoll, dispatcher.doors.by_fd, door
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


class Dispatcher(trio.abc.Instrument):
    """Of one run of trio. Raises AttributeError where trio's inside is not as expected."""

    def __init__(self) -> None:
        here: Any = trio._core._run.GLOBAL_RUN_CONTEXT
        runner = here.runner
        self.doors = Doors(here)
        self.may_wait = not runner.is_guest and runner.clock_autojump_threshold == math.inf
        """Trio waits for I/O itself, in true time."""
        self._waiting: set[Door] = set()

    async def wait(self, door: Door) -> None:
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
        doors = self.doors
        try:
            doors.serve(timeout)
        except BaseException as problem:
            for door in tuple(self._waiting):
                door.fail(problem)
            doors.wake()


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
