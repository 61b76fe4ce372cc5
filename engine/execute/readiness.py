"""What a model says of itself when somebody asks whether it is ready: one question at a time to each executor.

who asks ──▶ Readiness.ask ──▶ the question under way, or a new one ──▶ the executor's `ready`
                  └── no answer within ANSWER_S_MAX: not ready; who asks later gets the answer that is still to come
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..port.backend import AsyncInstance, BackendInstance

log = logging.getLogger("despina.engine.execute.readiness")

ANSWER_S_MAX: Final = 5.0


class Readiness:
    """One executor's. For the trio thread."""

    def __init__(self, name: str, question: Callable[[], Awaitable[bool]]) -> None:
        """`name` is the instance's, for the log."""
        self._name = name
        self._question = question
        self._answered: trio.Event | None = None
        """While it is asked."""
        self._says = False

    async def ask(self, nursery: trio.Nursery) -> bool:
        """What the model says, within ANSWER_S_MAX. The question itself is asked in `nursery`, and goes on when whoever
        waits here is cancelled."""
        if self._answered is None:
            self._answered = trio.Event()
            nursery.start_soon(self._run, self._answered)
        answered = self._answered
        with trio.move_on_after(ANSWER_S_MAX):
            await answered.wait()
            return self._says
        log.error("instance %s did not say within %g s whether it is ready", self._name, ANSWER_S_MAX)
        return False

    async def _run(self, answered: trio.Event) -> None:
        self._says = False
        try:
            self._says = await self._question()
        except Exception:
            log.exception("instance %s cannot say whether it is ready", self._name)
        finally:
            self._answered = None
            answered.set()


def of_thread(executor: BackendInstance, name: str) -> Readiness | None:
    """None for an executor that is ready whenever it serves."""
    question: Callable[[], bool] | None = getattr(executor, "ready", None)
    if question is None:
        return None
    one = trio.CapacityLimiter(1)  # a question that hangs takes nobody else's thread

    async def ask() -> bool:
        return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=one)

    return Readiness(name, ask)


def of_task(executor: AsyncInstance, name: str) -> Readiness | None:
    """Likewise."""
    question: Callable[[], Awaitable[bool]] | None = getattr(executor, "ready", None)
    return None if question is None else Readiness(name, question)
