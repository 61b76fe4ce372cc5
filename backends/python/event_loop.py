"""The asyncio loop of the thread that a model lives on: models expect one, for they were written for a main thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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


class BackgroundLoop:
    """An asyncio loop on a thread of its own, where coroutines of a decoupled model's `execute` go on."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name=f"despina/{name}/asyncio", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs a coroutine, in the caller's context; then `done(result, error)`, on the loop's thread."""
        self._loop.call_soon_threadsafe(self._start, coroutine, done)

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine and waits for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Cancels what still runs, waits for it and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _start(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]) -> None:
        task = self._loop.create_task(_outcome(coroutine, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


async def _outcome(coroutine: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]) -> None:
    try:
        result = await coroutine
    except asyncio.CancelledError as error:
        done(None, error)
        raise
    except BaseException as error:  # a model may raise anything, SystemExit too, which would end the loop
        done(None, error)
    else:
        done(result, None)
