"""The same routes as an ASGI application, for HTTP/2 and for whoever brings his own server or middleware.

The application reads each body to its end, within the limits that our own listener has, and watches for the client's
leaving. It must: an ASGI server queues what the application does not read, and tells of a disconnect only to those
who listen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import trio

from ....schema.kserve_http_reply import encode_error
from ....schema.tensor import size_of
from ..request.breakdown import NoRoomForBody, answer_to, note
from ..request.request import JSON, TEXT, Buffer, Field, HttpRequest
from ..request.verbose import VERBOSITY
from .head import path_of
from .status import UNFINISHED, slow_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ..request.streamed import StreamedReply
    from ..settings import HttpSettings

Message = dict[str, Any]
CLOSE: Final = (b"connection", b"close")


class AsgiApplication:
    """Carries ASGI requests to `handle`. Runs on trio only."""

    def __init__(self, handle: Callable[[HttpRequest], None], settings: HttpSettings) -> None:
        self._handle = handle
        self._settings = settings
        self._active = 0
        self._rested = trio.Event()
        self._is_stopping = False
        self.parting = False
        """Over HTTP/1.1 each answer is the last of its connection."""
        self._bodies: set[trio.CancelScope] = set()
        """Around the waits for more of a body."""
        self._bodies_until = math.inf

    def stop_soon(self) -> None:
        """The server stops. It is `parting` at the latest now; HTTP/2 has no word for that here,
        so new requests are refused. A body of which a part has come has `stop_grace` for the rest."""
        self._is_stopping = self.parting = True
        self._bodies_until = trio.current_time() + self._settings.stop_grace
        for scope in self._bodies:
            scope.deadline = min(scope.deadline, self._bodies_until)

    async def wait_rested(self) -> None:
        """Returns when no request is being served."""
        while self._active:
            await self._rested.wait()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            self._active += 1
            try:
                await self._serve(scope, receive, send)
            finally:
                self._active -= 1
                if not self._active:
                    self._rested.set()
                    self._rested = trio.Event()

    async def _serve(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        is_http1 = scope.get("http_version", "").startswith("1")
        is_late = self._is_stopping and not is_http1
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(bytes(name), bytes(value))
        has_two_framings = b"transfer-encoding" in headers and b"content-length" in headers  # see head.py
        path = path_of(scope.get("raw_path") or scope["path"].encode())
        try:
            body, problem = await self._read_body(receive)
        except MemoryError as full:
            note("a request body cannot be held", full)
            body, problem = b"", answer_to(full)
        if body is None:
            return  # the client left before its request was whole
        request = _AsgiRequest(scope["method"].encode("latin-1"), path, headers, body, scope.get("client"))
        if problem is not None:
            request.reply(problem[0], JSON, [encode_error(problem[1])])
        elif is_late:
            request.reply(503, JSON, [encode_error("Server exiting")])
        else:
            VERBOSITY.look()
            self._handle(request)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, receive, request)
                await request.is_answered.wait()
                await request.stream_through(send, closes=is_http1 and (self.parting or has_two_framings))
                nursery.cancel_scope.cancel()
            await request.send_through(send, closes=is_http1 and (self.parting or has_two_framings))
        finally:
            request.abandon()  # if this was cancelled: the connection has ended

    async def _read_body(
        self, receive: Callable[[], Awaitable[Message]]
    ) -> tuple[Buffer | None, tuple[int, str] | None]:
        """The body and None, or what is wrong with it. Reads on after a refusal: see above. None if the client left.
        Raises NoRoomForBody."""
        settings = self._settings
        parts: list[bytes] = []
        size = 0
        began = trio.current_time()
        problem: tuple[int, str] | None = None
        while True:
            with trio.move_on_after(settings.body_stall_timeout) as stall:
                stall.deadline = min(stall.deadline, self._bodies_until)
                self._bodies.add(stall)
                try:
                    message = await receive()
                finally:
                    self._bodies.discard(stall)
            if stall.cancelled_caught:
                if self._is_stopping:
                    return b"", UNFINISHED
                return b"", (408, f"no request body received for {settings.body_stall_timeout:g} seconds")
            if message["type"] == "http.disconnect":
                return None, None
            part = message.get("body", b"")
            size += len(part)
            counted_s = trio.current_time() - began - settings.body_stall_timeout
            if size < settings.body_rate_min * counted_s and message.get("more_body"):
                return b"", (408, slow_body(settings.body_rate_min))
            if size > settings.body_bytes_max:
                problem = (400, f"request body exceeds the maximum of {settings.body_bytes_max} bytes")
                parts.clear()
            elif part:
                parts.append(part)
            if not message.get("more_body"):
                try:
                    return parts[0] if len(parts) == 1 else b"".join(parts), problem
                except MemoryError as full:
                    raise NoRoomForBody(size) from full


class _AsgiRequest(HttpRequest):
    """A request whose reply waits until the application's task sends it."""

    __slots__ = ("_answer", "_client", "_is_over", "_news", "_parts", "_streamed", "is_answered")

    def __init__(
        self,
        method: bytes,
        path: bytes,
        headers: Mapping[bytes, bytes],
        body: Buffer,
        client: tuple[str, int | None] | None = None,
    ) -> None:
        super().__init__(method, path, headers, body)
        self._client = client
        self.is_answered = trio.Event()
        """Set by the reply, and by the client's leaving."""
        self._is_over = False
        self._answer: tuple[int, bytes, Sequence[Buffer], Sequence[Field]] | None = None
        self._streamed: StreamedReply | None = None
        self._parts: list[bytes] = []
        """Of a reply that is sent bit by bit: what has not left."""
        self._news = trio.Event()

    @property
    def peer(self) -> str:
        return "unix" if self._client is None else f"{self._client[0]}:{self._client[1]}"

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_gone = None
            self._answer = (status, content_type, buffers, fields)
            self.is_answered.set()

    def begin_reply(self, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        if not self._is_over:
            self._answer = (status, content_type, (), ())
            self._streamed = streamed
            self.is_answered.set()

    def write_part(self, data: bytes) -> None:
        if not self._is_over:
            self._parts.append(data)
            self._news.set()

    def end_reply(self) -> None:
        self._is_over = True
        self._on_gone = None
        self._news.set()

    @property
    def unsent_bytes(self) -> int:
        return size_of(self._parts)

    async def stream_through(self, send: Callable[[Message], Awaitable[None]], *, closes: bool) -> None:
        """Sends a reply that comes bit by bit, as fast as the client reads; other replies it leaves alone."""
        if self._streamed is None or self._answer is None:
            return
        status, content_type, _, _ = self._answer
        self._answer = None
        on_room = self._streamed.on_room
        headers = [(b"content-type", content_type), *([CLOSE] if closes else ())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while not self.is_gone:
            if self._parts:
                count = len(self._parts)
                await send({"type": "http.response.body", "body": b"".join(self._parts), "more_body": True})
                del self._parts[:count]
                if not self._parts and on_room is not None:
                    on_room()
            elif self._is_over:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            else:
                self._news = trio.Event()
                await self._news.wait()

    def abandon(self) -> None:
        """The client has left: the handler is told, and its reply goes nowhere."""
        if not self._is_over:
            self._is_over = True
            self._is_gone = True
            self.is_answered.set()
            self._news.set()
            if self._on_gone is not None:
                self._on_gone()

    def break_off(self, problem: Exception) -> None:
        note("a request cannot be answered", problem)
        if self._is_over:
            return
        on_gone = self._on_gone
        try:
            if self._streamed is None:
                status, text = answer_to(problem)
                self.reply(status, JSON, [encode_error(text)])
            else:
                self.end_reply()  # ASGI has no other end for a body, and HTTP/2 clients would wait for one
            if on_gone is not None:
                on_gone()
        except Exception as second:
            note("ending a request failed", second)
            self.abandon()

    async def send_through(self, send: Callable[[Message], Awaitable[None]], *, closes: bool) -> None:
        """Sends the reply, if the client is there to have it. `closes` says that the connection ends with it."""
        if self._answer is None:
            return
        status, content_type, buffers, fields = self._answer
        size = size_of(buffers)
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % size)]
        headers += [(name.lower(), value) for name, value in fields]
        if closes:
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if self.method == b"HEAD" else b"".join(buffers)
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _watch(receive: Callable[[], Awaitable[Message]], request: _AsgiRequest) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            request.abandon()
            return


async def _live(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """The server's start and end are the engine's business, not the application's."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
