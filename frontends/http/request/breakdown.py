"""What a client is told when something of ours breaks while its request is served: status and text.

| what broke | answer |
|---|---|
| no memory for a large body | 413: it cannot be taken here, a smaller one can |
| no memory for anything else | 503: the server is short of memory, whoever asks |
| anything else | 500 with the kind of the exception |

The log has the traceback. A breakdown ends with the request, or where its answer had begun with its connection.
"""

from __future__ import annotations

import logging
from typing import Final

from ....engine.port.concerns import about

logger = logging.getLogger("despina.http")

_LARGE_BODY_BYTES: Final = 128 * 1024
"""A body up to here fails for the server's want of memory, not for its own size."""


class NoRoomForBody(MemoryError):
    """A body, or as much of it as has come, has no place in memory."""

    def __init__(self, size: int) -> None:
        super().__init__(f"no memory for a request body of {size} bytes")
        self.size = size


def note(what: str, problem: Exception, told: object = None) -> None:
    """Puts `problem` and its traceback into the log; `told` is the connection that met it, if one did.
    Never raises: there may be no memory for that either."""
    try:
        logger.error("HTTP: %s", what, exc_info=problem, extra=about(told=told))
    except Exception:
        return


def answer_to(problem: Exception) -> tuple[int, str]:
    """Status and text for a client whose request met `problem`, which is no Fault."""
    if isinstance(problem, NoRoomForBody) and problem.size > _LARGE_BODY_BYTES:
        return 413, f"{problem}: send less in one request"
    if isinstance(problem, MemoryError):
        return 503, "the server has no memory left for this request: try again later"
    return 500, f"internal error: {type(problem).__name__}"
