"""One HTTP/2 connection of the gRPC door, as a state machine over a non-blocking socket.

Rules: only this module knows frames that arrive; only outlet.py sends. Every violation of the protocol or of a limit
raises Http2Error, and only `on_readable` catches it: the connection says GOAWAY, and no other connection notices.
A broken call is the call's affair (call.py) and ends with a status.

    OPEN ──GOAWAY sent, no calls left, or Http2Error──▶ LINGERING ──peer closes or time is up──▶ CLOSED
      └──peer closes, socket error, stall──▶ CLOSED         every call still there is abandoned
"""

from __future__ import annotations

import logging
import socket
from enum import Enum
from typing import TYPE_CHECKING, Any

from .call import Call
from .constants import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD_BYTES,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    RST_STREAM,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_CONCURRENT_STREAMS,
    SETTING_MAX_FRAME_SIZE,
    SETTING_MAX_HEADER_LIST_SIZE,
    SETTINGS,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    WITH_PRIORITY,
    ErrorCode,
    Http2Error,
    frame,
    rst_stream,
    unpack_frame_head,
    window_update,
)
from .control import Control
from .head import HeadReader
from .limits import TokenBucket
from .outlet import Outlet, headers_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .server import GrpcServer

_logger = logging.getLogger("despina.grpc")

_READ_BYTES = 65_536
_DIRECT_BYTES_MIN = 32_768
"""From here on, the rest of a frame is read from the socket straight into the message."""
_CONNECTION_CREDIT_BYTES = 4_194_304
_DISCARD_BYTES_MAX = 1_048_576
"""What a lingering connection may still send."""

State = Enum("State", "OPEN LINGERING CLOSED")


