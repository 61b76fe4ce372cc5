"""Whose turn it is to say something on a link that all threads of a model's process share.

    with turns:      one thread says something, with tensors maybe, and others wait
    turns.soon(...)  never waits: said now if nobody is at it, else by whoever is, once that is done

Garbage collection ends what has something to say (a stream without its final flag, a call that nobody waits for), on
any thread and at any step: where that thread holds what others wait for, or others hold what it would wait for. So what
is said from there must not wait.
"""

from __future__ import annotations

import marshal
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

UNSAID_MAX: Final = 1000
"""More than that hold whoever says more back for a moment: a model that logs while nobody listens."""
HELD_BACK_S: Final = 0.1


class Turns:
    """Those of one link. The same thread may have its turn again within its turn."""

    def __init__(self, say: Callable[[str, tuple[Any, ...]], None]) -> None:
        """`say(kind, fields)` is called by whoever has the turn. May raise OSError and MemoryError: then it is called
        again with the same, later."""
        self._say = say
        self._lock = threading.RLock()
        self._depth = 0
        """Turns within turns of the one thread that has them."""
        self._unsaid: deque[tuple[str, tuple[Any, ...]]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._unsaid and self._depth == 1:
            self._say_unsaid()

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        self._depth -= 1
        self._lock.release()
        if self._unsaid:
            self._try()

    def soon(self, kind: str, fields: tuple[Any, ...]) -> None:
        """Says it before whatever this thread says later. Never waits long. Raises ValueError for a field that is no
        plain value, and MemoryError."""
        marshal.dumps(fields)
        self._unsaid.append((kind, fields))
        if len(self._unsaid) > UNSAID_MAX and self._lock.acquire(timeout=HELD_BACK_S):
            self._lock.release()
        self._try()

    def _try(self) -> None:
        """Nobody's turn ends without this, so nothing stays unsaid that came during the turn."""
        while self._unsaid and self._lock.acquire(blocking=False):
            try:
                if self._depth:
                    return  # within this thread's turn
                self._depth = 1
                try:
                    if not self._say_unsaid():
                        return
                finally:
                    self._depth = 0
            finally:
                self._lock.release()

    def _say_unsaid(self) -> bool:
        """False where there was no room for something."""
        unsaid = self._unsaid
        while unsaid:
            try:
                self._say(*unsaid[0])
            except (OSError, MemoryError):
                return False
            unsaid.popleft()
        return True
