"""gRPC requests that are traced: the moments at which the door receives and sends."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.job import Job
    from ...engine.stream import Answer, StreamJob
    from ...engine.tracing import Trace, Tracer
    from ...schema.inference import InferenceRequest
    from .call import Call


def traced_if_chosen(tracer: Tracer, call: Call, request: InferenceRequest, answer: Callable[[Job], None]) -> Any:
    """Counts a decoded request. What to call with the finished job: `answer`, or what notes its moments too."""
    trace = _sample(tracer, call, request)
    return answer if trace is None else partial(_answer, trace, answer)


def traced_stream_if_chosen(
    tracer: Tracer, call: Call, request: InferenceRequest, answer: Callable[[StreamJob, Answer], None]
) -> Any:
    """The same for decoupled models, whose traces the engine finishes."""
    trace = _sample(tracer, call, request)
    return answer if trace is None else partial(_answer_stream, trace, answer)


def _sample(tracer: Tracer, call: Call, request: InferenceRequest) -> Trace | None:
    metadata = call.metadata
    trace = tracer.sample(request.model_name, metadata.get("traceparent"), metadata.get("tracestate", ""))
    if trace is not None:
        request.trace = trace
        now_ns = time.monotonic_ns()
        trace.stamp("GRPC_WAITREAD_START", now_ns - int((trio.current_time() - call.received_at) * 1e9))
        trace.stamp("GRPC_WAITREAD_END", now_ns)
    return trace


def _answer(trace: Trace, answer: Callable[[Job], None], job: Job) -> None:
    trace.stamp("GRPC_SEND_START")
    answer(job)
    trace.stamp("GRPC_SEND_END")
    trace.finish()


def _answer_stream(trace: Trace, answer: Callable[[StreamJob, Answer], None], job: StreamJob, message: Answer) -> None:
    if message.response is None and message.fault is None:
        answer(job, message)  # the end of the stream, which mostly is no message
        return
    trace.stamp("GRPC_SEND_START")
    answer(job, message)
    trace.stamp("GRPC_SEND_END")
