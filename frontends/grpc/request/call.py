"""One call: a stream of the connection, the gRPC messages on it (incoming.py), and the reply.

A call is handed to its `Method` when its first message is complete. From then on it ends in exactly one way:

    finish(...) ──unsent bytes leave──▶ sent_all ──▶ gone       the handler's way
    refuse(...) ──▶ the same                                    the client broke the call's own rules
    break_off(...) ──▶ the same, or a reset                     something of ours broke
    abandon() ──▶ gone                                          the peer reset it, or the connection is lost

`on_abandoned`, if set, is called once in the last three cases. After any, replies to it do nothing. What the connection
calls never raises: whatever breaks ends with the call.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ..wire import reply as block
from ..wire.constants import ErrorCode, headers_frame, rst_stream
from .breakdown import answer_to, note
from .incoming import NONE, Incoming

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ....schema.tensor import Buffer
    from .head import Head
    from .port import Compressor, Transport

_INVALID_ARGUMENT, _UNAVAILABLE = 3, 14
STOPPING: Final = "GRPC server is shutting down and has stopped accepting new requests."
_INITIAL: Final = headers_frame(0, block.INITIAL, end=False)[:5]
_ENDING: Final = headers_frame(0, block.TRAILERS_OK, end=True)[:5]
"""The frame heads up to the stream id."""
_pack_ending: Final = Struct(f">5sI{len(block.TRAILERS_OK)}s").pack
_FLAGS: Final = (b"\0", b"\1")
"""Of a message's prefix: plain, compressed."""


