"""HTTP requests that are traced: the moments at which the door receives and sends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from ..request.request import TEXT, HttpRequest
from ..request.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....engine.port.caller import RequestTrace, Tracing
    from ....schema.inference import InferenceRequest
    from ..request.request import Buffer, Field
    from ..request.streamed import StreamedReply


def traced_if_chosen(
    tracer: Tracing, request: HttpRequest, inference: InferenceRequest, *, is_stream: bool = False
) -> HttpRequest:
    """Counts a decoded request. What stands for `request` from here on: itself, or one that notes its reply.

    `is_stream` for decoupled models, whose traces the engine finishes.
    """
    headers = request.headers
    parent = headers.get(b"traceparent")
    trace = tracer.sample(
        inference.model_name,
        None if parent is None else parent.decode("latin-1"),
        headers.get(b"tracestate", b"").decode("latin-1"),
    )
    if trace is None:
        return request
    inference.trace = trace
    now_ns = time.monotonic_ns()
    began = request.began_at()
    trace.stamp("HTTP_RECV_START", now_ns if began is None else now_ns - int((trio.current_time() - began) * 1e9))
    trace.stamp("HTTP_RECV_END", now_ns)
    return TracedRequest(request, trace, is_stream)


class TracedRequest(StandIn):
    """Stands for the request that it is made from, and finishes the trace when the reply has left."""

    __slots__ = ("_is_stream", "_trace")

    def __init__(self, request: HttpRequest, trace: RequestTrace, is_stream: bool) -> None:
        super().__init__(request)
        self._trace = trace
        self._is_stream = is_stream

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        self._trace.stamp("HTTP_SEND_START")
        self._request.reply_and_tell(self._sent, status, content_type, buffers, fields)

    def _sent(self) -> None:
        self._trace.stamp("HTTP_SEND_END")
        if not self._is_stream:
            self._trace.finish()

    def begin_reply(self, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        self._trace.stamp("HTTP_SEND_START")
        super().begin_reply(status, content_type, streamed)

    def end_reply(self) -> None:
        super().end_reply()
        self._sent()

    def break_off(self, problem: Exception) -> None:
        super().break_off(problem)
        self._sent()
