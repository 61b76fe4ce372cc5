"""The answers of one request, as they come. A thread takes them from the engine, some ahead of the reader."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault
from .errors import TritonError, error_of
from .request import InferenceResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ...engine.blocking import BlockingEngine
    from .request import InferenceRequest

AHEAD_MAX = 64


class ResponseIterator:
    """For one thread, but for `cancel`."""

    def __init__(self, engine: BlockingEngine, request: InferenceRequest, raise_on_error: bool) -> None:
        self._engine = engine
        self._request = request
        self._raise_on_error = raise_on_error
        self._arrays = request.arrays()
        self._waiting: queue.Queue[InferenceResponse] = queue.Queue(AHEAD_MAX)
        self._cancelled = threading.Event()
        self._complete = False
        threading.Thread(target=self._take, name=f"despina/{request.model.name}/responses", daemon=True).start()

    def __iter__(self) -> Iterator[InferenceResponse]:
        return self

    def __next__(self) -> InferenceResponse:
        if self._complete:
            raise StopIteration
        response = self._waiting.get()
        self._complete = response.final
        if response.error is not None and self._raise_on_error:
            raise response.error
        return response

    def cancel(self) -> None:
        """Nobody wants more. What comes next is the last, and says so; an execution under way goes on."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            with self._waiting.mutex:
                self._waiting.queue.clear()
                self._waiting.not_full.notify_all()
            self._waiting.put(self._response(error=TritonError("request cancelled"), final=True))

    def _take(self) -> None:
        request = self._request
        try:
            if not request.model.decoupled():
                self._put_result(self._engine.infer(request.model.name, self._arrays, **request.options()), final=True)
                return
            for result in self._engine.stream(request.model.name, self._arrays, **request.options()):
                if self._cancelled.is_set():
                    return
                self._put_result(result, final=False)
            self._put(self._response(final=True))
        except Fault as fault:
            self._put(self._response(error=error_of(fault), final=True))
        except TritonError as error:
            self._put(self._response(error=error, final=True))

    def _put_result(self, result: Any, *, final: bool) -> None:
        self._put(InferenceResponse.of(self._request.model, result, final=final))

    def _response(self, *, error: TritonError | None = None, final: bool) -> InferenceResponse:
        request = self._request
        return InferenceResponse(model=request.model, request_id=request.request_id, error=error, final=final)

    def _put(self, response: InferenceResponse) -> None:
        if not self._cancelled.is_set():
            self._waiting.put(response)
            if self._request.response_queue is not None:
                self._request.response_queue.put(response)


class AsyncResponseIterator:
    """The same for asyncio."""

    def __init__(self, responses: ResponseIterator) -> None:
        self._responses = responses

    def __aiter__(self) -> AsyncIterator[InferenceResponse]:
        return self

    async def __anext__(self) -> InferenceResponse:
        response = await asyncio.to_thread(next, self._responses, None)
        if response is None:
            raise StopAsyncIteration
        return response

    def cancel(self) -> None:
        self._responses.cancel()
