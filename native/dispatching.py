"""What the library calls Python with: by the name of the operation, whoever answers it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from ..schema.fault import DeadlineExceeded, Fault, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .extension_port import Extension

log = logging.getLogger("despina.native")

NO_ERROR: Final = -1
INTERNAL: Final = 1
CODES: Final[Mapping[str, int]] = {
    "Unknown": 0,
    "Internal": INTERNAL,
    "Not found": 2,
    "Invalid argument": 3,
    "Unavailable": 4,
    "Unsupported": 5,
    "Already exists": 6,
    "Cancelled": 7,
    DeadlineExceeded.code_text: 4,  # the C API has no code of its own for it
}
"""The engine's faults as the C API's error codes."""

_operations: dict[str, Callable[[int, bytes], bytes]] = {}
_others: Callable[[int, str, bytes], bytes] | None = None
_beginnings: dict[int, Callable[[], None]] = {}
"""By the address of an object that nobody answers for before it is asked."""
_beginning = threading.RLock()


def code_of(fault: Fault) -> int:
    return CODES[fault.code_text]


def answer(native: Extension, operation: str, by: Callable[[int, bytes], bytes]) -> None:
    """From now on `by(object's address, arguments in JSON)` answers that operation. It may raise Fault."""
    _operations[operation] = by
    native.attach(dispatch)


def answer_others(native: Extension, by: Callable[[int, str, bytes], bytes]) -> None:
    """From now on `by(object's address, operation, arguments in JSON)` answers whatever nobody else does."""
    global _others
    _others = by
    native.attach(dispatch)


def begin_by(address: int, beginning: Callable[[], None]) -> None:
    """Before that object is asked something for the first time, `beginning` makes somebody answer for it. What it
    raises is the answer."""
    _beginnings[address] = beginning


def end_by(address: int) -> None:
    """Nobody asks that object any more."""
    _beginnings.pop(address, None)


def dispatch(address: int, operation: str, arguments: bytes) -> tuple[int, bytes]:
    """What the library calls: the error code, or -1, and the text. Never raises."""
    try:
        if address in _beginnings:
            _begin(address)
        answers = _operations.get(operation)
        if answers is None and _others is not None:
            return NO_ERROR, _others(address, operation, arguments)
        if answers is None:
            raise Unsupported(f"{operation}: there is no server that could be asked")
        return NO_ERROR, answers(address, arguments)
    except Fault as fault:
        return code_of(fault), fault.message.encode()
    except BaseException as problem:
        log.error("%s failed", operation, exc_info=problem)
        return INTERNAL, f"{type(problem).__name__}: {problem}".encode("utf-8", "replace")


def _begin(address: int) -> None:
    with _beginning:
        beginning = _beginnings.get(address)
        if beginning is not None:
            beginning()
            del _beginnings[address]
