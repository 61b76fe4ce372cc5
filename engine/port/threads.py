"""Threads of executors, and what they wait for: the operating system's, unless a run is given others.

    THREADS.set(others)     at the beginning of `trio.run`, before any model is opened

A simulation gives a run threads that it steps one at a time, on its own clock.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Bell(Protocol):
    """What one thread waits for and others ring, from anywhere, also from within garbage collection."""

    def put(self, item: bool, /) -> None: ...

    def get(self) -> bool:
        """Waits for the next ring, as long as that takes."""
        ...


class Room(Protocol):
    """A lock to hold for a moment, and what is waited for with it: a condition."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> object: ...

    def wait(self) -> object:
        """Lets go of the lock until somebody notifies. Whoever calls holds it."""
        ...

    def notify_all(self) -> None: ...


class Threads(Protocol):
    """Where a run's executors get their threads from."""

    run_by_themselves: bool
    """The trio thread may wait for one of them: it goes on meanwhile."""

    def start(self, target: Callable[[], object], name: str) -> None:
        """Runs `target` on a new thread, which the process does not wait for at its end."""
        ...

    def bell(self) -> Bell: ...

    def room(self) -> Room: ...


class SystemThreads:
    """Those of the operating system."""

    run_by_themselves = True

    def start(self, target: Callable[[], object], name: str) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()

    def bell(self) -> Bell:
        return queue.SimpleQueue()

    def room(self) -> Room:
        return threading.Condition(threading.Lock())


THREADS: trio.lowlevel.RunVar[Threads] = trio.lowlevel.RunVar("THREADS", SystemThreads())
