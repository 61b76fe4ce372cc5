"""HTTP/2 numbers, frames, and the error that ends a connection."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES: Final = 9
PEER_FRAME_BYTES_MIN: Final = 16_384
WINDOW_MAX: Final = 2**31 - 1
WINDOW_DEFAULT: Final = 65_535

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

SETTING_MAX_CONCURRENT_STREAMS: Final = 3
SETTING_INITIAL_WINDOW_SIZE: Final = 4
SETTING_MAX_FRAME_SIZE: Final = 5
SETTING_MAX_HEADER_LIST_SIZE: Final = 6

JOIN_BYTES_MAX: Final = 16_384
"""Up to here one copy and one `send` cost less than a `sendmsg` of the parts."""

_FRAME_HEAD: Final = struct.Struct(">IBI")
_pack_frame_head: Final = _FRAME_HEAD.pack

PREFIXED_HEAD_BYTES: Final = 14
"""Of DATA that begins with a message: five more say whether it is compressed, and its length."""

WINDOW_UPDATE_BYTES: Final = 13
WINDOW_UPDATE_WORD: Final = 4 << 8 | WINDOW_UPDATE


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
    return _pack_frame_head(len(payload) << 8 | kind, flags, stream_id) + payload


def uint32_at(data: bytes, at: int) -> int:
    """The number in the four bytes from there on, which are there. Of a frame's head: length << 8 | type; from the
    fifth byte on the stream's id with its reserved bit."""
    return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    return _pack_frame_head(length << 8 | kind, flags, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    return _pack_frame_head(4 << 8 | WINDOW_UPDATE, 0, stream_id) + increment.to_bytes(4, "big")


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return _pack_frame_head(4 << 8 | RST_STREAM, 0, stream_id) + code.to_bytes(4, "big")


def headers_frame(stream_id: int, block: bytes, *, end: bool) -> bytes:
    """A header block as one frame. Ours are far below the smallest frame limit, except error texts, which are cut
    before they come here."""
    return frame(HEADERS, END_HEADERS | END_STREAM if end else END_HEADERS, stream_id, block)
