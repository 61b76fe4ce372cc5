"""The file of `--log-file`: a full disk costs lines, never requests, and it can be opened anew after a rotation."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Final

log = logging.getLogger("despina.serve")

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class LogFile(logging.Handler):
    """Appends one line per record, unbuffered. A line that cannot be written is lost: standard error says so once, and
    the file itself says how many when it can be written again. May be called from any thread."""

    def __init__(self, path: str) -> None:
        """Raises OSError when the file cannot be opened."""
        super().__init__()
        self._path = path
        self._descriptor = os.open(path, _FLAGS, 0o666)
        self._lost = 0
        self._torn = False
        """The file ends in the middle of a line."""

    def reopen(self) -> None:
        """Goes on in what has the file's name now. Where that cannot be opened it stays with the file that it has."""
        try:
            descriptor = os.open(self._path, _FLAGS, 0o666)
        except OSError as error:
            log.error("cannot open the log file %s anew: %s", self._path, error.strerror)
            return
        with self.lock or contextlib.nullcontext():
            descriptor, self._descriptor = self._descriptor, descriptor
            self._torn = False
        os.close(descriptor)
        log.info("opened the log file %s anew", self._path)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception as error:  # whatever it is, the caller has a request to answer
            self._lose(error)
            return
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("lines of this log that were lost: %d", lost)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
        super().close()

    def _write(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            rest = rest[written:]
            self._torn = bool(rest)

    def _lose(self, error: Exception) -> None:
        self._lost += 1
        if self._lost == 1:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            with contextlib.suppress(OSError, ValueError):
                print(f"error: {self._path}: {reason}; lines of the log are lost", file=sys.stderr, flush=True)
