"""How many HTTP/2 frames that carry nothing a client may send: the library that reads them has no limit of its own.

No sockets and no HTTP/2 beyond the frames' heads: lengths, kinds and flags, in whatever pieces the bytes arrive.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BURST: Final = 2000
PER_S: Final = 500.0
"""The gRPC door's figures."""

_DATA, _PRIORITY, _SETTINGS, _PING, _LAST_KNOWN = 0, 2, 4, 6, 9
_HEAD_BYTES: Final = 9
_END_STREAM: Final = 1


class FrameBudget:
    """`BURST` such frames at first, `PER_S` more each second up to `BURST`. Times are seconds on one clock.

    Counted are empty DATA frames that end nothing, PRIORITY, SETTINGS, PING and unknown kinds. Streams that begin and
    are reset have their limit in the library. What does not open with the preface is not counted.
    """

    def __init__(self, now: float) -> None:
        self._tokens = float(BURST)
        self._updated = now
        self._begin = b""
        """Of the preface or of a frame's head: what has come."""
        self._skip = 0
        """Bytes of the frame's content that are yet to come."""
        self._is_open = False
        self._is_foreign = False

    def allows(self, data: bytes, now: float) -> bool:
        """Takes what has arrived. False once the client has sent too many."""
        if self._is_foreign:
            return True
        if not self._is_open:
            self._begin += data
            if len(self._begin) < len(PREFACE):
                return True
            self._is_foreign = not self._begin.startswith(PREFACE)
            if self._is_foreign:
                return True
            self._is_open = True
            data, self._begin = self._begin[len(PREFACE) :], b""
        count = self._count(data)
        self._tokens = min(float(BURST), self._tokens + (now - self._updated) * PER_S) - count
        self._updated = now
        return self._tokens >= 0

    def _count(self, data: bytes) -> int:
        """The frames that carry nothing whose heads end in `data`."""
        at, count = self._skip, 0
        if self._begin:
            missing = _HEAD_BYTES - len(self._begin)
            head = self._begin + data[:missing]
            if len(head) < _HEAD_BYTES:
                self._begin = head
                return 0
            count += _is_idle(head, 0)
            self._begin = b""
            at = missing + int.from_bytes(head[:3], "big")
        end = len(data)
        while at + _HEAD_BYTES <= end:
            count += _is_idle(data, at)
            at += _HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
        if at < end:
            self._begin = data[at:]
            at = end
        self._skip = at - end
        return count


def _is_idle(data: bytes, at: int) -> bool:
    kind = data[at + 3]
    if kind == _DATA:
        return not data[at + 4] & _END_STREAM and data[at : at + 3] == b"\0\0\0"
    return kind in (_PRIORITY, _SETTINGS, _PING) or kind > _LAST_KNOWN
