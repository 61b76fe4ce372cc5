"""Steps of a walk: each is said with the time that it took, and one that fails does not end the walk."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotHere(Exception):
    """This machine lacks what the step needs; the text says what."""


class Walk:
    """Prints the steps as they are done. `failures` are those that failed, `skipped` those that could not be tried."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._notes: list[str] = []
        self.failures: list[str] = []
        self.skipped: list[str] = []
        self.done: list[str] = []

    def chapter(self, title: str) -> None:
        self._say(f"\n{title}")

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One thing that a person does, and what should come of it. Nothing but KeyboardInterrupt leaves the block."""
        self._notes = []
        began = time.monotonic()
        try:
            yield
        except NotHere as reason:
            self.skipped.append(what)
            self._line("   skip  ", f"{what}: {reason}")
        except Exception as problem:
            self.failures.append(what)
            self._line("   FAIL  ", what)
            self._notes += traceback.format_exception(problem)
        else:
            self.done.append(what)
            self._line(f"{time.monotonic() - began:7.2f} s", what)
        for note in self._notes:
            for line in note.rstrip("\n").splitlines():
                self._say(f"            {line}")

    def note(self, text: str) -> None:
        """A figure or a finding, shown below its step."""
        self._notes.append(text)

    def close(self) -> int:
        """The sum of it. Returns the exit code."""
        self._say(f"\n{len(self.done)} steps done, {len(self.skipped)} not possible here, {len(self.failures)} failed")
        for what in self.failures:
            self._say(f"  failed: {what}")
        return 1 if self.failures else 0

    def _line(self, mark: str, text: str) -> None:
        self._say(f"{mark}  {text}")

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)
