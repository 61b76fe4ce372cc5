"""What is logged, and how: one object that the command line makes, log handlers ask, and both doors show and change."""

from __future__ import annotations

import logging
from typing import Final, Literal

import attrs

from ..schema.fault import InvalidArgument, Unsupported
from ..schema.text import encodable

LogFormat = Literal["default", "ISO8601"]

SWITCHES: Final = ("log_info", "log_warning", "log_error")
NAMES: Final = ("log_file", *SWITCHES, "log_verbose_level", "log_format")
"""In the order in which a request's changes are applied: earlier ones stick when a later one is refused."""


@attrs.define(kw_only=True)
class LogSettings:
    """What is logged, and how. Mutable: a running server may be told to log more."""

    verbose: int = 0
    """0 is nothing more than the three switches say."""
    info: bool = True
    warning: bool = True
    error: bool = True
    format: LogFormat = "default"
    file: str = ""
    """Append to this file; empty for the console."""

    def allows(self, level: int) -> bool:
        """Whether a record of this level is written now."""
        if level >= logging.ERROR:
            return self.error
        if level >= logging.WARNING:
            return self.warning
        if level >= logging.INFO:
            return self.info
        return self.verbose >= 11 - level

    def take_effect(self) -> None:
        """Tells the package's loggers which records are wanted, so that the others are not even made. Verbose level N
        of the protocol is the logging level 11 - N: level 1 is DEBUG."""
        logging.getLogger("despina").setLevel(max(1, 11 - self.verbose) if self.verbose else logging.INFO)

    def shown(self) -> dict[str, bool | int | str]:
        """The protocol's members, in its order."""
        return {
            "log_file": encodable(self.file),
            "log_info": self.info,
            "log_warning": self.warning,
            "log_error": self.error,
            "log_verbose_level": self.verbose,
            "log_format": self.format,
        }

    def put(self, name: str, value: bool | int | str) -> None:
        """Changes one setting, one of NAMES, to a value of its type.

        Raises Unsupported for `log_file`, InvalidArgument for a level or a format that does not exist.
        """
        if name == "log_file":
            raise Unsupported("log file location can not be updated through network protocol")
        if name == "log_verbose_level":
            self.verbose = int(value)
        elif name == "log_format":
            self.format = _format_of(str(value))
        else:
            setattr(self, name.removeprefix("log_"), bool(value))
        self.take_effect()


def _format_of(text: str) -> LogFormat:
    if text == "default":
        return "default"
    if text == "ISO8601":
        return "ISO8601"
    raise InvalidArgument(f"invalid argument for log_format, got: {text}")
