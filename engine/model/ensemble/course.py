"""What is under way for the jobs of an ensemble, as they see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.fault import Fault
    from ...request.job import Job


class Course(Protocol):
    """What is under way for a job."""

    def blockers(self) -> Sequence[Sequence[Job]]:
        """What holds it up: see port/served.py."""
        ...

    def abandon(self) -> None:
        """The caller has left."""
        ...

    def late(self) -> None:
        """The caller's deadline has passed."""
        ...

    def shut(self, fault: Fault) -> None:
        """Ends it with that fault."""
        ...


class StreamCourse(Course, Protocol):
    @property
    def is_held_up(self) -> bool:
        """Whether a step waits until what it has answered is read."""
        ...

    def consumed(self, count: int) -> None:
        """The caller has read so many answers."""
        ...

    def look(self, now: float) -> None:
        """Time has passed: a step may be silent for too long."""
        ...
