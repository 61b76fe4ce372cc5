"""Which requests a line of the log concerns: found out when there is a line, so that it costs nothing until then.

    a thread executes a batch ─▶ HERE.jobs ──┐
    `extra=concerning(jobs)` ────────────────┼─▶ concern_of(record) ─▶ what the log's formats write
    `extra=about(request_id=..., ...)` ──────┤
    `extra=of_model(name)`, HERE.model ──────┘

Who called is asked of whoever is to be told: a door's callback holds the door's request, which knows its `peer`.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection, Iterator, Sequence

REQUESTS_MAX: Final = 16
"""Of a batch, named in one line."""
_TRACEPARENT: Final = re.compile(r"\s*[0-9a-f]{2}-([0-9a-f]{32})-")


@attrs.frozen
class RequestFacts:
    """One request. Empty for what is not known."""

    request_id: str = ""
    trace_id: str = ""
    """32 hexadecimal digits, or the number of a trace in a trace file."""
    caller: str = ""
    """The peer's address and port."""


@attrs.frozen
class Concern:
    """What one line is about."""

    model: str = ""
    version: str = ""
    requests: tuple[RequestFacts, ...] = ()
    more: int = 0
    """Requests beyond those."""


class _Here(threading.local):
    jobs: Sequence[Any] = ()
    """What this thread executes now."""
    model: str = ""
    """The model that this thread is for."""


HERE = _Here()


@contextmanager
def opening(model: str) -> Iterator[None]:
    """What this thread logs meanwhile is about a model that is being opened or closed."""
    before, HERE.model = HERE.model, model
    try:
        yield
    finally:
        HERE.model = before


def concerning(jobs: Collection[Any], model: str = "") -> dict[str, Any]:
    """`extra=` of a line about these accepted requests."""
    return {"concern": _of_jobs(jobs, model)}


def of_model(model: str, version: object = "") -> dict[str, Any]:
    """`extra=` of a line about a model."""
    return {"concern": Concern(model, str(version))}


def answered(job: Any, told: object) -> Concern:
    """Of a request that is over; `told` is the door's request or call that has the answer."""
    request = job.request
    return Concern(request.model_name, job.version_text, (_facts(request.id, request.trace, told),))


def about(model: str = "", version: str = "", request_id: str = "", told: object = None) -> dict[str, Any]:
    """`extra=` of a line about one request that was not accepted; `told` is the door's request or call."""
    return {"concern": Concern(model, version, (_facts(request_id, None, told),))}


def concern_of(record: logging.LogRecord) -> Concern | None:
    """On the thread that has made the record, or later if it was noted before. None for a line about no model."""
    found: Concern | None = getattr(record, "concern", None)
    if found is None and HERE.jobs:
        found = _of_jobs(HERE.jobs, HERE.model)
    if found is None and HERE.model:
        found = Concern(HERE.model)
    return found


def _of_jobs(jobs: Collection[Any], model: str) -> Concern:
    first = list(jobs)[:REQUESTS_MAX]
    try:
        requests = tuple(_facts(job.request.id, job.request.trace, getattr(job, "told", None)) for job in first)
        name = model or (first[0].request.model_name if first else "")
        version = first[0].version_text if first and first[0].ledger is not None else ""
    except Exception:  # a line without its context is better than none, and nothing may be raised for either
        return Concern(model)
    return Concern(name, version, requests, len(jobs) - len(first))


def _facts(request_id: str, trace: Any, told: object) -> RequestFacts:
    trace_id = ""
    if trace is not None:
        trace_id = f"{trace.trace_id:032x}" if trace.trace_id else str(trace.id)
    caller = ""
    for held in (told, getattr(told, "__self__", None), *getattr(told, "args", ())):
        peer = getattr(held, "peer", None)
        if isinstance(peer, str):
            caller = peer
            if not trace_id:
                found = _TRACEPARENT.match(getattr(held, "traceparent", ""))
                trace_id = found[1] if found else ""
            break
    else:
        inner = getattr(told, "func", None)
        if inner is not None:
            return attrs.evolve(_facts(request_id, trace, inner), request_id=request_id)
    return RequestFacts(request_id, trace_id, caller)


def peer_name(sock: Any) -> str:
    """A client's address as the log has it: `10.0.0.1:40000`, `[::1]:40000`, or `unix` for a local socket."""
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    if not isinstance(name, tuple):
        return "unix"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
