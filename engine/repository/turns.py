"""One at a time for each model, in the order of asking; different models at the same time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.define
class _Turn:
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    users: int = 0


class Turns:
    """Keeps a lock per name, for as long as anybody uses it."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def is_taken(self, name: str) -> bool:
        """Whether somebody has it, or waits for it."""
        return name in self._turns

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Waits for everybody who asked for that name before."""
        turn = self._turns.setdefault(name, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[name]
