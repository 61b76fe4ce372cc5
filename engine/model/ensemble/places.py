"""How many requests may be under way in each step, over all requests to an ensemble: `max_inflight_requests`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .graph import Step


class Entrant(Protocol):
    """One step of one request."""

    step: Step

    def begin(self) -> None:
        """It has its place, for which it had to wait. Must not raise."""
        ...


class Places:
    """For the trio thread; never blocks. Who finds no place waits in the order of asking, and is started later."""

    def __init__(self, steps: int, limit: int) -> None:
        """`limit` is for each step, at least 1."""
        self._limit = limit
        self._taken: list[set[Entrant]] = [set() for _ in range(steps)]
        self._waiting: list[deque[Entrant]] = [deque() for _ in range(steps)]
        self._starting = False

    def take(self, entrant: Entrant) -> bool:
        """Whether the step may begin. If not, it is started as soon as there is a place."""
        taken, waiting = self._taken[entrant.step.index], self._waiting[entrant.step.index]
        if len(taken) >= self._limit or waiting:
            waiting.append(entrant)
            return False
        taken.add(entrant)
        return True

    def leave(self, entrant: Entrant) -> None:
        """The step is over, or does not wait any more."""
        index = entrant.step.index
        if entrant in self._taken[index]:
            self._taken[index].remove(entrant)
            self._start()
        elif entrant in self._waiting[index]:
            self._waiting[index].remove(entrant)

    def waiting(self) -> Sequence[int]:
        """How many wait, by step."""
        return [len(waiting) for waiting in self._waiting]

    def _start(self) -> None:
        """Starts those whose turn has come. One that is over at once gives its place to the next: in this loop."""
        if self._starting:
            return
        self._starting = True
        try:
            while (index := self._next()) is not None:
                entrant = self._waiting[index].popleft()
                self._taken[index].add(entrant)
                entrant.begin()
        finally:
            self._starting = False

    def _next(self) -> int | None:
        """A step in which somebody waits and there is a place."""
        for index, waiting in enumerate(self._waiting):
            if waiting and len(self._taken[index]) < self._limit:
                return index
        return None
