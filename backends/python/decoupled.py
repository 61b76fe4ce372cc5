"""Requests and senders of decoupled models, and the loop on which their coroutines go on after `execute`.

A model may keep a sender for as long as it likes and use it from any thread. What ends a request is the final flag; a
sender that goes away without it (the model has forgotten the request) ends it with an error.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

from ...schema.fault import ModelFailure
from .error import TritonModelException
from .request import ReceivedRequest
from .response import RESPONSE_COMPLETE_FINAL, InferenceResponse, InferenceResponseSender, check_sent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from ...engine.port.work import BackendStream

_log = logging.getLogger("despina.backends.python")


class DecoupledRequest(ReceivedRequest):
    """A request to a decoupled model. Its sender is made at once, so that dropping both of them is noticed."""

    __slots__ = ()

    outlives_execute = True

    def __init__(self, job: BackendStream, output_names: Collection[str], instance_name: str) -> None:
        super().__init__(job, output_names)
        self._sender = DecoupledSender(job, output_names, self.received, instance_name)


class DecoupledSender(InferenceResponseSender):
    """Sends any number of responses, from any thread. `send` waits while the client does not read."""

    __slots__ = ("_instance_name", "_job", "_received")

    def __init__(  # does not call super: a reference to the request would be a cycle, and its end not be noticed
        self, job: BackendStream, output_names: Collection[str], received: dict[str, Any], instance_name: str
    ) -> None:
        self._job = job
        self._output_names = output_names
        self._received = received
        self._instance_name = instance_name
        self._closed = False
        self.rescheduled = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Raises TritonModelException after the final flag and for what is no response or flag.

        Once the client has left, responses are dropped without a word: ask `is_cancelled` to stop early.
        """
        check_sent(response, flags)
        if self._closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        final = self._closed = flags == RESPONSE_COMPLETE_FINAL
        if response is None:
            self._job.send(None, final=True)
        else:
            response.stream(self._job, self._received, self._output_names, final=final)

    def is_cancelled(self) -> bool:
        return self._job.is_cancelled()

    def __del__(self) -> None:
        job = self._job
        if self._closed or self.rescheduled or job.is_closed:
            return
        if not job.is_cancelled():
            _log.error(
                "model instance '%s': the response sender of a request was dropped without the final flag",
                self._instance_name,
            )
        job.close(
            ModelFailure(
                f"Failed to process the request(s) for model '{self._instance_name}', message: the response sender was "
                "dropped without the final flag"
            )
        )


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
