"""For how long a target goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE_S: Final = 60.0


def span(seconds: float, reached: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Goes round for so many seconds, and on where a busy machine has not `reached` by then what a run must reach: a
    minute more at most."""
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until or (now < until + _PATIENCE_S and not reached()):
        yield
