"""Bytes from the socket to frames: cut anywhere, DATA taken piece by piece, header blocks put together.

Knows where frames begin and end, and nothing of streams. Large messages are read from the socket straight into place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ....schema.tensor import size_of
from ..request.incoming import PREFIX_BYTES, WHOLE_BYTES_MAX
from ..wire.constants import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD_BYTES,
    HEADERS,
    PADDED,
    PREFACE,
    PREFIXED_HEAD_BYTES,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    WINDOW_UPDATE_BYTES,
    WINDOW_UPDATE_WORD,
    WITH_PRIORITY,
    ErrorCode,
    Http2Error,
    uint32_at,
)

if TYPE_CHECKING:
    from ..request.call import Call
    from .port import Framed

_READ_BYTES: Final = 65_536 + 8_192
_DIRECT_BYTES_MIN: Final = 32_768
"""From here on, the rest of a frame is read from the socket straight into the message."""
_CARRIED_BYTES_MIN: Final = 262_144
"""From here on, if the message is large, by the carrier."""
_NEXT_BYTES: Final = 4_096
"""Read behind a frame that the carrier has moved: the head of the next, whose bytes are left to it."""
_RESERVED_AND_ODD: Final = 1 << 31 | 1
"""Bits of a stream id: those of clients are odd."""
_PIECES_MAX: Final = 64
"""CONTINUATION frames of one header block."""


class FrameReader:
    """The receiving side of one connection."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_id",
        "_connection",
        "_data_ends",
        "_data_id",
        "_data_left",
        "_has_more",
        "_next_bytes",
        "_pad_left",
        "_plain_word_max",
        "_rest",
        "greeted",
        "part_since",
    )
    __deletable__ = ("_connection",)

    def __init__(self, connection: Framed) -> None:
        self._connection = connection
        settings = connection.settings
        self._plain_word_max = min(settings.header_list_bytes_max, settings.frame_bytes_max) << 8 | 0xFF
        """Of a frame that no limit forbids: its length and kind."""
        self.greeted = False
        """The peer's preface and SETTINGS have come."""
        self.part_since = 0.0
        """When the frame began that is not complete yet; 0 for none."""
        self._rest = b""
        """The start of an incomplete frame."""
        self._data_left = 0
        """Payload bytes still to come of a DATA frame that is taken piece by piece,"""
        self._pad_left = 0
        """padding bytes after them,"""
        self._data_id = 0
        self._data_ends = False
        """its stream, and whether it is that stream's last."""
        self._next_bytes = _READ_BYTES
        """At most, in the next read."""
        self._has_more = False
        """The last read left more behind, as far as one can tell: that is moved when it is the connection's turn."""
        self._block: list[bytes] | None = None
        """A header block that CONTINUATION frames complete, in pieces."""
        self._block_id = 0
        self._block_flags = 0

    def let_go(self) -> None:
        """The connection is closed, and nothing will be read."""
        del self._connection

    @property
    def is_mid_data(self) -> bool:
        """A DATA frame is being taken piece by piece."""
        return bool(self._data_left or self._pad_left)

    def read(self) -> None:
        """Reads once, and on while the rest of a large message seems to be there, and acts on every complete frame.
        Raises BlockingIOError, OSError for a peer that is gone, and Http2Error for one that broke a rule."""
        connection = self._connection
        bulk = connection.bulk
        if self._has_more and not bulk.may_move(connection.fd):
            return
        while self._read_once() and connection.is_open and bulk.left > 0:
            pass

    def _read_once(self) -> bool:
        """True where the rest of a large message is likely to be there."""
        if self._data_left >= _DIRECT_BYTES_MIN:
            call = self._connection.calls.get(self._data_id)
            space = call.free_space if call is not None else None
            if call is not None and space is not None and len(space) >= _DIRECT_BYTES_MIN:
                return self._read_into_place(call, space)
        connection = self._connection
        wanted = self._next_bytes
        self._next_bytes = _READ_BYTES
        data = connection.sock.recv(wanted)
        if not data:
            raise ConnectionResetError
        self._has_more = len(data) == wanted
        if self._has_more:
            connection.bulk.moved(connection.fd, wanted)
        self._take(data)
        return self._has_more and self._data_left >= _DIRECT_BYTES_MIN

    def _read_into_place(self, call: Call, space: memoryview) -> bool:
        """Reads from the socket straight into the message of a DATA frame. True as above."""
        connection = self._connection
        bulk = connection.bulk
        if self._data_left >= _CARRIED_BYTES_MIN and call.is_large and connection.tls is None:
            connection.carry(space[: self._data_left])
            return False
        wanted = min(self._data_left, max(bulk.left, _DIRECT_BYTES_MIN))
        count = connection.sock.recv_into(space[:wanted])
        if not count:
            raise ConnectionResetError
        bulk.moved(connection.fd, count)
        self._on_placed(call, count)
        if connection.tls is not None and (data := connection.tls.surplus()):
            self._take(data)
        self._has_more = self._data_left > 0 or call.is_mid_message
        return self._has_more and count == wanted

    def on_carried(self, count: int, problem: Exception | None) -> None:
        """So much of a DATA frame is where it was to be received. Raises the problem, and as `read`."""
        if problem is not None:
            raise problem
        if not count:
            raise ConnectionResetError
        call = self._connection.calls.get(self._data_id)
        self._on_placed(call, count)
        self._has_more = self._data_left > 0 or (call is not None and call.is_mid_message)
        if self._has_more and not self.is_mid_data:
            self._next_bytes = _NEXT_BYTES

    def _on_placed(self, call: Call | None, count: int) -> None:
        """Bytes of a DATA frame are in the message; that may have been given up meanwhile."""
        self._connection.count_data(count, call)
        self._data_left -= count
        if call is not None and not call.done:
            self._note_end(call)
            call.advance(count)
        if not self.is_mid_data:
            self.part_since = 0.0
            self._end_data(call)

    def _take(self, data: bytes) -> None:
        """Acts on every frame that is complete now."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        self._parse(data)
        if not (self._rest or self._data_left or self._pad_left):
            self.part_since = 0.0
        elif not self.part_since:
            self.part_since = self._connection.now

    def _parse(self, data: bytes) -> None:
        connection = self._connection
        at, size = 0, len(data)
        if not self.greeted:
            at = self._greet(data)
            if not at:
                return
        if self._data_left or self._pad_left:
            at = self._continue_data(data, at)
        while size - at >= FRAME_HEAD_BYTES:
            word, flags, stream_id = uint32_at(data, at), data[at + 4], uint32_at(data, at + 5)
            if (
                flags == END_HEADERS
                and word & 0xFF == HEADERS
                and word <= self._plain_word_max
                and stream_id & _RESERVED_AND_ODD == 1
                and self._block is None
                and (stop := at + FRAME_HEAD_BYTES + (word >> 8)) <= size
            ):
                at = self._on_plain_headers(data, at + FRAME_HEAD_BYTES, stop, stream_id)
                if not connection.is_open:
                    return
                continue
            kind = word & 0xFF
            length = word >> 8
            stream_id &= 0x7FFFFFFF
            if length > connection.settings.frame_bytes_max:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "frame larger than announced")
            if self._block is not None and (kind != CONTINUATION or stream_id != self._block_id):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "expected CONTINUATION")
            payload = at + FRAME_HEAD_BYTES
            stop = payload + length
            if stop > size:
                if kind == DATA and self._begin_data(data, payload, length, flags, stream_id):
                    return
                if kind != DATA and length > connection.settings.header_list_bytes_max + 256:
                    raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "frame too large for its kind")
                break
            if kind == DATA:
                self._on_data(data, payload, stop, flags, stream_id)
            elif kind == HEADERS:
                self._on_headers(data, payload, stop, flags, stream_id)
            elif kind == CONTINUATION:
                self._on_continuation(data[payload:stop], flags)
            elif kind == RST_STREAM:
                connection.on_reset(length, stream_id)
            else:
                if connection.control.receive(kind, flags, stream_id, data[payload:stop]):
                    connection.idle_frames.take(connection.now, "too many frames that carry nothing")
            at = stop
            if not connection.is_open:
                return
        if at < size:
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
        call = self._connection.call_for_data(stream_id)
        end = bool(flags & END_STREAM)
        self._connection.count_data(stop - at, call)
        if flags & PADDED:
            if at == stop or data[at] > stop - at - 1:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
            stop -= data[at]
            at += 1
        if at == stop and not end:
            self._connection.idle_frames.take(self._connection.now, "too many empty DATA frames")
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
        call = self._connection.call_for_data(stream_id)
        self._connection.count_data(int(bool(flags & PADDED)), call)
        self._data_left = length - padding
        self._pad_left = padding
        self._data_id = stream_id
        self._data_ends = bool(flags & END_STREAM)
        self._continue_data(data, at)
        return True

    def _continue_data(self, data: bytes, at: int) -> int:
        """Goes on with a DATA frame that is taken piece by piece; the index behind what was taken."""
        call = self._connection.calls.get(self._data_id)
        count = min(self._data_left, len(data) - at)
        if count:
            self._data_left -= count
            self._connection.count_data(count, call)
            if call is not None and not call.done:
                self._note_end(call)
                call.feed(memoryview(data)[at : at + count], False)
            at += count
        if not self._data_left:
            padding = min(self._pad_left, len(data) - at)
            self._pad_left -= padding
            self._connection.count_data(padding, call)
            at += padding
            if not self._pad_left:
                self._end_data(self._connection.calls.get(self._data_id))
        return at

    def _note_end(self, call: Call) -> None:
        """Before the last bytes are handed on: whoever answers them at once must know that no more will come."""
        if self._data_ends and not self._data_left:
            call.ended = True

    def _end_data(self, call: Call | None) -> None:
        if self._data_ends and call is not None:
            call.feed(b"", True)

    # HEADERS.

    def _on_plain_headers(self, data: bytes, at: int, stop: int, stream_id: int) -> int:
        """A whole header block; the call's one message is taken with it if it is behind it in one frame, plain and the
        last, as those of small calls mostly are. gRPC's own clients put a WINDOW_UPDATE of the stream between the two,
        and one of the connection behind them. The index behind what was taken."""
        connection = self._connection
        block = data[at:stop]
        head, grown = stop, 0
        message = head + PREFIXED_HEAD_BYTES
        there = len(data)
        if message + WINDOW_UPDATE_BYTES <= there and data[stop + 3] == WINDOW_UPDATE:
            grown = uint32_at(data, stop + 9)
            if (
                uint32_at(data, stop) == WINDOW_UPDATE_WORD
                and uint32_at(data, stop + 5) == stream_id
                and 0 < grown <= WINDOW_MAX - connection.outlet.peer_window_bytes
            ):
                head += WINDOW_UPDATE_BYTES
                message += WINDOW_UPDATE_BYTES
        if message <= there:
            size = uint32_at(data, head + 10)
            end = message + size
            if (
                uint32_at(data, head) == size + PREFIX_BYTES << 8  # DATA is 0
                and data[head + 4] == END_STREAM
                and uint32_at(data, head + 5) == stream_id
                and not data[head + 9]  # compressed
                and end <= there
                and size < WHOLE_BYTES_MAX
            ):
                is_only = at == FRAME_HEAD_BYTES and (
                    end == there or (end + WINDOW_UPDATE_BYTES == there and data[end + 3] == WINDOW_UPDATE)
                )
                taken = connection.take_call(block, stream_id, data[message:end], grown, is_only)
                return end if taken else stop
        connection.on_block(block, END_HEADERS, stream_id)
        return stop

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
            self._connection.on_block(block, flags, stream_id)
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
        if len(block) > _PIECES_MAX or size_of(block) > self._connection.settings.header_list_bytes_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block = None
            self._connection.on_block(b"".join(block), self._block_flags, self._block_id)
