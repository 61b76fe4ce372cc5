"""Whether the engine still gets round: what watchdogs ask.

    beat() ─ask─▶ run, a task of the engine's own ─answer─▶ beat() returns

An answer needs a turn of the event loop and an engine that runs. So none comes while code holds the trio thread, before
`Engine.run` and after it; nothing happens, and no time is kept, while nobody asks.
"""

from __future__ import annotations

import trio


class Heartbeat:
    """One for each engine; everything on the trio thread."""

    def __init__(self) -> None:
        self._asked = trio.Event()
        self._answered = trio.Event()

    async def beat(self) -> None:
        """Returns when the engine has had its turn; waits for as long as it does not run."""
        answered = self._answered
        self._asked.set()
        await answered.wait()

    async def run(self) -> None:
        """The task. Answers until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            answered, self._answered = self._answered, trio.Event()
            answered.set()
