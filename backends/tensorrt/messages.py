"""What TensorRT says: to the log, and the last error to whoever asks why something failed.

TensorRT's calls answer None or False when they fail; the reason is only told to its logger, on the calling thread.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

_log = logging.getLogger("despina.backends.tensorrt")


class Errors:
    """The last error on each thread."""

    def __init__(self) -> None:
        self._last = threading.local()

    def note(self, text: str) -> None:
        self._last.text = text

    def take(self) -> str:
        """What was last said on this thread; empty if nothing was since it was taken."""
        text = getattr(self._last, "text", "")
        self._last.text = ""
        return text


def make_logger(trt: Any, errors: Errors) -> Any:
    """A `tensorrt.ILogger`; one for the process, TensorRT keeps the first that it is given."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # a base that is known only now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the binding wants the base's own

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.INFO)
            if level == logging.ERROR:
                errors.note(msg)
            _log.log(level if level != logging.INFO else logging.DEBUG, "%s", msg)

    return Logger()
