"""What a route handler sees of one HTTP request, whatever carries it: our own listener or an ASGI server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .notes import Notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ....engine.port.served import Inference
    from .streamed import StreamedReply

Buffer = bytes | bytearray | memoryview
Field = tuple[bytes, bytes]
"""A header: name and value."""

JSON: Final = b"application/json"
TEXT: Final = b"text/plain"
BINARY: Final = b"application/octet-stream"


class HttpRequest:
    """One request, whole: its body has arrived. A handler calls `reply` exactly once, now or later, on the trio thread.

    `method` and `path` are as received: upper case, not percent-decoded, without the query. Header names are lower
    case; of repeated headers the first counts. `body` may be a view of a buffer that is recycled once no view of it is
    left, so keep views, not addresses.
    """

    __slots__ = ("_headers", "_is_gone", "_on_gone", "body", "method", "notes", "path")

    def __init__(self, method: bytes, path: bytes, headers: Mapping[bytes, bytes], body: Buffer) -> None:
        self.notes = Notes()
        self.method = method
        self.path = path
        self._headers = headers
        self.body = body
        self._is_gone = False
        self._on_gone: Callable[[], None] | None = None

    @property
    def is_gone(self) -> bool:
        """True once the client has left without its reply."""
        return self._is_gone

    def when_gone(self, on_gone: Callable[[], None] | None) -> None:
        """For a handler that can stop early: calls this at most once, when the client has left before the reply. It
        takes the place of what was said before; None is nothing."""
        self._on_gone = on_gone

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self._headers

    @property
    def telling(self) -> Mapping[bytes, bytes]:
        """Of the headers at least those that decide how bodies are read and answers are written, but for lengths."""
        return self._headers

    @property
    def header_length(self) -> bytes | None:
        """`Inference-Header-Content-Length` as it came; None for none."""
        return self._headers.get(b"inference-header-content-length")

    def fields(self) -> Iterable[Field]:
        """Every header, in the order and with the names as received, as far as the transport keeps them."""
        return self.headers.items()

    def text_fields(self) -> list[tuple[str, str]]:
        """The same as text; bytes that are not UTF-8 are replaced."""
        return [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in self.fields()]

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        """Sends the answer: `buffers` one after the other are the body, flat and not to be written to afterwards.

        Never blocks and never raises for a client that left; then it does nothing.
        """
        raise NotImplementedError

    # Instead of `reply`, for a body that is made bit by bit. `when_gone` stays in force until the end.

    def begin_reply(self, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        """Sends the head of an answer of unknown length; `write_part` any number of times and `end_reply` follow."""
        raise NotImplementedError

    def write_part(self, data: bytes) -> None:
        """Sends more of the body. Never blocks: what cannot leave waits, see `unsent_bytes`."""
        raise NotImplementedError

    def end_reply(self) -> None:
        raise NotImplementedError

    @property
    def unsent_bytes(self) -> int:
        """Of the reply, waiting for the client to read."""
        raise NotImplementedError

    def break_off(self, problem: Exception) -> None:
        """Ends a request that something of ours keeps from being answered: the log has `problem`, the handler is told
        as if the client had left, and the client gets what breakdown.py says, or where its answer has begun the end of
        its connection. Never raises."""
        raise NotImplementedError

    # For the log.

    @property
    def peer(self) -> str:
        """The client's address and port; empty where it is not known any more."""
        return ""

    @property
    def traceparent(self) -> str:
        """The W3C context that came along; empty for none."""
        return self.headers.get(b"traceparent", b"").decode("latin-1")

    def notice(self, job: Inference) -> None:
        """For access logs: what became of it in the engine, whose answer it is just told."""

    # For traces.

    def began_at(self) -> float | None:
        """When the request began to arrive, in seconds of trio's clock; None where the transport does not know."""
        return None

    def reply_and_tell(
        self,
        on_sent: Callable[[], None],
        status: int,
        content_type: bytes = TEXT,
        buffers: Sequence[Buffer] = (),
        fields: Sequence[Field] = (),
    ) -> None:
        """As `reply`; then calls `on_sent` once the answer has left, or cannot any more: maybe now."""
        self.reply(status, content_type, buffers, fields)
        on_sent()
