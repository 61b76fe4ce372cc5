"""Whose turn it is to say something on a link that all threads of a model's process share.

    with turns:       one thread says something, with tensors maybe, and others wait
    turns.soon(...)   never waits: said now if nobody is at it, else by whoever is, once that is done
    turns.say(...)    waits for its turn; within this thread's own it is said after that

Garbage collection ends what has something to say (a stream without its final flag, a call that nobody waits for), on
any thread and at any step, also amid something that this thread is saying. What it says comes after that.
"""

from __future__ import annotations

import marshal
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Turns:
    """Those of one link. The same thread may have its turn again within its turn."""

    def __init__(self, say: Callable[[str, tuple[Any, ...]], None]) -> None:
        """`say(kind, fields)` is called by whoever has the turn. May raise OSError and MemoryError: then it is called
        again with the same in a later turn, and with others before."""
        self._say = say
        self._lock = threading.RLock()
        self._owner = 0
        """Who has the turn."""
        self._depth = 0
        """Turns within turns."""
        self._unsaid: deque[tuple[str, tuple[Any, ...]]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()
        self._depth += 1
        if self._unsaid and self._depth == 1:
            try:
                self._say_unsaid()
            except BaseException:
                self._end()
                raise

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        self._end()
        if self._unsaid:
            self._try()

    def _end(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
        self._lock.release()

    def soon(self, kind: str, fields: tuple[Any, ...]) -> None:
        """Before whatever this thread says later. Raises ValueError for a field that is no plain value, and
        MemoryError."""
        marshal.dumps(fields)
        self._unsaid.append((kind, fields))
        self._try()

    def say(self, kind: str, fields: tuple[Any, ...]) -> None:
        """The same, once it is this thread's turn."""
        marshal.dumps(fields)
        self._unsaid.append((kind, fields))
        if self._owner != threading.get_ident():
            with self:
                pass

    def _try(self) -> None:
        """Nobody's turn ends without this, so nothing stays unsaid that came during the turn."""
        while self._unsaid and self._lock.acquire(blocking=False):
            try:
                if self._depth:
                    return  # within this thread's turn
                self._owner = threading.get_ident()
                self._depth = 1
                try:
                    if not self._say_unsaid():
                        return
                finally:
                    self._depth = self._owner = 0
            finally:
                self._lock.release()

    def _say_unsaid(self) -> bool:
        """False where there was no room for something, which stays."""
        unsaid = self._unsaid
        refused: list[tuple[str, tuple[Any, ...]]] = []
        try:
            while unsaid:
                one = unsaid.popleft()
                try:
                    self._say(*one)
                except (OSError, MemoryError):
                    refused.append(one)
                except BaseException:
                    unsaid.appendleft(one)
                    raise
        finally:
            unsaid.extendleft(reversed(refused))
        return not refused
