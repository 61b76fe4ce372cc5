"""Whether a queue stands, and so is to be served newest first until it has drained. Pure.

A queue is good while it takes up a burst and drains again. It stands when it does not drain: who comes is served no
sooner than those before him, only later, and where callers leave after a while without having said when, it is those
who are about to leave that are served. Served newest first, those who came last are in time, the others leave as they
would have anyhow.

What tells the two apart is the least time that anybody has waited over a while: in a burst somebody soon finds the
queue nearly empty.
"""

from __future__ import annotations

import attrs

TARGET_S = 0.005
"""Waiting that long is no sign of anything."""
INTERVAL_S = 0.1
"""A queue stands if everybody served for so long has waited longer than that."""
INTERVAL_COSTS = 10
"""And for so many executions, where these take long."""


@attrs.define
class StandingQueue:
    """Told of what is taken out of one queue."""

    patience_s: float = 0.0
    """What requests wait for company, which is no sign either."""
    cost_s: float = 0.0
    """What an execution is known to cost: who comes while one is under way waits that long at least."""
    newest_first: bool = False
    above_since: float | None = None
    """Since when everybody taken had waited long."""

    def took(self, now: float, waited_s: float | None, waiting: int) -> None:
        """Jobs were taken; the one that had waited least had waited `waited_s`, and `waiting` are left. None for a
        time says nothing: all of them had deadlines, and those who cannot be in time are not served anyhow."""
        if not waiting:
            self.newest_first = False
            self.above_since = None
        elif self.newest_first or waited_s is None:
            return
        elif waited_s < max(TARGET_S, self.cost_s) + self.patience_s:
            self.above_since = None
        elif self.above_since is None:
            self.above_since = now
        elif now - self.above_since >= max(INTERVAL_S, INTERVAL_COSTS * self.cost_s):
            self.newest_first = True
