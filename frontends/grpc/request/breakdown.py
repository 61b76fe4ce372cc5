"""What a client is told when something of ours breaks while its call is served: status and text.

| what broke | answer |
|---|---|
| no memory, for the message or anything else of the call | RESOURCE_EXHAUSTED |
| anything else | INTERNAL |

The log has the traceback. A breakdown ends with the call (`Call.break_off`), or where that is not possible any more
with its connection.
"""

from __future__ import annotations

import logging

from ....engine.port.concerns import about

logger = logging.getLogger("despina.grpc")

_RESOURCE_EXHAUSTED, _INTERNAL = 8, 13


def note(what: str, problem: Exception, told: object = None) -> None:
    """Puts `problem` and its traceback into the log; `told` is the call that met it, if one did.
    Never raises: there may be no memory for that either."""
    try:
        logger.error("gRPC: %s", what, exc_info=problem, extra=about(told=told))
    except Exception:
        return


def answer_to(problem: Exception) -> tuple[int, str]:
    """Status and text for a client whose call met `problem`, which is no Fault."""
    if isinstance(problem, MemoryError):
        return _RESOURCE_EXHAUSTED, "the server has no memory left for this request: try again later"
    return _INTERNAL, "Internal server error"
