"""Logging as the protocol shows it: `I1122 15:24:30.333312 25465 serve.py:45] "message"`, or as lines of JSON.

A line that concerns requests says so behind its message: `[model m, version 1, request id a, caller 10.0.0.1:4711]`.

INFO and verbose lines go to stdout, WARNING and above to stderr; all of them to one file with `--log-file`.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

import orjson

from ...engine.port.concerns import concern_of
from ...schema.text import encodable
from ..access_log import logger as access
from ..log_settings import LogSettings
from ..refusals import UNKNOWN_ID
from .log_file import LogFile
from .log_json import json_line

if TYPE_CHECKING:
    from ..access_log import AccessSettings

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
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        if self._settings.format == "json":
            return json_line(record, message, exception)
        if exception:
            message = f"{message}\n{exception}"
        message = encodable(message)
        head = self._head(record)
        context = _context(record)
        if context:
            message = f"{message} {context}"
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


def _is_wanted(settings: LogSettings, record: logging.LogRecord) -> bool:
    if not settings.levels:
        return settings.allows(record.levelno)
    concern = concern_of(record)
    return settings.allows(record.levelno, "" if concern is None else concern.model)


def _context(record: logging.LogRecord) -> str:
    """`[model m, version 1, request id a, caller 10.0.0.1:4711]`; nothing for a record that concerns no request."""
    concern = concern_of(record)
    if concern is None or not concern.requests:
        return ""
    known = [("model", concern.model), ("version", concern.version)]
    if len(concern.requests) == 1:
        (one,) = concern.requests
        known += [("request id", one.request_id), ("trace", one.trace_id), ("caller", one.caller)]
    else:
        ids = " ".join(one.request_id or UNKNOWN_ID for one in concern.requests)
        known.append(("request ids", f"{ids} and {concern.more} more" if concern.more else ids))
        known.append(("traces", " ".join(one.trace_id for one in concern.requests if one.trace_id)))
        known.append(("callers", " ".join(dict.fromkeys(one.caller for one in concern.requests if one.caller))))
    shown = ", ".join(f"{name} {value}" for name, value in known if value)
    return f"[{encodable(shown)}]" if shown else ""


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
        handler.addFilter(partial(_is_wanted, settings))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    settings.take_effect()
    logging.captureWarnings(True)
    return log_file


def configure_access_log(settings: AccessSettings) -> None:
    """Sends access logs to their file, as JSON. Raises OSError when that cannot be opened."""
    if settings.file and settings.file != "-":
        handler = LogFile(settings.file)
        handler.setFormatter(LineFormatter(LogSettings(format="json")))
        access.handlers[:] = [handler]
        access.propagate = False
