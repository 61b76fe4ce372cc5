"""Header blocks of replies. They use no dynamic table, so each is a constant or a function of its text alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from grpclib.metadata import encode_grpc_message

from ....schema.text import encodable

OK: Final = 0

_TEXT_MAX: Final = 7_000
"""Clients take 8 KiB of metadata."""
_REMEMBERED_TEXT_MAX: Final = 256
"""Characters of a text that is remembered. Some name what the client has sent."""


def _integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """HPACK's integer with a prefix of `prefix_bits` under `pattern`."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((pattern | value,))
    out = bytearray((pattern | limit,))
    value -= limit
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: str, value: str) -> bytes:
    """A header field that never enters the peer's table."""
    if name == ":status":
        return b"\x88" if value == "200" else b"\x08\x03" + value.encode()
    key, text = name.encode(), value.encode()
    return b"\x00" + _integer(len(key), 7, 0) + key + _integer(len(text), 7, 0) + text


INITIAL: Final = literal(":status", "200") + literal("content-type", "application/grpc")
INITIAL_ENCODED: Final = {encoding: INITIAL + literal("grpc-encoding", encoding) for encoding in ("gzip", "deflate")}
TRAILERS_OK: Final = literal("grpc-status", "0")


def trailers(status: int, message: str) -> bytes:
    """The end of a call. The text is cut to what clients take and what fits into the smallest frame."""
    if len(message) > _REMEMBERED_TEXT_MAX:
        return _write_trailers(status, message)
    return _remembered_trailers(status, message)


def _write_trailers(status: int, message: str) -> bytes:
    block = literal("grpc-status", str(status))
    if not message:
        return block
    text = encode_grpc_message(encodable(message[:_TEXT_MAX]))
    if len(text) > _TEXT_MAX:
        text = text[:_TEXT_MAX]
        escape = text.rfind("%", _TEXT_MAX - 2)
        text = text if escape < 0 else text[:escape]
    return block + literal("grpc-message", text)


_remembered_trailers: Final = lru_cache(maxsize=256)(_write_trailers)


def refusal(status: int, message: str = "", *, http_status: int = 200, accept_encoding: bool = False) -> bytes:
    """A whole reply without a message."""
    block = literal(":status", str(http_status)) + literal("content-type", "application/grpc")
    if accept_encoding:
        block += literal("grpc-accept-encoding", "identity,deflate,gzip")
    return block + trailers(status, message)