class Connection:
    def __init__(self, server: GrpcServer, sock: socket.socket) -> None:
        self.server = server
        self.settings = settings = server.settings
        self.sock = sock
        self.fd = sock.fileno()
        self.state = State.OPEN
        self.outlet = Outlet(sock)
        self.calls: dict[int, Call] = {}
        self.now = now = server.now
        """Seconds on trio's clock, as of this pass of the listener."""
        self.opened_at = now
        self.received_at = now
        self.draining = False
        """GOAWAY is sent: no new calls, and the connection ends with its last one."""
        self.last_id = 0
        """The highest stream id the peer has used."""
        self.greeted = False
        """The peer's preface and SETTINGS have come."""
        self.part_since = 0.0
        """When the frame began that is not complete yet; 0 for none."""
        self.corked = True
        """Flushing waits for the end of the current pass."""
        self.dirty = False
        self.linger_until = 0.0
        self.stall_since = 0.0
        """Since when something waits for the peer without a pause; 0 for not,"""
        self.stall_sent_bytes = 0
        """and what had been sent by then."""
        self.control = Control(self)
        self._heads = HeadReader(server.methods, settings.header_list_bytes_max)
        self._resets = TokenBucket(settings.resets_burst, settings.resets_per_s, now)
        self._idle_frames = TokenBucket(settings.idle_frames_burst, settings.idle_frames_per_s, now)
        self._rest = b""
        """The start of an incomplete frame."""
        self._data_left = 0
        """Payload bytes still to come of a DATA frame that is taken piece by piece,"""
        self._pad_left = 0
        """padding bytes after them,"""
        self._data_id = 0
        self._data_ends = False
        """its stream, and whether it is that stream's last."""
        self._block: list[bytes] | None = None
        """A header block that CONTINUATION frames complete, in pieces."""
        self._block_id = 0
        self._block_flags = 0
        self._uncredited = 0
        self._discarded = 0
        greeting = {
            SETTING_MAX_CONCURRENT_STREAMS: settings.concurrent_streams_max,
            SETTING_INITIAL_WINDOW_SIZE: settings.stream_window_bytes,
            SETTING_MAX_FRAME_SIZE: settings.frame_bytes_max,
            SETTING_MAX_HEADER_LIST_SIZE: settings.header_list_bytes_max,
        }
        payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in greeting.items())
        self.outlet.put(frame(SETTINGS, 0, 0, payload) + window_update(0, WINDOW_MAX - WINDOW_DEFAULT))

    # Called by the listener.

    def on_readable(self) -> None:
        """Reads once, acts on every complete frame, and sends what that made. Never raises."""
        self.now = self.received_at = self.server.now
        self.corked = True
        try:
            if self.state is State.LINGERING:
                self._discard()
            else:
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        except Http2Error as error:
            self.fail(error)
        except Exception:
            _logger.exception("a connection is given up")
            self.close()
        self.corked = False
        self.flush()

    def flush(self) -> None:
        """Sends what the kernel takes; asks the listener to call again when it takes more. Never raises."""
        self.dirty = False
        if self.state is not State.OPEN:
            return
        try:
            flushed = self.outlet.flush()
        except OSError:
            self.close()
            return
        if flushed and self.draining and not self.calls:
            self._linger()
            return
        backlog = self.outlet.queued_bytes > self.settings.backlog_bytes_max
        self.server.watch(self, readable=not backlog, writable=not flushed)

    def flush_soon(self) -> None:
        """Something was queued. Replies made together by one batch leave together."""
        if self.corked or self.dirty:
            return
        if self.calls:
            self.dirty = True
            self.server.flush_later(self)
        else:
            self.flush()

    def close(self) -> None:
        """Ends the connection at once and abandons its calls. Idempotent."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.server.remove(self)
        self.sock.close()
        for call in list(self.calls.values()):
            call.abandon()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Asks the peer to open no more calls here; the connection ends with its last call."""
        if self.draining or self.state is not State.OPEN:
            return
        self.draining = True
        self.outlet.put(frame(GOAWAY, 0, 0, self.last_id.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()))
        if not self.corked:
            self.flush()

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
        self.linger_until = self.server.now + self.settings.linger_s
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
    def is_mid_data(self) -> bool:
        return bool(self._data_left or self._pad_left)

    # For calls.

    def forget(self, call: Call) -> None:
        self.calls.pop(call.id, None)

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs an async function under the server's nursery."""
        self.server.start_task(function, *arguments)

    async def in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self.server.in_worker(function, *arguments)

    # Frames.

    def _read(self) -> None:
        if self._data_left >= _DIRECT_BYTES_MIN:
            call = self.calls.get(self._data_id)
            space = call.free_space if call is not None else None
            if call is not None and space is not None and len(space) >= _DIRECT_BYTES_MIN:
                count = self.sock.recv_into(space[: self._data_left])
                if not count:
                    raise ConnectionResetError
                self._count_data(count, call)
                self._data_left -= count
                call.advance(count)
                if not self._data_left and not self._pad_left:
                    self._end_data(call)
                return
        data = self.sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError
        if self._rest:
            data = self._rest + data
            self._rest = b""
        self._parse(data)
        if not self._rest and not self.is_mid_data:
            self.part_since = 0.0
        elif not self.part_since:
            self.part_since = self.now

    def _parse(self, data: bytes) -> None:
        at, size = 0, len(data)
        if not self.greeted:
            at = self._greet(data)
            if not at:
                return
        if self._data_left or self._pad_left:
            at = self._continue_data(data, at)
        while size - at >= FRAME_HEAD_BYTES:
            word, flags, stream_id = unpack_frame_head(data, at)
            kind = word & 0xFF
            length = word >> 8
            stream_id &= 0x7FFFFFFF
            if length > self.settings.frame_bytes_max:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "frame larger than announced")
            if self._block is not None and (kind != CONTINUATION or stream_id != self._block_id):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "expected CONTINUATION")
            payload = at + FRAME_HEAD_BYTES
            stop = payload + length
            if stop > size:
                if kind == DATA and self._begin_data(data, payload, length, flags, stream_id):
                    return
                if kind != DATA and length > self.settings.header_list_bytes_max + 256:
                    raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "frame too large for its kind")
                break
            if kind == DATA:
                self._on_data(data, payload, stop, flags, stream_id)
            elif kind == HEADERS:
                self._on_headers(data, payload, stop, flags, stream_id)
            elif kind == CONTINUATION:
                self._on_continuation(data[payload:stop], flags)
            elif kind == RST_STREAM:
                self._on_reset(length, stream_id)
            else:
                if self.control.receive(kind, flags, stream_id, data[payload:stop]):
                    self._idle_frames.take(self.now, "too many frames that carry nothing")
            at = stop
            if self.state is not State.OPEN:
                return
        self._rest = data[at:]

    def _greet(self, data: bytes) -> int:
        """The index behind the preface, or 0 when it is not complete."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 preface")
        if len(data) < len(PREFACE) + FRAME_HEAD_BYTES:
            self._rest = data
            return 0
        if data[len(PREFACE) + 3] != SETTINGS or data[len(PREFACE) + 4] & ACK:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        self.greeted = True
        return len(PREFACE)

    # DATA.

    def _on_data(self, data: bytes, at: int, stop: int, flags: int, stream_id: int) -> None:
        call = self._call_for_data(stream_id)
        end = bool(flags & END_STREAM)
        self._count_data(stop - at, call)
        if flags & PADDED:
            if at == stop or data[at] > stop - at - 1:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
            stop -= data[at]
            at += 1
        if at == stop and not end:
            self._idle_frames.take(self.now, "too many empty DATA frames")
        if call is not None:
            call.feed_frame(data, at, stop, end)

    def _begin_data(self, data: bytes, at: int, length: int, flags: int, stream_id: int) -> bool:
        """Takes what is there of an incomplete DATA frame. False when even its padding's length is not there."""
        padding = 0
        if flags & PADDED:
            if at >= len(data):
                return False
            padding = data[at]
            if padding > length - 1:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
            at += 1
            length -= 1
        call = self._call_for_data(stream_id)
        self._count_data(int(bool(flags & PADDED)), call)
        self._data_left = length - padding
        self._pad_left = padding
        self._data_id = stream_id
        self._data_ends = bool(flags & END_STREAM)
        self._continue_data(data, at)
        return True

    def _continue_data(self, data: bytes, at: int) -> int:
        """Goes on with a DATA frame that is taken piece by piece; the index behind what was taken."""
        call = self.calls.get(self._data_id)
        count = min(self._data_left, len(data) - at)
        if count:
            self._data_left -= count
            self._count_data(count, call)
            if call is not None and not call.done:
                call.feed(memoryview(data)[at : at + count], False)
            at += count
        if not self._data_left:
            padding = min(self._pad_left, len(data) - at)
            self._pad_left -= padding
            self._count_data(padding, call)
            at += padding
            if not self._pad_left:
                self._end_data(self.calls.get(self._data_id))
        return at

    def _end_data(self, call: Call | None) -> None:
        if self._data_ends and call is not None:
            call.feed(b"", True)

    def _call_for_data(self, stream_id: int) -> Call | None:
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

    def _count_data(self, count: int, call: Call | None) -> None:
        """Flow control of received bytes. The connection's window reopens on receipt, a stream's on consumption."""
        self._uncredited += count
        if self._uncredited >= _CONNECTION_CREDIT_BYTES:
            self.outlet.put(window_update(0, self._uncredited))
            self._uncredited = 0
        if call is not None and not call.count(count):
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")

    # HEADERS.

    def _on_headers(self, data: bytes, at: int, stop: int, flags: int, stream_id: int) -> None:
        if flags & (PADDED | WITH_PRIORITY):
            padding = 0
            if flags & PADDED:
                padding = data[at] if at < stop else 0
                at += 1
            if flags & WITH_PRIORITY:
                at += 5
            stop -= padding
            if at > stop:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        if not stream_id & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        block = data[at:stop]
        if flags & END_HEADERS:
            self._on_block(block, flags, stream_id)
        else:
            self._block = [block]
            self._block_id = stream_id
            self._block_flags = flags

    def _on_continuation(self, piece: bytes, flags: int) -> None:
        block = self._block
        if block is None:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        if not piece and not flags & END_HEADERS:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "empty CONTINUATION")
        block.append(piece)
        if len(block) > 64 or sum(map(len, block)) > self.settings.header_list_bytes_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(b"".join(block), self._block_flags, self._block_id)

    def _on_block(self, block: bytes, flags: int, stream_id: int) -> None:
        if len(block) > self.settings.header_list_bytes_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        # Even the block of a stream that is not wanted is decoded: it may change the table.
        head = self._heads.read(block)
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
        call = self.calls[stream_id] = Call(self, stream_id, head)
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
            self._idle_frames.take(self.now, "too many frames on closed streams")
        elif not flags & END_STREAM:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS amid a stream")
        else:
            call.feed(b"", True)

    def _on_reset(self, length: int, stream_id: int) -> None:
        if length != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of wrong size")
        if stream_id == 0 or (stream_id > self.last_id and not self.draining):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
        call = self.calls.get(stream_id)
        if call is None:
            self._idle_frames.take(self.now, "too many frames on closed streams")
            return
        call.abandon()
        self._resets.take(self.now, "too many calls cancelled")
