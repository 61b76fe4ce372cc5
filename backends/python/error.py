"""Errors as user models write them: one that answers a request, one to raise."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from ...schema.fault import BY_CODE_NAME, Fault
from . import arguments


class ErrorCode(IntEnum):
    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError:
    """The error of one response. Its message reaches the client unchanged, its code decides the status."""

    __slots__ = ("_code", "_message")

    UNKNOWN: ClassVar[ErrorCode] = ErrorCode.UNKNOWN
    INTERNAL: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    NOT_FOUND: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND
    INVALID_ARG: ClassVar[ErrorCode] = ErrorCode.INVALID_ARG
    UNAVAILABLE: ClassVar[ErrorCode] = ErrorCode.UNAVAILABLE
    UNSUPPORTED: ClassVar[ErrorCode] = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS: ClassVar[ErrorCode] = ErrorCode.ALREADY_EXISTS
    CANCELLED: ClassVar[ErrorCode] = ErrorCode.CANCELLED

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        message = arguments.message("TritonError", message)
        if not isinstance(code, ErrorCode):
            raise TypeError(f"TritonError(): expected code to be one of TritonError's codes, got {code!r}")
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> ErrorCode:
        return self._code

    @classmethod
    def of(cls, fault: Fault) -> TritonError:
        """What a model sees of a fault."""
        name = next((name for name, kind in BY_CODE_NAME.items() if isinstance(fault, kind)), "INTERNAL")
        return cls(fault.message, ErrorCode[name])

    def fault(self) -> Fault:
        return BY_CODE_NAME[self._code.name](self._message)


class TritonModelException(Exception):
    """Raise it in any method of a model; `pb_utils` raises it where a model misuses it."""


def not_supported_yet(feature: str) -> TritonModelException:
    return TritonModelException(f"{feature} is not supported yet")
