"""The exceptions of the in-process package, and what of the engine's faults becomes which."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...schema.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator


class TritonError(Exception):
    """Whatever the server says went wrong."""


class UnknownError(TritonError): ...


class InternalError(TritonError): ...


class NotFoundError(TritonError): ...


class InvalidArgumentError(TritonError): ...


class UnavailableError(TritonError): ...


class UnsupportedError(TritonError): ...


class AlreadyExistsError(TritonError): ...


_BY_CODE: dict[str, type[TritonError]] = {
    "Unknown": UnknownError,
    "Internal": InternalError,
    "Not found": NotFoundError,
    "Invalid argument": InvalidArgumentError,
    "Unavailable": UnavailableError,
    "Unsupported": UnsupportedError,
    "Already exists": AlreadyExistsError,
    "Deadline exceeded": UnavailableError,
}


def error_of(fault: Fault) -> TritonError:
    return _BY_CODE.get(fault.code_text, TritonError)(fault.message)


@contextmanager
def told() -> Iterator[None]:
    """Raises the package's exceptions in the place of faults."""
    try:
        yield
    except Fault as fault:
        raise error_of(fault) from fault
