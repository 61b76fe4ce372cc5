"""gRPC requests that are traced: the moments at which the door receives and sends."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.caller import RequestTrace, Tracing
    from ....engine.port.served import Answer, Inference, InferenceStream
    from ....schema.inference import InferenceRequest
    from ..request.call import Call


def submit_traced(
    tracer: Tracing, call: Call, model: Any, request: InferenceRequest, answer: Callable[[Inference], None]
) -> Inference:
    """Counts a decoded request and submits it; if it is its turn, its moments are noted. Raises what the model does,
    and then the trace ends with the refusal."""
    trace = _sample(tracer, call, request)
    if trace is None:
        job: Inference = model.submit(request, answer, call.deadline)
        return job
    try:
        job = model.submit(request, partial(_answer, call, trace, answer), call.deadline)
    except Exception:
        trace.finish()
        raise
    return job


def submit_stream_traced(
    tracer: Tracing,
    call: Call,
    model: Any,
    request: InferenceRequest,
    answer: Callable[[InferenceStream, Answer], None],
) -> InferenceStream:
    """The same for decoupled models, whose traces the engine finishes once they are accepted."""
    trace = _sample(tracer, call, request)
    if trace is None:
        job: InferenceStream = model.submit_stream(request, answer, call.deadline)
        return job
    try:
        job = model.submit_stream(request, partial(_answer_stream, call, trace, answer), call.deadline)
    except Exception:
        trace.finish()
        raise
    return job


def _sample(tracer: Tracing, call: Call, request: InferenceRequest) -> RequestTrace | None:
    head = call.head
    trace = tracer.sample(request.model_name, head.field("traceparent") or None, head.field("tracestate"))
    if trace is not None:
        request.trace = trace
        now_ns = time.monotonic_ns()
        trace.stamp("GRPC_WAITREAD_START", now_ns - int((trio.current_time() - call.received_at) * 1e9))
        trace.stamp("GRPC_WAITREAD_END", now_ns)
    return trace


def _answer(call: Call, trace: RequestTrace, answer: Callable[[Inference], None], job: Inference) -> None:
    """Never raises: nobody else would end the call."""
    try:
        trace.stamp("GRPC_SEND_START")
        answer(job)
        trace.stamp("GRPC_SEND_END")
        trace.finish()
    except Exception as problem:
        call.break_off("a traced response cannot be sent", problem)


def _answer_stream(
    call: Call,
    trace: RequestTrace,
    answer: Callable[[InferenceStream, Answer], None],
    job: InferenceStream,
    message: Answer,
) -> None:
    if message.response is None and message.fault is None:
        answer(job, message)  # the end of the stream, which mostly is no message
        return
    try:
        trace.stamp("GRPC_SEND_START")
        answer(job, message)
        trace.stamp("GRPC_SEND_END")
    except Exception as problem:
        call.break_off("a traced response cannot be sent", problem)
