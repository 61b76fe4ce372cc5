"""Standard output and standard error that take no more: their reader has left, or their disk is full."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def flush_console() -> None:
    """At the end. What cannot be written goes nowhere, so that the interpreter's own attempt does not fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard_rest(stream)


def discard_rest(stream: TextIO) -> None:
    """Sends what the stream still holds, and all that follows, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