class Call(Incoming):
    """What most calls have at these values is stored with those only that differ."""

    deadline = 0.0
    """On trio's clock; 0 for none."""
    stopping = False
    """The server stops: requests that begin on this call are refused, and the call ends when those before are answered.
    `on_input` is called when it is set."""
    on_output: Callable[[], None] | None = None
    """Called when all that was replied has left the call."""
    on_abandoned: Callable[[], None] | None = None
    deflater: Compressor | None = None
    """Compresses the replies; None sends them as they are."""
    unsent: deque[memoryview] = NONE
    """Not to be added to from outside."""
    unsent_bytes = 0
    trailers = b""
    is_waiting = False
    head_sent = False

    def __init__(
        self, connection: Transport, stream_id: int, head: Head, now: float, window: int, receive_window: int
    ) -> None:
        """`window` is what the peer lets us send on a new stream, `receive_window` what we let it."""
        self.connection = connection
        self.id = stream_id
        self.head = head
        self.received_at = now
        self.window = window
        self.receive_window = receive_window

    def start(self) -> None:
        self.start_with(self.take() if self.messages else b"")

    def start_with(self, message: Buffer) -> None:
        """Hands the call to who serves it, with its first message; empty for one that starts with its head."""
        self.started = True
        method = self.head.method
        assert method is not None, "a head without a method is refused before"
        try:
            method.start(self, message)
        except Exception as problem:
            self.break_off("a request failed on its way in", problem)

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs an async function of the call under the server's nursery; what it raises ends the call."""
        self.connection.start_task(self._run_task, function, arguments)

    async def _run_task(self, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        try:
            await function(*arguments)
        except Exception as problem:
            self.break_off("serving a call failed", problem)

    # Replying.

    @property
    def metadata(self) -> Any:
        return self.head.metadata

    @property
    def peer(self) -> str:
        """The client, for the log."""
        return self.connection.peer

    @property
    def traceparent(self) -> str:
        """The W3C context that came along; empty for none."""
        return self.head.field("traceparent")

    def send(self, buffers: Sequence[Buffer], size: int) -> None:
        """Replies one of several messages. Never blocks: what cannot leave waits in `unsent`."""
        if self.done or self._is_unsendable(size):
            return
        if self.deflater is not None:
            self.deflater.put(buffers, size, is_only=False)
            return
        self.send_encoded(buffers, size)

    def send_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        """The same for a message that is ready to go out."""
        head = b"" if self.head_sent else self._initial(compressed)
        self.head_sent = True
        try:
            self.connection.outlet.put_message(self, head, buffers, size, b"", _FLAGS[compressed])
        except Exception as problem:
            self._cut_off("a message cannot be sent", problem)
            return
        self.connection.flush_soon()

    def reply(self, buffers: Sequence[Buffer], size: int) -> None:
        """Replies the only message and ends the call well."""
        if self.done or (size > self.connection.settings.send_bytes_max and self._is_unsendable(size)):
            return
        if self.deflater is not None:
            self.deflater.put(buffers, size, is_only=True)
            return
        self.reply_encoded(buffers, size)

    def reply_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        """The same for a message that is ready to go out."""
        head = self._initial(compressed)
        self.trailers = trailers = self._ending(_pack_ending(_ENDING, self.id, block.TRAILERS_OK))
        self.head_sent = True
        try:
            self.connection.outlet.put_message(self, head, buffers, size, trailers, _FLAGS[compressed])
        except Exception as problem:
            self._cut_off("a reply cannot be sent", problem)
            return
        self.connection.flush_soon()

    def _initial(self, compressed: bool) -> bytes:
        """The frame that begins a reply with messages."""
        if compressed and self.deflater is not None:
            return headers_frame(self.id, block.INITIAL_ENCODED[self.deflater.encoding], end=False)
        return _INITIAL + self.id.to_bytes(4, "big") + block.INITIAL

    @property
    def waiting_bytes(self) -> int:
        """Of replies that have not left the call, compressed yet or not."""
        return self.unsent_bytes + (self.deflater.queued_bytes if self.deflater is not None else 0)

    def finish(self, status: int = block.OK, text: str = "") -> None:
        """Ends the call. Messages already sent leave first, unless the status is an error."""
        if self.done or self.trailers:
            return
        if self.deflater is not None and self.deflater.is_busy:
            if not status:
                self.deflater.end()
                return
            self.deflater.drop()
        ending = block.trailers(status, text) if status else block.TRAILERS_OK
        if not self.head_sent:
            ending = block.INITIAL + ending
        trailers = self._ending(headers_frame(self.id, ending, end=True))
        if status:
            self.unsent.clear()
            self.unsent_bytes = 0
        if self.unsent:
            self.trailers = trailers
        else:
            self.connection.outlet.put(trailers)
            self.sent_whole()
        self.connection.flush_soon()

    def refuse(self, status: int, text: str) -> None:
        """Ends the call because of what the client sent or did not send; its handler is told to stop."""
        if self.done:
            return
        self._let_go()
        try:
            self.finish(status, text)
        finally:
            self._tell_handler()

    def stop(self) -> None:
        """The server stops. A handler that waits for the client hears of it."""
        self.stopping = True
        if self.on_input is not None:
            try:
                self.on_input()
            except Exception as problem:
                self.break_off("a call cannot be stopped", problem)

    def refuse_half_sent(self) -> None:
        """The server has waited long enough for the rest of the request, if there is any to come."""
        if not self.started and not self.ended:
            self.refuse(_UNAVAILABLE, STOPPING)

    def break_off(self, what: str, problem: Exception) -> None:
        """Ends the call because something of ours broke: the client is told, the log has `what` and the traceback, the
        handler is told to stop. Never raises. Not for what breaks while a message is sent: see `_cut_off`."""
        note(what, problem, self)
        try:
            self.refuse(*answer_to(problem))
            if self.done:
                self.connection.forget(self)
            self.connection.flush_soon()
        except Exception as second:
            self._cut_off("a call cannot be ended", second)

    def _cut_off(self, what: str, problem: Exception) -> None:
        """The same where a reply may have begun to leave: the stream is reset, and if not even that can be said, the
        connection is closed."""
        note(what, problem, self)
        try:
            if not self.done:
                self.connection.outlet.put(rst_stream(self.id, ErrorCode.INTERNAL_ERROR))
                self.abandon()
            self.connection.forget(self)
            self.connection.flush_soon()
        except Exception as second:
            note("a connection is given up", second)
            self.connection.close()

    def _tell_handler(self) -> None:
        """What it does for the call is of no use any more."""
        on_abandoned, self.on_abandoned = self.on_abandoned, None
        if on_abandoned is not None:
            try:
                on_abandoned()
            except Exception as problem:
                note("a request cannot be cancelled", problem)

    def _ending(self, trailers: bytes) -> bytes:
        """The peer is told to stop sending if it has not."""
        return trailers if self.ended else trailers + rst_stream(self.id, ErrorCode.NO_ERROR)

    def _is_unsendable(self, size: int) -> bool:
        limit = self.connection.settings.send_bytes_max
        if size > limit:
            self.finish(
                _INVALID_ARGUMENT, f"Response has byte size {size} which exceeds gRPC's byte size limit {limit}."
            )
        return size > limit

    def keep(self, buffers: Iterable[Buffer]) -> None:
        """For the outlet: these wait for a window or for other calls."""
        if self.unsent is NONE:
            self.unsent = deque()
        self.unsent.extend(memoryview(buffer) for buffer in buffers if len(buffer))

    def sent_whole(self) -> None:
        """The reply, head and trailers included, is with the outlet."""
        self.done = True
        self.connection.forget(self)

    def sent_all(self) -> None:
        """For the outlet: nothing is unsent any more."""
        if self.trailers:
            self.sent_whole()
        elif self.on_output is not None:
            try:
                self.on_output()
            except Exception as problem:
                self.break_off("a stream cannot go on", problem)

    def abandon(self) -> None:
        """The peer is not interested any more, or gone."""
        if self.done:
            return
        self.done = True
        if self.deflater is not None:
            self.deflater.drop()
        self.unsent.clear()
        self.unsent_bytes = 0
        self._let_go()
        self.connection.forget(self)
        self._tell_handler()
