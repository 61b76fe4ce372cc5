"""What one process has to execute, in order: what it executes now, and what it may begin before we hear of that.

    offer: a token is put down ─▶ "ahead" is said ─▶ its turn: the process picks a token up ─▶ "executed"
                                                                        ... after its deadline ▶ "too late"
    take_back: the tokens that are left are picked up ───────▶ its turn: there is none ──────▶ "withdrawn"

Tokens lie in an eventfd: of the two who want one exactly one gets it, and what the dead have picked up stays so.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.work import Batch
    from ....schema.fault import Fault

AHEAD_MAX: Final = 15
"""Batches that wait at a process: enough that neither side waits for the other, however late it gets a processor."""
AHEAD_S_MAX: Final = 0.004
"""That they take as a rule: beside longer executions the way to the process is nothing."""
WEIGHT: Final = 0.1
GROWTH_MAX: Final = 4.0
"""A duration counts as at most this many times the usual one: any execution may lose its processor for a while."""


class Begun:
    """A batch with the process."""

    __slots__ = ("batch", "numbers", "over", "unbegun")

    def __init__(
        self,
        batch: Batch,
        numbers: list[int],
        over: Callable[[Fault | None], None],
        unbegun: Callable[[], None] | None = None,
    ) -> None:
        self.batch = batch
        self.numbers = numbers
        self.over = over
        self.unbegun = unbegun
        """Of one that was handed over before its turn."""


class Line:
    """Of one process. For the trio thread."""

    def __init__(self) -> None:
        self.begun: deque[Begun] = deque()
        """The first is executed now, or is the next if it was handed over before its turn."""
        self._tokens = -1
        self._withdrawn = 0
        """Which the process has not come to yet."""
        self._lasts_s = 0.0
        """An execution, in the process."""

    def open(self, tokens: int) -> None:
        """`tokens` is the eventfd, from now on closed with this."""
        self._tokens = tokens

    def close(self) -> None:
        if self._tokens >= 0:
            os.close(self._tokens)
            self._tokens = -1

    @property
    def room(self) -> int:
        """How many batches may wait at the process now."""
        if self._withdrawn or self._tokens < 0 or not self._lasts_s:
            return 0  # a token would be taken for another's, or it is not known how long they would wait
        return min(AHEAD_MAX, int(AHEAD_S_MAX / self._lasts_s))

    def learn(self, lasted_s: float) -> None:
        """An execution took so long."""
        usual = self._lasts_s
        self._lasts_s = usual + WEIGHT * (min(lasted_s, GROWTH_MAX * usual) - usual) if usual else lasted_s

    def offer(self) -> None:
        """Before a batch is handed over before its turn."""
        os.eventfd_write(self._tokens, 1)

    def revoke(self) -> None:
        """It could not be handed over: there is one token more than the process may pick up."""
        os.eventfd_read(self._tokens)

    def take_back(self) -> list[Begun]:
        """The last of those that were handed over before their turn: all that have not been begun, and will not be."""
        taken: list[Begun] = []
        while self._tokens >= 0:
            try:
                os.eventfd_read(self._tokens)
            except BlockingIOError:
                break
            taken.append(self.begun.pop())
        self._withdrawn += len(taken)
        return taken

    def withdrawn(self) -> None:
        """The process has come to one that was taken back."""
        self._withdrawn -= 1


def tokens() -> int:
    """A new eventfd for them."""
    return os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
