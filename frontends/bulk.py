"""How much of large messages a door moves in one pass over its connections, and whose turn is next.

    small requests ─ those who got nothing last time ─ those who got something

What is moved goes through the processor's hands, 4 GiB a second at best, and much less where memory is touched for the
first time; a small request waits for one pass of it. So a pass is bounded in bytes and in the thread's own time.
"""

from __future__ import annotations

from time import thread_time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PASS_BYTES: Final = 2 << 20
"""Of all large messages together; who is alone gets as much before others look."""
PASS_S: Final = 0.002
"""After so much processor time the pass moves no more, whatever is left."""


class Bulk:
    """Of one door. `left` is how many bytes more may be moved in this pass."""

    __slots__ = ("_moved", "_refused", "_until", "left")

    def __init__(self) -> None:
        self.left = PASS_BYTES
        self._until = 0.0
        """On the thread's clock; 0 where nothing has been moved in this pass."""
        self._refused: list[int] = []
        self._moved: list[int] = []

    def begin(self, found: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """A pass begins: what epoll found, in the order in which it should be looked at."""
        self.left = PASS_BYTES
        self._until = 0.0
        if not self._refused:
            self._moved.clear()
            return found
        rest = dict(found)
        last = [(fd, rest.pop(fd)) for fd in (*self._refused, *self._moved) if fd in rest]
        self._refused.clear()
        self._moved.clear()
        return [*rest.items(), *last]

    def moved(self, fd: int, size: int) -> None:
        """A connection has had its turn."""
        self.left -= size
        if self._until and thread_time() > self._until:
            self.left = min(self.left, 0)
        self._moved.append(fd)

    def may_move(self, fd: int) -> bool:
        """Whether a connection gets a turn now; if not, it is among the first of the next pass."""
        if self.left > 0:
            if not self._until:
                self._until = thread_time() + PASS_S
            return True
        self._refused.append(fd)
        return False
