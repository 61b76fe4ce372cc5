"""The end of `despina serve`: what signals do, until when stopping may take, and with which code it ends."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = logging.getLogger("despina.serve")


def signals_to_watch() -> list[signal.Signals]:
    """SIGHUP only where it is not ignored already: `nohup` means it."""
    watched = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        watched.append(signal.SIGHUP)
    return watched


class Stopping:
    """Who asked for the end, and how it goes.

    | message                            | effect                                                            |
    |------------------------------------|-------------------------------------------------------------------|
    | first signal                       | `asked` is set, `before` is cancelled, the time begins to run     |
    | another one                        | none: what is in flight is answered as if it had come once        |
    | SIGINT, REPEAT_S after the first   | the process ends at once, with code 1: somebody sits there        |
    | SIGHUP, where `reload` is given    | it is called, and nothing ends                                    |
    | time over                          | the process ends at once, with code 1 and a line that says so     |
    """

    REPEAT_S = 1.0
    """Signals that come closer together are one wish that came by several ways: a terminal's and a parent's."""

    GRACE_S = 0.5
    """How long after the deadline the orderly way out may still succeed."""

    def __init__(self, timeout_s: float, reload: Callable[[], None] | None = None) -> None:
        self.asked = trio.Event()
        self.before = trio.CancelScope()
        """Around what is pointless once the server shall stop."""
        self.deadline = math.inf
        """On trio's clock, in seconds; known once `asked` is set."""
        self.exit_code = 0
        self._timeout_s = timeout_s
        self._reload = reload
        self._asked_at = math.inf

    async def watch(self, signals: AsyncIterator[int]) -> None:
        """Waits for signals until cancelled."""
        async with trio.open_nursery() as nursery:
            async for number in signals:
                with contextlib.suppress(OSError, ValueError):  # nobody may read it any more
                    print(f"Signal ({number}) received.", flush=True)
                now = trio.current_time()
                if number == signal.SIGHUP and self._reload is not None:
                    self._reload()
                elif not self.asked.is_set():
                    self._asked_at = now
                    self.deadline = now + self._timeout_s
                    self.asked.set()
                    self.before.cancel()
                    nursery.start_soon(self._watch_time)
                elif number == signal.SIGINT and now - self._asked_at >= self.REPEAT_S:
                    end_now(1)

    async def _watch_time(self) -> None:
        await trio.sleep_until(self.deadline + self.GRACE_S)
        self.fail("Exit timeout expired. Exiting immediately.")
        end_now(1)

    def fail(self, reason: str) -> None:
        log.error("failed to stop server: Internal - %s", reason)
        self.exit_code = 1


def end_now(code: int) -> None:
    """Ends the process without waiting for threads that execute models."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
