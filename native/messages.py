"""What programs and libraries log through the C API: lines of one logger."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final, cast

import orjson

from .dispatching import answer
from .loading import MODULE

if TYPE_CHECKING:
    from .extension_port import Extension

LOGGER: Final = "despina.native.message"
_LEVELS: Final = (logging.INFO, logging.WARNING, logging.ERROR, logging.DEBUG)
"""By the numbers of the C API."""

log = logging.getLogger(LOGGER)


def answer_messages(native: Extension) -> None:
    """Lets them log. Idempotent."""
    answer(native, "log", _log)


def follow_logger(native: Extension) -> None:
    """They are told that what the logger would drop now is not written: many make no line then."""
    native.log_levels(sum(1 << number for number, level in enumerate(_LEVELS) if log.isEnabledFor(level)))


def levels_changed() -> None:
    """The logger's level may be another: what is loaded is told. Loads nothing."""
    loaded = sys.modules.get(MODULE)
    if loaded is not None:
        follow_logger(cast("Extension", loaded))


def _log(_: int, arguments: bytes) -> bytes:
    number, file, line, message = orjson.loads(arguments)
    level = _LEVELS[number]
    if log.isEnabledFor(level):
        log.handle(log.makeRecord(LOGGER, level, file, line, "%s", (message,), None))
    return b""
