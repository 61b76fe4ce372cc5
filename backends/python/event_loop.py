"""The asyncio loop of the thread that a model lives on: models expect one, for they were written for a main thread."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

_log = logging.getLogger("despina.backends.python")


class ThreadLoop:
    """What `asyncio.get_event_loop()` gives on the thread that makes this one, until it is closed there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine to its end, on any thread."""
        if self._loop.is_closed() or self._loop.is_running():  # the model's doing
            loop = asyncio.new_event_loop()
            try:
                return loop.run_until_complete(coroutine)
            finally:
                _end(loop)
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Cancels what a model has left to run. A loop that a thread of the model's runs is told to stop, and left."""
        asyncio.set_event_loop(None)
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        elif not self._loop.is_closed():
            _end(self._loop)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException:  # a model's coroutines may raise anything while they are cancelled
        _log.exception("ending a model's asyncio loop failed")
    finally:
        loop.close()
