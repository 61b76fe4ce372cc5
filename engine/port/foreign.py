"""What others raise, renamed once: at the ports, before anybody above sees it."""

from __future__ import annotations

from ...schema.fault import Fault, ModelFailure


def as_fault(error: BaseException) -> Fault:
    """A fault for whatever a backend raised. Foreign exceptions become `ExceptionType: text`."""
    if isinstance(error, Fault):
        return error
    text = str(error)
    return ModelFailure(f"{type(error).__name__}: {text}" if text else type(error).__name__)
