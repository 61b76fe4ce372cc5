"""Compressed replies: what a client accepts, and the body in that form. Request bodies are inflate.py's business."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..request.request import Buffer

INLINE_BYTES_MAX: Final = 16 * 1024
"""Compressed at once, in half a millisecond; what is larger is compressed in a thread."""

_REMEMBERED_BYTES_MAX: Final = 128
"""Of a header that is remembered. Clients choose it, and ordinary ones are shorter."""
_LEVEL: Final = 6
_WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""`deflate` is HTTP's: with zlib's header."""


def coding_for(accept_encoding: bytes) -> bytes | None:
    """The coding, `gzip` or `deflate`, for a client that sent this `Accept-Encoding`; None for the plain body.

    The highest weight wins, of equal ones the first; a weight of 0 never does. Names count as they are written, `*` is
    not understood, and an entry whose weight is no number is left out.
    """
    if len(accept_encoding) > _REMEMBERED_BYTES_MAX:
        return _read_coding(accept_encoding)
    return _remembered_coding(accept_encoding)


def _read_coding(accept_encoding: bytes) -> bytes | None:
    best: bytes | None = None
    best_weight = 0.0
    for entry in accept_encoding.split(b","):
        name, _, parameter = entry.partition(b";")
        name = name.strip()
        weight = 1.0
        if parameter:
            key, _, text = parameter.partition(b"=")
            try:
                weight = float(text) if key.strip() == b"q" else 1.0
            except ValueError:
                continue
        if (name in _WINDOW_BITS or name == b"identity") and weight > best_weight:
            best, best_weight = name, weight
    return None if best == b"identity" else best


_remembered_coding = lru_cache(maxsize=256)(_read_coding)


def compress(buffers: Sequence[Buffer], coding: bytes) -> list[Buffer]:
    """The whole body in `coding`. May be called from any thread."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    return [b"".join([*(stream.compress(buffer) for buffer in buffers), stream.flush()])]
