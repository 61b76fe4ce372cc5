"""Doors that are served while trio waits: see dispatch.py."""

from __future__ import annotations

import select
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    Found = list[tuple[int, int]]
    """Descriptors, and the events that epoll has found on them."""

EVENTS_MAX: Final = 64
"""Found at a time: then others have their turn."""
WAIT_S_MAX: Final = 86_400.0
"""As trio's own: without a deadline there is no end to the time, which epoll refuses."""


class Door:
    """Who is served."""

    def __init__(self, task: trio.lowlevel.Task, serve: Callable[[Found], object]) -> None:
        """The task waits as long as the door is served, and has the context in which that is done."""
        self.task = task
        self.serve = serve
        self.waits = True
        """The task has not been woken yet."""
        self.problem: BaseException | None = None
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


class Doors:
    """All of one run of trio, by the descriptors that they watch."""

    def __init__(self, here: Any) -> None:
        """`here` knows which task is run, and the runner. Raises AttributeError where trio's inside is not as expected,
        OSError where no descriptor is left."""
        self._here = here
        runner = here.runner
        self._can_run = runner.runq
        self._deadlines: Any = runner.deadlines
        self._next_deadline: Callable[[], float] = runner.deadlines.next_deadline
        self._zero: float = _offset(runner)
        """What trio's clock says when `perf_counter` says 0."""
        self.wake: Callable[[], None] = runner.io_manager.force_wakeup
        """Trio goes on at once."""
        self._idle = runner.waiting_for_idle
        """Who wants to know when nothing is going on."""
        trio_fd: int = runner.io_manager._epoll.fileno()
        self.by_fd: dict[int, Door | None] = {trio_fd: None}
        """Whose each descriptor of `epoll` is; trio's is nobody's."""
        self.epoll = select.epoll()
        self.epoll.register(trio_fd, select.EPOLLIN)

    def serve(self, timeout: float) -> None:
        """Trio would wait so long now. Raises what waiting raises, not what serving does."""
        if self._idle:
            self._pass(0.0)
            return
        is_free = timeout > 0
        while self._pass(timeout) and is_free:
            timeout = 0.0 if self._can_run else self._left()
            if timeout <= 0:
                self.wake()  # trio has not noticed, and would wait
                return

    def _left(self) -> float:
        """How long trio would wait now. What trio executes to say so was half of what compiled code left to Python of
        a lone health check."""
        heap: list[Any] = self._deadlines._heap
        if not heap:
            return WAIT_S_MAX
        first = heap[0]
        deadline: float = first[0]
        if first[2]._registered_deadline != deadline:  # it does not count any more
            deadline = self._next_deadline()
        return min(deadline - self._zero - perf_counter(), WAIT_S_MAX)

    def _pass(self, timeout: float) -> bool:
        """Waits for doors, and serves those that have something. False when trio has something as well."""
        by_fd = self.by_fd
        found: Found = self.epoll.poll(timeout, EVENTS_MAX)
        is_trios = False
        by_door: dict[Door, Found] = {}
        for event in found:
            door = by_fd[event[0]]
            if door is None:
                is_trios = True
            elif door in by_door:
                by_door[door].append(event)
            else:
                by_door[door] = [event]
        for door, some in by_door.items():
            self._serve_one(door, some)
        return not is_trios

    def _serve_one(self, door: Door, found: Found) -> None:
        task = door.task
        self._here.task = task
        try:
            task.context.run(door.serve, found)
        except BaseException as problem:
            door.fail(problem)
        finally:
            del self._here.task


def _offset(runner: Any) -> float:
    """Of its clock, whose time is told here. Raises AttributeError where clock and deadlines are not as expected."""
    inside: Any = trio._core._run
    clock: Any = runner.clock
    if type(clock) is not inside.SystemClock:
        raise AttributeError("another clock than trio's own")
    _ = runner.deadlines._heap, trio.CancelScope()._registered_deadline
    offset: float = clock.offset
    return offset
