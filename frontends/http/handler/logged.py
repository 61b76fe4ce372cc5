"""HTTP requests that are noted in an access log: what stands for them, and the handler that tells it of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ....engine.port.concerns import about
from ....schema.tensor import size_of
from ...access_log import CLIENT_LEFT, Entry
from ..request.request import TEXT, HttpRequest
from ..request.stand_in import StandIn
from .infer import InferHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ....engine.port.served import Inference, Served
    from ....schema.infer_head import ReplyFormat
    from ...access_log import AccessLog
    from ..request.request import Buffer, Field
    from ..request.streamed import StreamedReply


def logged(log: AccessLog, handle: Callable[[HttpRequest], None]) -> Callable[[HttpRequest], None]:
    """`handle` for requests that `log` hears of."""

    def handle_logged(request: HttpRequest) -> None:
        handle(LoggedRequest(request, log))

    return handle_logged


class LoggedInferHandler(InferHandler):
    """Tells the request of the job before it is answered."""

    def _answer(self, request: HttpRequest, model: Served, reply: ReplyFormat, job: Inference) -> None:
        request.notice(job)
        super()._answer(request, model, reply, job)


class LoggedRequest(StandIn):
    """Stands for the request that it is made from, and is written when its reply has left, or its client."""

    __slots__ = ("_entry", "_is_over", "_log", "_peer", "_traceparent")

    def __init__(self, request: HttpRequest, log: AccessLog) -> None:
        super().__init__(request)
        self._log = log
        self._is_over = False
        self._peer = request.peer
        self._traceparent = request.traceparent
        began = request.began_at()
        began_s = 0.0 if began is None else max(0.0, trio.current_time() - began)
        method, path = request.method.decode("latin-1"), request.path.decode("utf-8", "replace")
        self._entry = Entry("http", method, path, len(request.body), began_s)
        request.when_gone(self._gone)

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def traceparent(self) -> str:
        return self._traceparent

    def notice(self, job: Inference) -> None:
        self._entry.executed(job, self)

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        self._replies(status, size_of(buffers))
        self._request.reply_and_tell(self._over, status, content_type, buffers, fields)

    def reply_and_tell(
        self,
        on_sent: Callable[[], None],
        status: int,
        content_type: bytes = TEXT,
        buffers: Sequence[Buffer] = (),
        fields: Sequence[Field] = (),
    ) -> None:
        self._replies(status, size_of(buffers))

        def sent() -> None:
            on_sent()
            self._over()

        self._request.reply_and_tell(sent, status, content_type, buffers, fields)

    def begin_reply(self, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        self._replies(status, 0)
        super().begin_reply(status, content_type, streamed)

    def write_part(self, data: bytes) -> None:
        self._entry.response_bytes += len(data)
        super().write_part(data)

    def end_reply(self) -> None:
        super().end_reply()
        self._over()

    def break_off(self, problem: Exception) -> None:
        self._entry.status = self._entry.status or 500
        super().break_off(problem)
        self._over()

    def when_gone(self, on_gone: Callable[[], None] | None) -> None:
        self._on_gone = on_gone

    def _gone(self) -> None:
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()
        self._entry.status = CLIENT_LEFT
        self._over()

    def _replies(self, status: int, size: int) -> None:
        self._entry.status = status
        self._entry.response_bytes += size
        self._entry.replied()

    def _over(self) -> None:
        if not self._is_over:
            self._is_over = True
            entry = self._entry
            if entry.concern is None:
                match = self.notes.match
                entry.concern = about("" if match is None else match.model, told=self)["concern"]
            self._log.write(entry, failed=entry.status >= 400)
