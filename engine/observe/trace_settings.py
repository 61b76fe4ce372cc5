"""What is traced: the settings at start, changes to them while running, and the counters that choose requests.

command line ◀── global ◀── one model        a field that is not pinned follows the one to the left, live
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from ..port.settings import TraceChanges, TraceField, TraceLevel, TraceMode

FIELDS: tuple[TraceField, ...] = ("level", "rate", "count", "log_frequency")
"""What may change while the server runs."""


class Setting:
    """The settings in force for one model, or for all without their own, and the position of the sampling.

    Each change makes a new one, so sampling starts afresh. On the trio thread only, but for the constant fields.
    """

    __slots__ = (
        "begun",
        "count",
        "finished",
        "is_replaced",
        "level",
        "log_frequency",
        "mode",
        "pinned",
        "rate",
        "seen",
    )

    def __init__(self, mode: TraceMode, values: TraceChanges, pinned: frozenset[TraceField] = frozenset()) -> None:
        self.mode = mode
        self.level: tuple[TraceLevel, ...] = values["level"]
        self.rate: int = values["rate"]
        self.count: int = values["count"]
        """Traces still to be taken."""
        self.log_frequency: int = values["log_frequency"]
        self.pinned = pinned
        """Fields set for this very model, or by command for all; the others follow."""
        self.seen = 0
        self.begun = 0
        """Traces whose request was accepted,"""
        self.finished = 0
        """and those that are complete."""
        self.is_replaced = False

    def values(self) -> TraceChanges:
        return {field: getattr(self, field) for field in FIELDS}

    def problem(self, file: str) -> str | None:
        """Why nothing can be traced by these settings, in the protocol's words; None if something can."""
        if not self.level:
            return "tracing is disabled"
        if self.mode == "triton" and self.rate == 0:
            return "sample rate must be non-zero"
        if self.mode == "triton" and not file:
            return "trace file name is not given"
        # The reference server has no words for a count that is used up.
        return "" if self.mode == "triton" and self.count == 0 else None

    def take(self) -> bool:
        """Counts a request. True when it is one to trace."""
        if self.rate == 0 or self.count == 0:
            return False
        self.seen += 1
        if self.seen % self.rate:
            return False
        if self.count > 0:
            self.count -= 1
        return True


def changed(current: Setting, fallback: TraceChanges, changes: TraceChanges, file: str) -> Setting:
    """The setting that follows `current` by `changes`; what is not pinned has `fallback`'s values.

    Raises InvalidArgument for a setting with a level by which nothing could be traced.
    """
    pinned = (current.pinned | {field for field, value in changes.items() if value is not None}) - {
        field for field, value in changes.items() if value is None
    }
    values: TraceChanges = {
        field: changes[field]
        if changes.get(field) is not None
        else getattr(current, field)
        if field in pinned
        else fallback[field]
        for field in FIELDS
    }
    setting = Setting(current.mode, values, pinned)
    problem = setting.problem(file)
    if problem is not None and setting.level:
        raise InvalidArgument(f"Attempting to set invalid trace setting :{problem}")
    return setting
