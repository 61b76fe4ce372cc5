"""`pb_utils.Logger`: a model's lines go to the logger `despina.model`."""

from __future__ import annotations

import logging
from enum import IntEnum
from typing import ClassVar

from . import arguments

_log = logging.getLogger("despina.model")


class LogLevel(IntEnum):
    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


_LEVELS = {
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.VERBOSE: logging.DEBUG,
}


class Logger:
    """Usable on the class, from every method and thread of a model."""

    INFO: ClassVar[LogLevel] = LogLevel.INFO
    WARNING: ClassVar[LogLevel] = LogLevel.WARNING
    ERROR: ClassVar[LogLevel] = LogLevel.ERROR
    VERBOSE: ClassVar[LogLevel] = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: LogLevel = LogLevel.INFO) -> None:
        """Raises TypeError for what is no text and no level; so do the others."""
        if not isinstance(level, LogLevel):
            raise TypeError(f"log(): expected level to be one of Logger's levels, got {level!r}")
        _log.log(_LEVELS[level], "%s", arguments.message("log", message), stacklevel=2)

    @staticmethod
    def log_info(message: str) -> None:
        _log.info("%s", arguments.message("log_info", message), stacklevel=2)

    @staticmethod
    def log_warn(message: str) -> None:
        _log.warning("%s", arguments.message("log_warn", message), stacklevel=2)

    @staticmethod
    def log_error(message: str) -> None:
        _log.error("%s", arguments.message("log_error", message), stacklevel=2)

    @staticmethod
    def log_verbose(message: str) -> None:
        _log.debug("%s", arguments.message("log_verbose", message), stacklevel=2)
