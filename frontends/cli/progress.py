"""What a terminal shows while models load: a line that moves. Elsewhere the log's plain lines are the progress."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.status import Status

    from .settings import ServeSettings


@contextlib.contextmanager
def loading_progress(settings: ServeSettings) -> Iterator[None]:
    """Shows the repository's latest news beside a spinner, when standard output is a terminal."""
    if not sys.stdout.isatty() or not settings.log.info or settings.log.file:
        yield
        return
    from rich.console import Console  # a terminal's luxury: 50 ms that a service does not pay

    with Console().status("loading models") as status:
        follower = _Follower(status)
        logger = logging.getLogger("despina.engine.repository")
        logger.addHandler(follower)
        try:
            yield
        finally:
            logger.removeHandler(follower)


class _Follower(logging.Handler):
    """Turns the repository's log lines into the status line."""

    def __init__(self, status: Status) -> None:
        super().__init__(logging.INFO)
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        from rich.markup import escape

        self._status.update(escape(record.getMessage().split("\n", 1)[0]))
