"""What is logged, and how: one object that the command line makes, log handlers ask, and both doors show and change."""

from __future__ import annotations

import logging
from typing import Final, Literal

import attrs

from ..native.messages import levels_changed
from ..schema.fault import InvalidArgument, Unsupported
from ..schema.text import encodable

LogFormat = Literal["default", "ISO8601", "json"]

LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}

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
    models: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=tuple)
    """Models and the level from which on lines that concern them are written, instead of what the switches say: see
    `model_level`. The last of several counts."""
    levels: dict[str, int] = attrs.field(init=False)
    """The same as levels of `logging`."""

    def __attrs_post_init__(self) -> None:
        self.levels = {model: _level(text) for model, text in self.models}

    def put_models(self, changes: dict[str, str | None]) -> None:
        """Gives these models levels of their own, or with None takes them back. Raises InvalidArgument, and changes
        nothing, for a level that does not exist."""
        levels = dict(self.models)
        for model, text in changes.items():
            levels.pop(model, None)
            if text is not None:
                levels[model] = text
        try:
            found = {model: _level(text) for model, text in levels.items()}
        except ValueError as problem:
            raise InvalidArgument(
                f"invalid argument for log_models, got: {problem} (error, warning, info or a verbose level)"
            ) from None
        self.models, self.levels = tuple(levels.items()), found
        self.take_effect()

    def allows(self, level: int, model: str = "") -> bool:
        """Whether a record of this level, about that model if about one, is written now."""
        lowest = self.levels.get(model)
        if lowest is not None:
            return level >= lowest
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
        lowest = level_of(self.verbose) if self.verbose else logging.INFO
        logging.getLogger("despina").setLevel(min([lowest, *self.levels.values()]))
        levels_changed()

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


def level_of(verbose: int) -> int:
    """The level of `logging` that a verbose level of the protocol is."""
    return max(1, 11 - verbose)


def model_level(text: str) -> tuple[str, str]:
    """`MODEL,LEVEL` as a pair: error, warning, info, or the number of a verbose level. Raises ValueError."""
    model, _, level = text.rpartition(",")
    try:
        _level(level)
    except ValueError:
        model = ""
    if not model:
        raise ValueError(f"--log-model option format is '<model>,<error, warning, info or verbose level>'. Got {text}")
    return model, level


def _level(text: str) -> int:
    lowest = LEVELS.get(text.lower())
    if lowest is not None:
        return lowest
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return level_of(int(text)) if int(text) else logging.INFO


def _format_of(text: str) -> LogFormat:
    if text == "json":
        return "json"
    if text == "default":
        return "default"
    if text == "ISO8601":
        return "ISO8601"
    raise InvalidArgument(f"invalid argument for log_format, got: {text}")
