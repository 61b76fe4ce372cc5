"""Segments that the server does not need any more, given back by a thread: their memory takes milliseconds."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from .segments import PIECE_BYTES

if TYPE_CHECKING:
    from .segments import Segment

_PAUSE_S: Final = 0.0005
"""Between two pieces, so that others have the interpreter."""


class Discarder:
    """Of this process. There is one: see `DISCARDER`. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """Buffers that are garbage are discarded at any step of any thread, of this one's too."""
        self._waiting: deque[Segment] = deque()
        self._is_running = False
        """There is a thread: it ends when nothing waits."""

    def discard(self, segment: Segment) -> None:
        """Returns at once; small ones are gone then, and all where no thread can be had."""
        if segment.size <= PIECE_BYTES:
            segment.discard()
            return
        with self._lock:
            self._waiting.append(segment)
            if self._is_running:
                return
            self._is_running = True
        try:
            threading.Thread(target=self._run, name="discarder", daemon=True).start()
        except RuntimeError:  # there is no room for a thread
            self._run()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_running = False
                    return
                segment = self._waiting.popleft()
            segment.discard(_PAUSE_S)


DISCARDER: Final = Discarder()
