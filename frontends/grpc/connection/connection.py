"""One HTTP/2 connection of the gRPC door, as a state machine over a non-blocking socket.

Rules: reader.py knows where frames begin and end, this module what they mean; only outlet.py sends. Every violation of
the protocol or of a limit raises Http2Error, and only `on_readable` catches it: the connection says GOAWAY, and no
other connection notices. The same holds for what breaks in here, from want of memory to a bug.
A broken call is the call's affair (call.py) and ends with a status.

    OPEN ──GOAWAY sent, no calls left, or Http2Error──▶ LINGERING ──peer closes or time is up──▶ CLOSED
      └──peer closes, socket error, stall──▶ CLOSED         every call still there is abandoned
"""

from __future__ import annotations

import contextlib
import logging
import socket
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ....engine.port.concerns import about, peer_name
from ...tls import TlsSocket
from ..request.breakdown import note
from ..request.call import Call
from ..request.head import HeadReader
from ..request.incoming import PREFIX_BYTES
from ..request.logged import LoggedCall
from ..wire.constants import (
    END_STREAM,
    GOAWAY,
    PING,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_CONCURRENT_STREAMS,
    SETTING_MAX_FRAME_SIZE,
    SETTING_MAX_HEADER_LIST_SIZE,
    SETTINGS,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    ErrorCode,
    Http2Error,
    frame,
    headers_frame,
    rst_stream,
    window_update,
)
from .carried import Carried
from .control import LEAVING, Control
from .limits import TokenBucket
from .outlet import Outlet
from .reader import FrameReader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..request.head import Head
    from ..request.incoming import Incoming
    from .port import Listener

_logger = logging.getLogger("despina.grpc")

_READ_BYTES: Final = 65_536 + 8_192
_CONNECTION_CREDIT_BYTES: Final = 4_194_304
_DISCARD_BYTES_MAX: Final = 1_048_576
"""What a lingering connection may still send."""

ANY_STREAM: Final = b"\x7f\xff\xff\xff"
"""As the last stream that a GOAWAY lets pass."""


class State(Enum):
    OPEN = 1
    LINGERING = 2
    CLOSED = 3


