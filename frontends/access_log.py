"""The access log: one line for each request, with its status, its bytes and the time that it took, stage by stage.

Off, there is none of this: doors are opened without, and no request looks for it. On, every request goes by the long
way and is measured, each Nth is written, and so is each that failed.

| member | |
|---|---|
| door, method, path, status | `http` or `grpc`; of gRPC the method is empty, and statuses are its own numbers |
| request_bytes, response_bytes | of bodies, as sent: compressed if they were |
| duration_us | from the request's first byte, or where it was whole from its arrival, to the last byte that left |
| receive_us, send_us | of it: until the body was there, and from the reply until it had left |
| queue_us, input_us, infer_us, output_us | of inference: the stages of the model's statistics |
| model, version, request_id, trace_id, caller | as in the server's log |
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..engine.port.concerns import Concern, answered

if TYPE_CHECKING:
    from ..engine.port.served import Inference

logger: Final = logging.getLogger("despina.access")
CLIENT_LEFT: Final = 499
"""The status of HTTP requests whose clients had left: no protocol's, but what proxies call it."""


@attrs.frozen(kw_only=True)
class AccessSettings:
    """Whether there is an access log, and where. Raises ValueError for a rate that cannot be."""

    file: str = ""
    """Append lines of JSON to this file; `-` for the server's log, in its format; empty for none."""
    rate: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    """Each so many requests one is written; those that failed always are."""


class AccessLog:
    """For the trio thread. `logger` has to lead somewhere: see cli/log_format.py."""

    def __init__(self, rate: int = 1) -> None:
        self._rate = rate
        self._count = 0

    def write(self, entry: Entry, *, failed: bool) -> None:
        """If it is its turn. Never raises."""
        self._count += 1
        if (failed or self._count % self._rate == 0) and logger.isEnabledFor(logging.INFO):
            facts = entry.facts()
            times = ", ".join(f"{name.removesuffix('_us')} {facts[name]}" for name in facts if name.endswith("_us"))
            logger.info(
                "%s %s%s %s, %d bytes in, %d out, us: %s",
                entry.door,
                f"{entry.method} " if entry.method else "",
                entry.path,
                entry.status,
                entry.request_bytes,
                entry.response_bytes,
                times,
                extra={"access": facts, "concern": entry.concern},
            )


class Entry:
    """What is noted of one request on its way."""

    __slots__ = (
        "_began_ns",
        "_received_ns",
        "_replied_ns",
        "_stages",
        "concern",
        "door",
        "method",
        "path",
        "request_bytes",
        "response_bytes",
        "status",
    )

    def __init__(self, door: str, method: str, path: str, request_bytes: int, began_s: float = 0.0) -> None:
        """The request is whole now; it began so many seconds before."""
        self.door = door
        self.method = method
        self.path = path
        self.request_bytes = request_bytes
        self.response_bytes = 0
        self.status = 0
        self.concern: Concern | None = None
        self._received_ns = time.monotonic_ns()
        self._began_ns = self._received_ns - int(began_s * 1e9)
        self._replied_ns = 0
        self._stages: dict[str, int] = {}

    def executed(self, job: Inference, told: object) -> None:
        """While its caller is told: what became of it in the engine. `told` knows the peer."""
        self.concern = answered(job, told)
        queue, (reading, inference, output) = job.waited_ns(), job.spent_ns()
        if queue or inference:
            stages = {"queue_us": queue, "input_us": reading, "infer_us": inference, "output_us": output}
            self._stages = {name: spent // 1000 for name, spent in stages.items()}

    def replied(self) -> None:
        """The reply begins to leave."""
        self._replied_ns = self._replied_ns or time.monotonic_ns()

    def facts(self) -> dict[str, Any]:
        """It is over."""
        now = time.monotonic_ns()
        return {
            "door": self.door,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "duration_us": (now - self._began_ns) // 1000,
            "receive_us": (self._received_ns - self._began_ns) // 1000,
            **self._stages,
            "send_us": (now - (self._replied_ns or now)) // 1000,
        }
