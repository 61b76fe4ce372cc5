"""Logging as the protocol shows it: `I1122 15:24:30.333312 25465 serve.py:45] "message"`.

INFO and verbose lines go to stdout, WARNING and above to stderr; all of them to one file with `--log-file`.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import orjson

from ...schema.text import encodable
from .log_file import LogFile

if TYPE_CHECKING:
    from ..log_settings import LogSettings

TABLE = {"table": True}
"""`extra=` of a record whose text is a table: written as it is, below its header line."""


class _Console(logging.Handler):
    """Writes to what `sys` names at that moment: a progress display puts itself in between."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        super().__init__()
        self._stream_name = name

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = getattr(sys, self._stream_name)
            line = self.format(record) + "\n"
            try:
                stream.write(line)
            except UnicodeEncodeError:  # a console that knows few letters
                stream.write(line.encode("ascii", "backslashreplace").decode())
            stream.flush()
        except Exception:
            pass  # nobody reads the console any more, or its disk is full; the caller has a request to answer


class LineFormatter(logging.Formatter):
    """One record, one line, unless it is a table: the message is a JSON string, a traceback inside it."""

    def __init__(self, settings: LogSettings, *, escape: bool = True) -> None:
        super().__init__()
        self._settings = settings
        self._escape = escape
        self._pid = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception as error:  # a user model's own logging may not fit its arguments
            message = f"{record.msg} (its arguments do not fit: {error})"
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        message = encodable(message)
        head = self._head(record)
        if getattr(record, "table", False):
            return f"{head}\n{message}\n"
        return f"{head}{orjson.dumps(message).decode() if self._escape else message}"

    def _head(self, record: logging.LogRecord) -> str:
        letter = "E" if record.levelno >= logging.ERROR else "W" if record.levelno >= logging.WARNING else "I"
        at = datetime.fromtimestamp(record.created, UTC)
        where = f"{self._pid} {record.filename}:{record.lineno}] "
        if self._settings.format == "ISO8601":
            return f"{at:%Y-%m-%dT%H:%M:%SZ} {letter} {where}"
        return f"{letter}{at:%m%d %H:%M:%S.%f} {where}"


def configure_logging(settings: LogSettings) -> LogFile | None:
    """Sends the package's loggers to the console or the file, which is returned. Raises OSError when the file cannot be
    opened."""
    escape = os.environ.get("TRITON_SERVER_ESCAPE_LOG_MESSAGES", "1").lower() not in ("0", "false", "off")
    formatter = LineFormatter(settings, escape=escape)
    handlers: list[logging.Handler]
    log_file = LogFile(settings.file) if settings.file else None
    if log_file:
        handlers = [log_file]
    else:
        handlers = [_Console("stdout"), _Console("stderr")]
        handlers[0].addFilter(lambda record: record.levelno < logging.WARNING)
        handlers[1].addFilter(lambda record: record.levelno >= logging.WARNING)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(lambda record: settings.allows(record.levelno))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    settings.take_effect()
    logging.captureWarnings(True)
    return log_file
