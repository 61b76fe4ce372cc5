"""Blocking work that may hang, on a worker thread: how long anybody waits for it is bounded, and its result is undone
when nobody wants it any more."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from ...schema.fault import Internal

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("despina.engine.repository.worker")

_T = TypeVar("_T")

UNDO_S_MIN = 1.0
"""Undoing gets that long even if nothing may be waited for: with no time at all it would never begin."""


async def in_worker(
    what: str,
    work: Callable[[], _T],
    undo: Callable[[_T], object],
    *,
    limiter: trio.CapacityLimiter,
    timeout_s: float,
    patience_s: float,
) -> _T:
    """What `work()` returns or raises. After `timeout_s` its thread is abandoned, which raises Internal; cancelled, it
    is waited for `patience_s` more and then abandoned.

    The result of a thread that is late goes to `undo`, on that thread. Abandoned threads keep their place in `limiter`
    until they come back. `what` is for the log: `opening model 'm'`.
    """
    call = _Call(what, work, undo)
    try:
        with trio.move_on_after(timeout_s):
            await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=limiter)
    except trio.Cancelled:
        await call.undone(patience_s)
        raise
    if call.leave():
        log.error("%s has not come back within %g s: its thread is abandoned", what, timeout_s)
        raise Internal(f"{what} has not come back within {timeout_s:g} s")
    return call.result()


class _Call(Generic[_T]):
    """The state of one piece of work, between its thread and the task that waits."""

    def __init__(self, what: str, work: Callable[[], _T], undo: Callable[[_T], object]) -> None:
        self._what = what
        self._work = work
        self._undo = undo
        self._lock = threading.Lock()
        self._begun = self._over = self._left = False
        self._results: list[_T] = []
        self._error: BaseException | None = None
        self._ended = trio.Event()
        self._post = trio.lowlevel.current_trio_token().run_sync_soon

    def run(self) -> None:
        """On the worker thread."""
        with self._lock:
            if self._left:
                return
            self._begun = True
        try:
            self._results.append(self._work())
        except BaseException as error:  # for the task that waits
            self._error = error
        with self._lock:
            self._over = True
            late = self._left
        if late:
            self._undo_all()
        with suppress(trio.RunFinishedError):
            self._post(self._ended.set)

    def leave(self) -> bool:
        """Nobody waits any more. False if there is nothing to wait for: the work is over."""
        with self._lock:
            self._left = True
            return not self._over

    def result(self) -> _T:
        if self._error is not None:
            raise self._error
        return self._results[0]

    async def undone(self, patience_s: float) -> None:
        """Leaves as if nothing had happened, as far as that can be had in the time. For a task that is cancelled."""
        going_on = self.leave()
        with trio.move_on_after(patience_s if going_on else max(patience_s, UNDO_S_MIN), shield=True) as patience:
            if not going_on:
                await trio.to_thread.run_sync(self._undo_all, abandon_on_cancel=True)
            elif self._begun:
                await self._ended.wait()
        if patience.cancelled_caught:
            log.error("%s has not come back within %g s: its thread is abandoned", self._what, patience_s)

    def _undo_all(self) -> None:
        for result in self._results:
            try:
                self._undo(result)
            except Exception:
                log.exception("undoing what %s had done failed", self._what)
