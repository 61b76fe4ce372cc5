"""A request that stands for another one, to do something about its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .request import HttpRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ....engine.port.served import Inference
    from .request import Field
    from .streamed import StreamedReply


class StandIn(HttpRequest):
    """Says and does what `request` would. What its transport sets there, and a handler here, is one and the same."""

    __slots__ = ("_request",)

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        super().__init__(request.method, request.path, request.headers, request.body)
        self.notes = request.notes

    @property
    def header_length(self) -> bytes | None:
        return self._request.header_length

    def fields(self) -> Iterable[Field]:
        return self._request.fields()

    @property
    def peer(self) -> str:
        return self._request.peer

    @property
    def traceparent(self) -> str:
        return self._request.traceparent

    def notice(self, job: Inference) -> None:
        self._request.notice(job)

    def began_at(self) -> float | None:
        return self._request.began_at()

    def begin_reply(self, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        self._request.begin_reply(status, content_type, streamed)

    def write_part(self, data: bytes) -> None:
        self._request.write_part(data)

    def end_reply(self) -> None:
        self._request.end_reply()

    def break_off(self, problem: Exception) -> None:
        self._request.break_off(problem)

    @property
    def unsent_bytes(self) -> int:
        return self._request.unsent_bytes

    @property
    def is_gone(self) -> bool:
        return self._request.is_gone

    def when_gone(self, on_gone: Callable[[], None] | None) -> None:
        self._request.when_gone(on_gone)
