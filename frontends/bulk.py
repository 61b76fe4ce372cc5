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

    __slots__ = ("_is_used", "_moved", "_refused", "_until", "left", "waiting")

    def __init__(self) -> None:
        self._is_used = False
        """Something was to be moved since a pass began last."""
        self.left = PASS_BYTES
        self._until = 0.0
        """On the thread's clock; 0 where nothing has been moved in this pass."""
        self.waiting: dict[int, int] = {}
        """Who got no turn in earlier passes, and for which of epoll's events; who waits longest is first."""
        self._refused: dict[int, int] = {}
        """The same of this pass."""
        self._moved: list[int] = []

    def begin(self, found: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """A pass begins: what epoll found, in the order in which it should be looked at."""
        if not self._is_used:
            return found
        self._is_used = False
        self.left = PASS_BYTES
        self._until = 0.0
        waiting, moved = self.waiting, self._moved
        waiting |= self._refused
        self._refused, self._moved = {}, []
        if not waiting:
            return found
        rest = dict(found)
        last = [(fd, rest.pop(fd)) for fd in (*waiting, *moved) if fd in rest]
        return [*rest.items(), *last]

    def is_put_off(self, fd: int, events: int) -> bool:
        """Where somebody is `waiting`: whether a connection need not be looked at, for it would only be told again that
        it has no turn yet."""
        if self.left <= 0 and not events & ~self.waiting.get(fd, 0):
            self._is_used = True
            return True
        self.waiting.pop(fd, None)
        return False

    def moved(self, fd: int, size: int) -> None:
        """A connection has had its turn."""
        self._is_used = True
        self.left -= size
        if self._until and thread_time() > self._until:
            self.left = min(self.left, 0)
        self._moved.append(fd)

    def may_move(self, fd: int, event: int) -> bool:
        """Whether a connection gets a turn now, to move what epoll's event asks for; if not, it is among the first of
        the next pass."""
        self._is_used = True
        if self.left > 0:
            if not self._until:
                self._until = thread_time() + PASS_S
            return True
        self._refused[fd] = self._refused.get(fd, 0) | event
        return False

    def forget(self, fd: int) -> None:
        """The descriptor is about to be another connection's."""
        self.waiting.pop(fd, None)
        self._refused.pop(fd, None)
