"""Calls for the trio thread, from every other thread: through its loop, or at once where it waits for them.

    a thread:   post(call) ─┬─ the trio thread attends: it is woken, and makes the call
                            └─ else: trio's loop is woken, once for all calls that come until then
                make_here(call) ── the trio thread attends, and sleeps on: the thread makes the call in its place

A wake-up through the loop costs a byte through a socket, a turn of the loop and one of its tasks: several times what an
execution of a small model costs. One that is waited for costs a lock.

What is the trio thread's alone belongs to who holds `_place`: the trio thread itself, except while it sleeps in
`attend`. Then a call may be made in its place that asks nothing of trio, which knows its thread.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Mailbox:
    """One for each run. Calls are made in the order in which they were posted, and must not raise."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._soon = token.run_sync_soon
        self._calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
        self._place = threading.Lock()
        self._place.acquire()
        self._attended = False
        self._announced = False

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """The trio thread makes `call` soon. From any thread, also from within garbage collection. Raises
        trio.RunFinishedError when all is over."""
        self._calls.put((call, arguments))
        # In this order: whoever clears a mark looks at the calls afterwards, so none is left behind.
        if not (self._attended or self._announced):
            self._announced = True
            self._soon(self._deliver)

    def attend(self, seconds: float) -> bool:
        """On the trio thread: waits for a call, makes it and all that have come with it. False if none came in time.

        Nothing else happens on the trio thread meanwhile, so `seconds` is how long everybody may be held up.
        """
        try:
            found = self._sleep(seconds)
            if found is None:
                return False
            call, arguments = found
            call(*arguments)
            return True
        finally:
            self._deliver()

    def make_here(self, call: Callable[..., bool], *arguments: object) -> bool:
        """Makes `call` on this thread, in the trio thread's place, and returns what that does: whether it has done
        anything. False without it where the trio thread does not sleep, or calls wait for it. From any other thread.

        The call must not raise, nor block, nor ask anything of trio's: no time, no task, no event. The trio thread does
        not go on before it is over.
        """
        if not self._attended or not self._place.acquire(False):
            return False
        try:
            return self._attended and self._calls.empty() and call(*arguments)
        finally:
            self._place.release()

    def _sleep(self, seconds: float) -> tuple[Callable[..., object], tuple[object, ...]] | None:
        """The next call, or None if there was none in time. Somebody else may take the place meanwhile."""
        self._attended = True
        self._place.release()
        try:
            return self._calls.get(True, seconds)
        except queue.Empty:
            return None
        finally:
            self._place.acquire()
            self._attended = False

    def _deliver(self) -> None:
        self._announced = False
        while True:
            try:
                call, arguments = self._calls.get_nowait()
            except queue.Empty:
                return
            call(*arguments)


_MAILBOX: trio.lowlevel.RunVar[Mailbox] = trio.lowlevel.RunVar("MAILBOX")


def mailbox() -> Mailbox:
    """The run's. On the trio thread."""
    try:
        return _MAILBOX.get()
    except LookupError:
        found = Mailbox(trio.lowlevel.current_trio_token())
        _MAILBOX.set(found)
        return found
