"""A request that came over one of our own connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..request.request import TEXT, Buffer, Field, HttpRequest
from .head import fields_of, headers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..request.streamed import StreamedReply
    from .head import Head
    from .receiver import Receiver


class Http1Request(HttpRequest):
    """Takes its reply, once, to the connection that it came from, while that is there."""

    __slots__ = ("connection", "head", "text")

    def __init__(self, connection: Receiver, head: Head, body: Buffer, text: bytes) -> None:
        # As the base class, but for the notes, which come with the head.
        form = head.form
        self.method = form.method
        self.path = form.path
        self.notes = form.notes
        self.body = body
        self._is_gone = False
        self._on_gone = None
        self.connection: Receiver | None = connection
        """None once the reply is given, or nobody is there to take it."""
        self.head = head
        self.text = text
        """Of its head, as received."""

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return headers_of(fields_of(self.text))

    @property
    def telling(self) -> Mapping[bytes, bytes]:
        return self.head.form.telling

    @property
    def header_length(self) -> bytes | None:
        return self.head.header_length

    def fields(self) -> Iterable[Field]:
        return fields_of(self.text)

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        connection = self.connection
        if connection is not None:
            self.connection = None
            try:
                connection.answer(self.head, status, content_type, buffers, fields)
            except Exception as problem:
                connection.cut(problem)

    @property
    def peer(self) -> str:
        return "" if self.connection is None else self.connection.peer

    def began_at(self) -> float | None:
        return None if self.connection is None else self.connection.began_at()

    def reply_and_tell(
        self,
        on_sent: Callable[[], None],
        status: int,
        content_type: bytes = TEXT,
        buffers: Sequence[Buffer] = (),
        fields: Sequence[Field] = (),
    ) -> None:
        connection = self.connection
        self.reply(status, content_type, buffers, fields)
        if connection is None:
            on_sent()
        else:
            connection.when_sent(on_sent)

    def begin_reply(self, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        connection = self.connection
        if connection is not None:
            try:
                connection.begin_answer(self.head, status, content_type, streamed)
            except Exception as problem:
                connection.cut(problem)

    def write_part(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            try:
                connection.send_part(data)
            except Exception as problem:
                connection.cut(problem)

    def end_reply(self) -> None:
        connection = self.connection
        if connection is not None:
            self.connection = None
            self._on_gone = None
            try:
                connection.end_answer()
            except Exception as problem:
                connection.cut(problem)

    def break_off(self, problem: Exception) -> None:
        if self.connection is not None:
            self.connection.fail(problem)

    @property
    def unsent_bytes(self) -> int:
        return self.connection.unsent_bytes if self.connection is not None else 0

    def abandon(self) -> None:
        """The client has left: the handler is told, and its reply goes nowhere."""
        self.connection = None
        self._is_gone = True
        on_gone = self._on_gone
        self._on_gone = None
        if on_gone is not None:
            on_gone()
