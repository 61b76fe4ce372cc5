"""A terminal of 80 columns with a program at it, as a person has it: with a line discipline, ^C and a width."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

COLUMNS, ROWS = 80, 24
_CONTROL = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|.)")


class Terminal:
    """Made by `at_terminal`. `text` is what has been shown so far, without colours and cursor movements."""

    def __init__(self, child: subprocess.Popen[bytes], master: int) -> None:
        self.child = child
        self._master = master
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return _CONTROL.sub("", bytes(self._shown).decode(errors="replace")).replace("\r\n", "\n")

    def lines(self) -> list[str]:
        """What has stood on a line at any time: a line that was written over counts each time."""
        return [piece for line in self.text.split("\n") for piece in line.split("\r")]

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        """Until the words have been shown. AssertionError with all that was, when the time is over or the program."""
        give_up = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < give_up, f"{words!r} was not shown:\n{self.text}"
            if self.child.poll() is not None:
                self._reader.join(5)
                assert words in self.text, f"the program has ended without {words!r}:\n{self.text}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, seconds: float = 60.0) -> int:
        """Waits for the program's end. Returns its exit code."""
        code = self.child.wait(seconds)
        self._reader.join(5)
        return code

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(self._master, 65536):
                self._shown += data


@contextlib.contextmanager
def at_terminal(
    command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Runs the command at a new terminal; what still runs in its session when the block ends is killed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    surroundings = {**os.environ, **(environment or {}), "TERM": "xterm-256color"}
    surroundings.pop("COLUMNS", None)
    try:
        child = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=surroundings,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(slave)
    try:
        yield Terminal(child, master)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.close(master)


def too_wide(lines: Sequence[str]) -> list[str]:
    """Those that a terminal of 80 columns breaks."""
    return [line for line in lines if len(line) > COLUMNS]
