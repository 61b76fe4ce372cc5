"""Who has jobs, as jobs see them. `Any` is the job, whose module needs this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .deferral import Deferral


class Execution(Protocol):
    """What jobs were executed in: see batch.py."""

    started_ns: int

    def spent_ns(self) -> tuple[int, int, int]: ...


class Holder(Protocol):
    """Who has a job before its turn: see execute/ahead.py."""

    def take_back(self) -> None:
        """Whatever its executor has not begun is queued again. On the trio thread."""
        ...


class Book(Protocol):
    """Where a job is in the books: see ledger.py."""

    version_text: str
    defers: bool
    """A job has been answered later at least once."""

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Runs a call on the trio thread soon."""
        ...

    def end_deferred(self, later: Deferral) -> None:
        """An answer has come after its batch."""
        ...

    @property
    def ending(self) -> Execution | None:
        """What those jobs were executed in whose callers are just being told."""
        ...

    def leave(self, job: Any) -> None:
        """The caller leaves."""
        ...

    def late(self, job: Any) -> None:
        """The caller's deadline has passed while the job executes."""
        ...
