"""Requests that a model makes itself: what `exec` and `async_exec` do, and how answers come back to the model."""

from __future__ import annotations

import asyncio
import itertools
import queue
import weakref
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ...engine.port.nested import Origin
from ...engine.port.nested_request import NestedRequest
from ...schema.tensor import Tensor as WireTensor
from .error import TritonError, TritonModelException
from .imports import space_of_caller
from .memory import executing
from .response import InferenceResponse
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.metrics import Metrics
    from ...engine.port.nested import NestedCall, NestedCaller
    from ...engine.port.served import Answer
    from ...engine.port.work import BackendJob
    from .request import InferenceRequest

ONLY_IN_EXECUTE = "BLS is only supported during the 'execute' function."

going_on: ContextVar[Sequence[BackendJob]] = ContextVar("going_on", default=())
"""What a coroutine was started for that goes on after `execute` has returned."""


class Asker:
    """What one instance's model asks of the engine, from before it is initialized until it is finalized."""

    def __init__(self, nested: NestedCaller, model_name: str, instance_name: str, *, inline: bool) -> None:
        """`inline`: what it executes holds the engine's own thread."""
        self.model_name = model_name
        self.name = instance_name
        self.executes = False
        """It is initialized, and may ask other models."""
        self._nested = nested
        self._inline = inline
        self._there = vars(executing)
        """What is executed on the instance's own thread, which makes this."""
        self._kept: dict[int, weakref.finalize[..., Any]] = {}
        """What is to be released with the model."""
        self._numbers = itertools.count()

    def ask(
        self, request: InferenceRequest, on_answer: Callable[[Answer], None], *, decoupled: bool, waits: bool
    ) -> NestedCall:
        """Sends a request on its way. `waits`: the calling thread stands still until the answer."""
        if not self.executes:
            raise TritonModelException(ONLY_IN_EXECUTE)
        if self._inline:  # on whatever thread: `execute` may wait for that one
            raise self._refusal()
        nested = self.waiting()
        jobs = going_on.get() or [one.job for one in self._there.get("requests", ())]
        made = NestedRequest(
            request.model_name,
            {tensor.name(): tensor.passed(waits=waits) for tensor in request.inputs()},
            model_version=request.model_version,
            id=request.request_id(),
            outputs=tuple(request.requested_output_names()),
            parameters=request.given_parameters(),
            timeout_us=request.timeout(),
            correlation_id=request.correlation_id(),
            sequence_start=request.starts_sequence(),
            sequence_end=request.ends_sequence(),
        )
        origin = Origin(self.name, self.model_name, jobs, request.trace().noted())
        return nested.call(made, origin, on_answer, decoupled=decoupled, waits=waits and bool(executing.requests))

    @property
    def metrics(self) -> Metrics:
        return self._nested.metrics

    def keep(self, thing: object, release: Callable[[Any], object], held: object) -> None:
        """Calls `release(held)` once, when `thing` is gone or the model is, whichever is first."""
        number = next(self._numbers)
        self._kept[number] = kept = weakref.finalize(thing, self._release, number, release, held)
        kept.atexit = False

    def _release(self, number: int, release: Callable[[Any], object], held: object) -> None:
        self._kept.pop(number, None)
        release(held)

    def close(self) -> None:
        """The model is finalized: nothing of it is kept."""
        self.executes = False
        for kept in list(self._kept.values()):
            kept()

    def waiting(self) -> NestedCaller:
        """The engine, to be waited for. Raises TritonModelException on its own thread."""
        if not self._nested.may_wait():
            raise self._refusal()
        return self._nested

    def _refusal(self) -> TritonModelException:
        return TritonModelException(
            f"model instance '{self.name}' executes on the engine's own thread, which must not wait for other "
            "models: take DESPINA_EXECUTOR out of its configuration"
        )


def asker() -> Asker:
    """Of the model that calls, on whatever thread. Raises TritonModelException where models may not ask."""
    space = space_of_caller()
    found = None if space is None else space.asker
    if found is None:
        raise TritonModelException(ONLY_IN_EXECUTE)
    assert isinstance(found, Asker)
    return found


def execute(request: InferenceRequest) -> InferenceResponse:
    """Waits for the one answer."""
    arrived: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    asker().ask(request, arrived.put, decoupled=False, waits=True)
    return response_of(arrived.get())


def execute_async(request: InferenceRequest) -> asyncio.Future[InferenceResponse]:
    """What is to be awaited for the one answer; it is on its way already. Cancelled, it cancels the request. Raises
    RuntimeError where no loop runs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[InferenceResponse] = loop.create_future()

    def on_answer(answer: Answer) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody awaits it any more
            loop.call_soon_threadsafe(arrive, answer)

    def arrive(answer: Answer) -> None:
        if not future.done():
            future.set_result(response_of(answer))

    call = asker().ask(request, on_answer, decoupled=False, waits=False)
    future.add_done_callback(lambda done: call.cancel() if done.cancelled() else None)
    return future


class ResponseIterator:
    """The answers of a decoupled model, as they come: the last one, with the final flag, may be empty. Each is given
    once. Dropped or cancelled, it cancels the request."""

    def __init__(self, request: InferenceRequest) -> None:
        self._arrived: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._is_over = True
        self._call = asker().ask(request, self._arrived.put, decoupled=True, waits=False)
        self._is_over = False

    def __iter__(self) -> ResponseIterator:
        return self

    def __next__(self) -> InferenceResponse:
        """Waits for the next. Raises StopIteration."""
        if self._is_over:
            raise StopIteration("Iteration is done for the responses.")
        call = self._call
        call.waits = bool(executing.requests)
        answer = self._arrived.get()
        call.waits = False
        if answer.final:
            self._is_over = True
        else:
            call.consumed()
        return response_of(answer)

    def cancel(self) -> None:
        """Nothing but an error comes after what is there already."""
        if not self._is_over:
            self._call.cancel()

    def __del__(self) -> None:
        self.cancel()


def execute_decoupled(request: InferenceRequest) -> ResponseIterator:
    """All answers."""
    return ResponseIterator(request)


def execute_decoupled_async(request: InferenceRequest) -> asyncio.Future[ResponseIterator]:
    """The same to be awaited, as the reference server has it; the answers are read by waiting. Raises RuntimeError
    where no loop runs."""
    future: asyncio.Future[ResponseIterator] = asyncio.get_running_loop().create_future()
    future.set_result(ResponseIterator(request))
    return future


def response_of(answer: Answer) -> InferenceResponse:
    """An answer as models see it."""
    if answer.fault is not None:
        return InferenceResponse(error=TritonError.of(answer.fault))
    response = answer.response
    if response is None:
        return InferenceResponse()
    # Tensors of its own: whoever else keeps the response keeps the others, and their arrays tell that they are shared.
    outputs = [
        Tensor.received(WireTensor(tensor.name, tensor.datatype, tensor.shape, tensor.wire, tensor.array))
        for tensor in response.outputs
    ]
    return InferenceResponse.received(outputs, response.parameters)
