"""The one tree of faults that reach a caller.

Each class knows its status on both protocols; the tree says whose fault each leaf is. A fault's message is what the
client sees, word for word, so it names the thing, what was expected and what was found, and never carries a traceback.

    Fault ─┬─ Unknown
           ├─ Internal ────────┬─ MalformedRequest (client)   JSON that does not parse (500 by protocol)
           │                   └─ ModelFailure ──── ExecutorDied (model)
           ├─ NotFound (client) ──── NotLoaded
           ├─ InvalidArgument (client)
           ├─ Unavailable ─────┬─ NotReady (server)
           │                   ├─ QueueFull, QueueTimeout (overload)
           │                   └─ ShuttingDown (shutdown)
           ├─ Unsupported (client)
           ├─ AlreadyExists (client)
           ├─ Restricted (client)
           ├─ Cancelled (client)
           └─ DeadlineExceeded (client)
"""

from __future__ import annotations

from typing import ClassVar

from .text import encodable


class Fault(Exception):
    """What went wrong with one request, one model or one command. `str(fault)` is the client's text."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[int] = 2
    code_text: ClassVar[str] = "Unknown"
    """How the code reads in a model's state reason: `Internal: <message>`."""

    def __init__(self, message: str = "") -> None:
        self.message = message = encodable(message)  # a model may raise any text, and every door says it as UTF-8
        super().__init__(message)

    def copy(self) -> Fault:
        """The same fault to raise anew: one raised twice would drag its first traceback along."""
        return type(self)(self.message)

    def as_reason(self) -> str:
        """The form that model states and load errors carry, e.g. `Invalid argument: unexpected ...`."""
        return f"{self.code_text}: {self.message}"


class Unknown(Fault):
    """A failure without a better class."""

    http_status = 400
    grpc_status = 2


class Internal(Fault):
    """The server, or something below it, broke its own rules."""

    http_status = 500
    grpc_status = 13
    code_text = "Internal"


class MalformedRequest(Internal):
    """JSON that does not parse or has a member of the wrong type. The protocol answers it with 500, not 400."""


class ModelFailure(Internal):
    """The user's model raised, or answered what it must not."""


class ExecutorDied(ModelFailure):
    """What executes a model is gone or cannot go on: its process died, its device is lost. A new one takes its place
    after a while."""


class NotFound(Fault):
    http_status = 404
    grpc_status = 5
    code_text = "Not found"


class NotLoaded(NotFound):
    """Nobody has loaded the model, but it loads on request: who can wait asks for `model_name` to be loaded, and again
    afterwards. To all others it is not found."""

    model_name = ""


class InvalidArgument(Fault):
    http_status = 400
    grpc_status = 3
    code_text = "Invalid argument"


class Unavailable(Fault):
    http_status = 503
    grpc_status = 14
    code_text = "Unavailable"


class NotReady(Unavailable):
    """The server or the model version exists but does not serve now."""


class QueueFull(Unavailable):
    """Refused on arrival: the model's queue is at its bound."""


class QueueTimeout(Unavailable):
    """Waited in the queue longer than it may."""


class ShuttingDown(Unavailable):
    """The server, or the model, takes nothing more."""


class Unsupported(Fault):
    http_status = 501
    grpc_status = 12
    code_text = "Unsupported"


class AlreadyExists(Fault):
    http_status = 400
    grpc_status = 6
    code_text = "Already exists"


class Restricted(Fault):
    """A restricted API without its key. HTTP says 403; gRPC says UNAVAILABLE."""

    http_status = 403
    grpc_status = 14
    code_text = "Unavailable"


class Cancelled(Fault):
    http_status = 400
    grpc_status = 1
    code_text = "Cancelled"


class DeadlineExceeded(Fault):
    """The caller's own deadline (gRPC `grpc-timeout`, `timeout=` in process) passed before the answer was there."""

    http_status = 504
    grpc_status = 4
    code_text = "Deadline exceeded"


BY_CODE_NAME: dict[str, type[Fault]] = {
    "UNKNOWN": Unknown,
    "INTERNAL": ModelFailure,
    "NOT_FOUND": NotFound,
    "INVALID_ARG": InvalidArgument,
    "UNAVAILABLE": Unavailable,
    "UNSUPPORTED": Unsupported,
    "ALREADY_EXISTS": AlreadyExists,
    "CANCELLED": Cancelled,
}
"""Error codes as user models name them (`TritonError.INVALID_ARG`)."""
