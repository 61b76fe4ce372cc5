"""Error codes of the C API as the engine's faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.fault import (
    AlreadyExists,
    Cancelled,
    Fault,
    InvalidArgument,
    ModelFailure,
    NotFound,
    Unavailable,
    Unknown,
    Unsupported,
)

if TYPE_CHECKING:
    from ...native.extension_port import Outcome

_BY_CODE: tuple[type[Fault], ...] = (
    Unknown,
    ModelFailure,
    NotFound,
    InvalidArgument,
    Unavailable,
    Unsupported,
    AlreadyExists,
    Cancelled,
)


def fault_of(code: int, text: str) -> Fault:
    kind = _BY_CODE[code] if 0 <= code < len(_BY_CODE) else Unknown
    return kind(text)


def check(outcome: Outcome) -> None:
    """Raises the fault of a call that has failed."""
    code, text = outcome
    if code >= 0:
        raise fault_of(code, text or "")
