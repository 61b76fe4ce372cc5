"""The file of `--log-file`: a full disk costs lines, never requests, and it follows its name when it is rotated."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
import os
import sys
from typing import Any, Final, cast

log = logging.getLogger("despina.serve")

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class LogFile(logging.handlers.WatchedFileHandler):
    """Appends one line per record, unbuffered, to what has the file's name then: whoever moves it away, or removes it,
    gets a new one with the next line, without a signal. A line that cannot be written is lost: standard error says so
    once, and the file itself says how many when it can be written again. May be called from any thread."""

    def __init__(self, path: str) -> None:
        """Raises OSError when the file cannot be opened."""
        self._path = path
        self._lost = 0
        self._torn = False
        """The file ends in the middle of a line."""
        super().__init__(path)

    def _open(self) -> Any:
        return io.FileIO(os.open(self._path, _FLAGS, 0o666), "a")

    @property
    def descriptor(self) -> int:
        return cast("io.FileIO", self.stream).fileno()

    def reopen(self) -> None:
        """Goes on in what has the file's name now, and says so. Where that cannot be opened it stays with the file that
        it has."""
        try:
            with self.lock or contextlib.nullcontext():
                self._replace()
        except OSError as error:
            log.error("cannot open the log file %s anew: %s", self._path, error.strerror)
        else:
            log.info("opened the log file %s anew", self._path)

    def reopenIfNeeded(self) -> None:  # the library's name
        """Before each line. A name that cannot be opened leaves the old file in use."""
        with contextlib.suppress(OSError):
            try:
                now = os.stat(self._path)
                is_same = (now.st_dev, now.st_ino) == (self.dev, self.ino)
            except FileNotFoundError:
                is_same = False
            if not is_same:
                self._replace()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.reopenIfNeeded()
            self._write(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception as error:  # whatever it is, the caller has a request to answer
            self._lose(error)
            return
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("lines of this log that were lost: %d", lost)

    def _replace(self) -> None:
        stream = self._open()
        self.stream, old = stream, self.stream
        self._torn = False
        self._statstream()
        old.close()

    def _write(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            written = os.write(self.descriptor, rest)
            rest = rest[written:]
            self._torn = bool(rest)

    def _lose(self, error: Exception) -> None:
        self._lost += 1
        if self._lost == 1:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            with contextlib.suppress(OSError, ValueError):
                print(f"error: {self._path}: {reason}; lines of the log are lost", file=sys.stderr, flush=True)
