"""Compressed replies of one inference call: in the order in which they were made, large ones in a worker thread.

Call.send / reply ──▶ Deflater.put ──small, nothing ahead──▶ Call, compressed
                            └─large, or behind one─▶ queue ──one task──▶ Call, compressed, in order
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.tensor import Buffer
    from .call import Call

_INLINE_BYTES_MAX: Final = 16_384
"""Compressed on the trio thread, in half a millisecond."""
_STEP_BYTES: Final = 1_048_576
"""Compressed at one time, so that no thread holds the interpreter while it moves a large message."""
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_EFFORTS: Final = {"low": 1, "medium": 6, "high": 9}


def encoding_for(level: str, accept_encoding: str) -> str:
    """The encoding for a client that sent this `grpc-accept-encoding`, or "" for none.

    `gzip` at the lowest level and `deflate` above it, as gRPC's C core ranks them, or the other one if only that is
    accepted.
    """
    if level not in _EFFORTS:
        return ""
    accepted = {name.strip() for name in accept_encoding.split(",")}
    ranked = ("gzip", "deflate") if level == "low" else ("deflate", "gzip")
    return next((name for name in ranked if name in accepted), "")


def deflate(buffers: Sequence[Buffer], encoding: str, level: str) -> list[bytes]:
    """One message in `encoding`, in pieces that are quickly made. May be called from any thread."""
    stream = zlib.compressobj(_EFFORTS[level], zlib.DEFLATED, _WINDOW_BITS[encoding])
    pieces: list[bytes] = []
    for buffer in buffers:
        view = memoryview(buffer)
        pieces.extend(stream.compress(view[at : at + _STEP_BYTES]) for at in range(0, len(view), _STEP_BYTES))
    pieces.append(stream.flush())
    return pieces


class Deflater:
    """Between the answers of one call and its connection. `encoding` is not empty."""

    def __init__(self, call: Call, encoding: str, level: str) -> None:
        self._call = call
        self.encoding = encoding
        self._level = level
        self._queue: deque[tuple[Sequence[Buffer], bool] | None] = deque()
        """Messages, each with whether it is the only one; None for the call's good end."""
        self.queued_bytes = 0
        """Of messages that wait to be compressed."""
        self.is_busy = False

    def put(self, buffers: Sequence[Buffer], size: int, *, is_only: bool) -> None:
        """Sends one message when those before it have been sent. Never blocks."""
        if not self.is_busy and size <= _INLINE_BYTES_MAX:
            self._pass_on(deflate(buffers, self.encoding, self._level), is_only)
            return
        self._queue.append((buffers, is_only))
        self.queued_bytes += size
        if not self.is_busy:
            self.is_busy = True
            self._call.start_task(self._compress_all)

    def end(self) -> None:
        """Ends the call well behind its last message."""
        self._queue.append(None)

    def drop(self) -> None:
        """The call is over; nothing more is sent."""
        self._queue.clear()
        self.queued_bytes = 0

    def _pass_on(self, message: list[bytes], is_only: bool) -> None:
        size = sum(map(len, message))
        if is_only:
            self._call.reply_encoded(message, size, compressed=True)
        else:
            self._call.send_encoded(message, size, compressed=True)

    async def _compress_all(self) -> None:
        call = self._call
        while self._queue and not call.done:
            item = self._queue.popleft()
            if item is None:
                self.is_busy = False
                call.finish()
                return
            buffers, is_only = item
            message = await call.connection.in_worker(deflate, buffers, self.encoding, self._level)
            if not call.done:
                self.queued_bytes -= sum(map(len, buffers))
                self._pass_on(message, is_only)
        self.is_busy = False
        if call.on_output is not None and not call.done:
            call.on_output()


def compress_replies(call: Call) -> None:
    """From here on the call's replies are compressed, if the settings and its client want that."""
    level = call.connection.settings.response_compression_level
    if level != "none":
        encoding = encoding_for(level, call.head.field("grpc-accept-encoding"))
        if encoding:
            call.deflater = Deflater(call, encoding, level)
