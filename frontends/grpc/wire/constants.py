"""HTTP/2 numbers, frames, and the error that ends a connection."""

from __future__ import annotations

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES = 9
PEER_FRAME_BYTES_MIN = 16_384
WINDOW_MAX = 2**31 - 1
WINDOW_DEFAULT = 65_535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

SETTING_MAX_CONCURRENT_STREAMS = 3
SETTING_INITIAL_WINDOW_SIZE = 4
SETTING_MAX_FRAME_SIZE = 5
SETTING_MAX_HEADER_LIST_SIZE = 6

JOIN_BYTES_MAX = 16_384
"""Up to here one copy and one `send` cost less than a `sendmsg` of the parts."""

_FRAME_HEAD = struct.Struct(">IBI")
unpack_frame_head = _FRAME_HEAD.unpack_from
"""(length << 8 | type, flags, stream id with its reserved bit)."""

PREFIXED_HEAD_BYTES = 14
unpack_prefixed_head = struct.Struct(">IBIBI").unpack_from
"""The same of DATA that begins with a message, and that one's prefix: whether it is compressed, and its length."""

WINDOW_UPDATE_BYTES = 13
WINDOW_UPDATE_WORD = 4 << 8 | WINDOW_UPDATE
unpack_window_update = struct.Struct(">IBII").unpack_from
"""The same of a WINDOW_UPDATE, and its increment."""


class ErrorCode(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """The peer broke a rule or a limit; its connection ends with GOAWAY, no other is touched."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return _FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    return _FRAME_HEAD.pack(length << 8 | kind, flags, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    return _FRAME_HEAD.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id) + increment.to_bytes(4, "big")


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return _FRAME_HEAD.pack(4 << 8 | RST_STREAM, 0, stream_id) + code.to_bytes(4, "big")


def headers_frame(stream_id: int, block: bytes, *, end: bool) -> bytes:
    """A header block as one frame. Ours are far below the smallest frame limit, except error texts, which are cut
    before they come here."""
    return frame(HEADERS, END_HEADERS | END_STREAM if end else END_HEADERS, stream_id, block)
