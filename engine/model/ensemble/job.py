"""What callers of an ensemble hold: jobs that other models' answers are composed for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...request.job import Job
from ...request.ledger import End
from ...request.stream import StreamJob

if TYPE_CHECKING:
    from ...request.stream import Answer
    from .course import Course, StreamCourse


class EnsembleJob(Job):
    """Of an ensemble that answers once."""

    course: Course | None = None
    """None once it is over."""


class EnsembleStream(StreamJob):
    """Of one that has decoupled models."""

    ends: ClassVar[End] = End.COMPOSED
    course: StreamCourse | None = None

    def give(self, answer: Answer) -> None:
        """Answers once more. On the trio thread; never blocks."""
        self._send(answer)

    def spent_ns(self) -> tuple[int, int, int]:
        return (0, 0, 0) if self.batch is None else self.batch.spent_ns()

    @property
    def is_held_up(self) -> bool:
        return self.course is not None and self.course.is_held_up

    def consumed(self, count: int = 1) -> None:
        super().consumed(count)
        if self.course is not None:
            self.course.consumed(count)

    def _hand_over(self) -> None:
        self._deliver()  # at once: answers come on the trio thread

    def _count(self, answer: Answer) -> None:
        """As the reference server, which counts single answers where they are made."""
        self._note(answer)
