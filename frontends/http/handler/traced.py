"""HTTP requests that are traced: the moments at which the door receives and sends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from ..request.request import TEXT, HttpRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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


class TracedRequest(HttpRequest):
    """Stands for the request that it is made from, and finishes the trace when the reply has left."""

    __slots__ = ("_is_stream", "_request", "_trace")

    def __init__(self, request: HttpRequest, trace: RequestTrace, is_stream: bool) -> None:
        self._request = request
        self._trace = trace
        self._is_stream = is_stream
        super().__init__(request.method, request.path, request.headers, request.body)
        self.notes = request.notes

    def fields(self) -> Iterable[Field]:
        return self._request.fields()

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
        self._request.begin_reply(status, content_type, streamed)

    def write_part(self, data: bytes) -> None:
        self._request.write_part(data)

    def end_reply(self) -> None:
        self._request.end_reply()
        self._sent()

    def break_off(self, problem: Exception) -> None:
        self._request.break_off(problem)
        self._sent()

    @property
    def unsent_bytes(self) -> int:
        return self._request.unsent_bytes

    # What the transport sets on the request that it knows, and the handler on this one.

    @property
    def on_gone(self) -> Callable[[], None] | None:
        return self._request.on_gone

    @on_gone.setter
    def on_gone(self, on_gone: Callable[[], None] | None) -> None:
        self._request.on_gone = on_gone

    @property
    def is_gone(self) -> bool:
        return self._request.is_gone

    @is_gone.setter
    def is_gone(self, is_gone: bool) -> None:
        self._request.is_gone = is_gone
