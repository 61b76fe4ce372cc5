"""Whether a caller in process is alone, or others are at work whose requests its own should wait for."""

from __future__ import annotations

LONELY_MAX = 8
"""Batches without company, after which requests are executed at once again."""


class Company:
    """Of one model's callers in process: whether several are at work, whose requests should wait for each other's.

    They are if one comes while another, answered at once, has not had its turn again; and until no request has found
    another one waiting for some time. Who comes through a door waits for the end of its pass, and says nothing of this.
    """

    __slots__ = ("at_once", "calling", "lonely", "resting")

    def __init__(self) -> None:
        self.at_once = True
        """A caller that finds nobody waiting is executed before its `submit` returns."""
        self.calling = False
        """A caller in process submits just now."""
        self.resting = 0
        """Callers who have been answered like that and let others run."""
        self.lonely = 0
        """Batches begun since a request found another one waiting."""

    def is_there(self) -> bool:
        """For a request that finds nobody waiting: whether it should wait nevertheless. Notices who comes and goes."""
        if not self.calling:
            return True
        if self.resting:
            self.at_once = False
            self.lonely = 0
        elif not self.at_once:
            self.lonely += 1
            self.at_once = self.lonely > LONELY_MAX
        return not self.at_once