class Connection:
    def __init__(self, server: Listener, sock: socket.socket) -> None:
        self.server = server
        self.settings = settings = server.settings
        self.sock = sock
        self.tls = sock if isinstance(sock, TlsSocket) else None
        self.fd = sock.fileno()
        self.state = State.OPEN
        self._access_log = server.access_log
        self.bulk = server.bulk
        self.buffers = server.buffers
        self.carried = Carried(self, server.carrier)
        self.outlet = Outlet(sock, server.bulk, None if self.tls else self.carried)
        self.calls: dict[int, Call] = {}
        self.now = now = server.now
        """Seconds on trio's clock, as of this pass of the listener."""
        self.opened_at = now
        self.received_at = now
        self.draining = False
        """GOAWAY is sent: no new calls, and the connection ends with its last one."""
        self.last_id = 0
        """The highest stream id the peer has used."""
        self.corked = True
        """Flushing waits for the end of the current pass."""
        self.dirty = False
        self._is_blocked = False
        """The kernel took no more: the listener watches for room."""
        self.linger_until = 0.0
        self.stall_since = 0.0
        """Since when something waits for the peer without a pause; 0 for not,"""
        self.stall_sent_bytes = 0
        """and what had been sent by then."""
        self.control = Control(self)
        self.reader = FrameReader(self)
        self._heads = HeadReader(server.meanings, settings.header_list_bytes_max)
        self._resets = TokenBucket(settings.resets_burst, settings.resets_per_s, now)
        self.idle_frames = TokenBucket(settings.idle_frames_burst, settings.idle_frames_per_s, now)
        self._uncredited = 0
        self._discarded = 0
        self._stream_window_bytes = settings.stream_window_bytes
        self.whole_bytes_max = min(settings.stream_window_bytes, settings.frame_bytes_max, settings.receive_bytes_max)
        """DATA bytes of calls that are taken at once."""
        greeting = {
            SETTING_MAX_CONCURRENT_STREAMS: settings.concurrent_streams_max,
            SETTING_INITIAL_WINDOW_SIZE: settings.stream_window_bytes,
            SETTING_MAX_FRAME_SIZE: settings.frame_bytes_max,
            SETTING_MAX_HEADER_LIST_SIZE: settings.header_list_bytes_max,
        }
        payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in greeting.items())
        self.outlet.put(frame(SETTINGS, 0, 0, payload) + window_update(0, WINDOW_MAX - WINDOW_DEFAULT))

    # Called by the listener.

    @property
    def peer(self) -> str:
        """The client, for the log."""
        return peer_name(self.sock)

    def on_readable(self) -> None:
        """Reads once, acts on every complete frame, and sends what that made. Never raises."""
        if self.state is State.LINGERING:
            self._read(self._discard)
        elif self.carried.receives:
            self.close()  # nothing else is told of it but that the peer has gone
        else:
            self._read(self.reader.read)

    def on_received(self, count: int, problem: Exception | None) -> None:
        """Of a large message so much more is in its place. Never raises."""
        if self.state is State.OPEN:
            self._watch()
            self._read(partial(self.reader.on_carried, count, problem))

    def on_sent(self, count: int, problem: Exception | None) -> None:
        """Of large answers so much more is with the kernel. Never raises."""
        if self.state is not State.OPEN:
            return  # nothing follows: it only lingers
        try:
            if problem is None:
                self.outlet.forget(count)
            elif not isinstance(problem, BlockingIOError):
                raise problem
            self._is_blocked = True
            self._watch()
        except OSError:
            self.close()
        except Exception as broken:
            note("a connection cannot send and is closed", broken)
            self.close()

    def _read(self, read: Callable[[], object]) -> None:
        self.now = self.received_at = self.server.now
        self.corked = True
        try:
            read()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        except Http2Error as error:
            self.fail(error)
        except Exception as problem:
            self._give_up(problem)
        self.corked = False
        if self.state is State.CLOSED:
            self._let_go()
            return
        try:
            if self._is_blocked or self.draining or not self.outlet.is_idle:
                self.flush()
            else:
                self.dirty = False
        except Exception as problem:
            note("a connection is closed", problem)
            self.close()

    def flush(self) -> None:
        """Sends what the kernel takes; asks the listener to call again when it takes more. Never raises."""
        self.dirty = False
        if self.state is not State.OPEN or self.carried.sends:
            return
        try:
            flushed = self.outlet.flush()
            if flushed and self.draining and not self.calls:
                self._linger()
                return
            if not flushed or self._is_blocked:
                self._is_blocked = not flushed
                self._watch()
        except OSError:
            self.close()
        except Exception as problem:
            note("a connection cannot send and is closed", problem)
            self.close()

    def _watch(self) -> None:
        """For what neither the carrier nor a backlog forbids."""
        carried = self.carried
        backlog = self.outlet.queued_bytes > self.settings.backlog_bytes_max
        readable = not (backlog or carried.receives)
        self.server.watch(self, readable=readable, writable=self._is_blocked and not carried.sends)

    def carry(self, place: memoryview) -> None:
        """Has the carrier receive into that place; nothing else is read until the reader is told of it."""
        self.carried.receive(place)
        self._watch()

    def flush_soon(self) -> None:
        """Something was queued. Replies made together by one batch leave together: later, if there is a call whose
        reply may still come."""
        if self.corked or self.dirty:
            return
        if len(self.calls) > self.outlet.waiting_count:
            self.dirty = True
            try:
                self.server.flush_later(self)
            except Exception as problem:
                note("a connection sends at once, out of turn", problem)
                self.flush()
        else:
            self.flush()

    def abort(self) -> None:
        """Closes with a reset: what the peer does not take must not stay in the kernel."""
        if self.state is not State.CLOSED:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close()

    def close(self) -> None:
        """Ends the connection at once and abandons its calls. Idempotent."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.server.remove(self)
        if not self.carried.has_socket:
            self.sock.close()
        for call in list(self.calls.values()):
            call.abandon()
        if not self.corked:
            self._let_go()

    def _let_go(self) -> None:
        """Closed, and not in a pass: nothing here refers to itself, so that its memory is free at once and does not
        wait for the interpreter to look for cycles, which it does rarely."""
        self.reader.let_go()
        self.control.let_go()
        self.carried.let_go()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Asks the peer to open no more calls here; the connection ends with its last call."""
        if self.draining or self.state is not State.OPEN:
            return
        self.draining = True
        self.outlet.put(frame(GOAWAY, 0, 0, self.last_id.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()))
        if not self.corked:
            self.flush()

    def announce_stop(self) -> None:
        """The server stops: asks the peer to open no more calls, and to say when it has read that. Calls that cross
        this on their way are still taken: their client may not be free to repeat them. Never raises."""
        if self.draining or self.state is not State.OPEN:
            self.stop()
            return
        try:
            self.outlet.put(frame(GOAWAY, 0, 0, ANY_STREAM + bytes(4)) + frame(PING, 0, 0, LEAVING))
            for call in list(self.calls.values()):
                call.stop()
            if not self.corked:
                self.flush()
        except Exception as problem:
            self._give_up(problem)

    def stop(self) -> None:
        """The server stops, and the peer knows: as `go_away`, and calls that wait for their client end now. Never
        raises."""
        try:
            self.go_away()
            for call in list(self.calls.values()):
                call.stop()
        except Exception as problem:
            self._give_up(problem)

    def refuse_half_sent(self) -> None:
        """Ends the calls whose requests are not there yet. Never raises."""
        try:
            for call in list(self.calls.values()):
                call.refuse_half_sent()
        except Exception as problem:
            self._give_up(problem)

    def _give_up(self, problem: Exception) -> None:
        """Something of ours broke, and the connection's state with it."""
        note("a connection is given up", problem)
        try:
            if self.state is State.OPEN:
                self.fail(Http2Error(ErrorCode.INTERNAL_ERROR, "internal error"))
            else:
                self.close()
        except Exception as second:
            note("a connection is closed", second)
            self.close()

    def fail(self, error: Http2Error) -> None:
        """The peer broke a rule: tells it so and ends the connection."""
        if self.state is not State.OPEN:
            return
        self.draining = False
        self.go_away(error.code, error.text)
        for call in list(self.calls.values()):
            call.abandon()
        self.calls.clear()
        try:
            self.outlet.flush()
        except OSError:
            self.close()
            return
        self._linger()

    def _linger(self) -> None:
        """Closes our side and lets the peer read its last bytes: a close with unread input would destroy them."""
        self.state = State.LINGERING
        self.linger_until = self.server.now + self.server.linger_s
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.server.watch(self, readable=True, writable=False)

    def _discard(self) -> None:
        data = self.sock.recv(_READ_BYTES)
        self._discarded += len(data)
        if not data or self._discarded > _DISCARD_BYTES_MAX:
            self.close()

    @property
    def is_open(self) -> bool:
        return self.state is State.OPEN

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    # For calls.

    def forget(self, call: Call) -> None:
        self.calls.pop(call.id, None)
        if call.buffer is not None:
            self.give_buffer(call)

    def give_buffer(self, call: Incoming) -> None:
        assert call.buffer is not None, "it has one"
        assert call.pool is not None, "it is from somewhere"
        self.server.pools.give_back(call.pool, call.buffer)
        call.buffer = None

    def _open_call(self, stream_id: int, head: Head) -> Call:
        log = self._access_log
        window, receive_window = self.outlet.peer_window_bytes, self._stream_window_bytes
        call = (
            Call(self, stream_id, head, self.now, window, receive_window)
            if log is None
            else LoggedCall(self, stream_id, head, self.now, window, receive_window, log)
        )
        self.calls[stream_id] = call
        return call

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs an async function under the server's nursery."""
        self.server.start_task(function, *arguments)

    async def in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self.server.in_worker(function, *arguments)

    # For the reader.

    def take_call(self, block: bytes, stream_id: int, message: bytes, grown: int, is_only: bool) -> bool:
        """A call with one plain message that is all there; no other is if `is_only`. Its window has `grown` already.
        False, and only its header block is taken, where that needs the way of all others."""
        head = self._heads.read(block)
        count = len(message) + PREFIX_BYTES
        if (
            not head.is_plain
            or stream_id <= self.last_id
            or self.draining
            or len(self.calls) >= self.settings.concurrent_streams_max
            or count > self.whole_bytes_max
            or self.server.is_verbose
        ):
            self._on_head(head, 0, stream_id)
            return False
        self.last_id = stream_id
        self.count_data(count, None)
        call = self._open_call(stream_id, head)
        call.ended = True
        if grown:
            call.window += grown
        if head.timeout_s is not None:
            call.deadline = self.now + head.timeout_s
        if is_only and self.server.is_lone:
            self.server.inline.begin_pass(is_alone=True)
        call.start_with(message)
        return True

    def call_for_data(self, stream_id: int) -> Call | None:
        """The call that the bytes belong to, or None when it has ended lately."""
        call = self.calls.get(stream_id)
        if call is None:
            if stream_id == 0 or (stream_id > self.last_id and not self.draining):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was never opened")
            return None
        if call.ended:
            self.outlet.put(rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
            call.abandon()
            return None
        return call

    def count_data(self, count: int, call: Call | None) -> None:
        """Flow control of received bytes. The connection's window reopens on receipt, a stream's on consumption."""
        self._uncredited += count
        if self._uncredited >= _CONNECTION_CREDIT_BYTES:
            self.outlet.put(window_update(0, self._uncredited))
            self._uncredited = 0
        if call is not None and not call.count(count):
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")

    def on_block(self, block: bytes, flags: int, stream_id: int) -> None:
        if len(block) > self.settings.header_list_bytes_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        # Even the block of a stream that is not wanted is decoded: it may change the table.
        self._on_head(self._heads.read(block), flags, stream_id)

    def _on_head(self, head: Head, flags: int, stream_id: int) -> None:
        if stream_id <= self.last_id:
            self._on_trailers(stream_id, flags)
            return
        if self.draining:
            return
        self.last_id = stream_id
        end = bool(flags & END_STREAM)
        if len(self.calls) >= self.settings.concurrent_streams_max:
            self._resets.take(self.now, "too many calls at once")
            self.outlet.put(rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        if head.malformed:
            self._resets.take(self.now, "too many malformed requests")
            self.outlet.put(rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return
        if head.refusal is not None:
            self.outlet.put(headers_frame(stream_id, head.refusal, end=True))
            if not end:
                self.outlet.put(rst_stream(stream_id, ErrorCode.NO_ERROR))
            return
        if self.server.is_verbose:
            _logger.debug("gRPC request: %s", head.field(":path"), extra=about(told=self))
        call = self._open_call(stream_id, head)
        if head.timeout_s is not None:
            call.deadline = self.now + head.timeout_s
        method = head.method
        if method is not None and method.is_streaming:
            call.ended = end
            call.start()
        elif end:
            call.feed(b"", True)

    def _on_trailers(self, stream_id: int, flags: int) -> None:
        """A second header block of a stream can only end it."""
        call = self.calls.get(stream_id)
        if call is None or call.ended:
            self.idle_frames.take(self.now, "too many frames on closed streams")
        elif not flags & END_STREAM:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS amid a stream")
        else:
            call.feed(b"", True)

    def on_reset(self, length: int, stream_id: int) -> None:
        if length != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of wrong size")
        if stream_id == 0 or (stream_id > self.last_id and not self.draining):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
        call = self.calls.get(stream_id)
        if call is None:
            self.idle_frames.take(self.now, "too many frames on closed streams")
            return
        call.abandon()
        self._resets.take(self.now, "too many calls cancelled")
