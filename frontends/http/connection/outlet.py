"""How bytes leave a connection: at once where the kernel takes them, else from a queue when it has room."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from ....schema.tensor import size_of
from ...carrier import CARRIED_FROM, MOVE_BYTES
from ...parts import forget

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ..request.request import Buffer

JOIN_BYTES_MAX: Final = 16 * 1024
"""Up to here one copy and one `send` cost less than a `sendmsg` of the parts."""

_PARTS_MAX: Final = 64
"""Buffers given to one `sendmsg`; the kernel takes 1024."""


class Outlet:
    """The sending side of one non-blocking socket. Raises OSError when the peer is gone; never blocks, never copies
    what exceeds JOIN_BYTES_MAX. What waits is one reply, or parts of one."""

    __slots__ = ("_is_carried", "_sock", "pending")

    def __init__(self, sock: socket.socket, *, is_carried: bool = False) -> None:
        """With `is_carried` what is large goes by the door's carrier, which can use the socket."""
        self._sock = sock
        self._is_carried = is_carried
        self.pending: deque[Buffer] = deque()
        """Not yet taken by the kernel."""

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Sends, or queues what the kernel does not take now."""
        if self.pending:
            self.pending.extend(buffers)
            return
        size = size_of(buffers)
        if size > JOIN_BYTES_MAX and len(buffers) > 1:
            self._send_parts(buffers, size)
            return
        whole = b"".join(buffers)
        try:
            sent = self._sock.send(whole)
        except BlockingIOError:
            sent = 0
        if sent < size:
            self.pending.append(memoryview(whole)[sent:])

    def _send_parts(self, buffers: Sequence[Buffer], size: int) -> None:
        if self._is_carried and size >= CARRIED_FROM:
            self.pending.extend(buffers)
            return
        if len(buffers) > _PARTS_MAX:
            self.pending.extend(buffers)
            self.flush()
            return
        try:
            sent = self._sock.sendmsg(buffers)
        except BlockingIOError:
            sent = 0
        if sent < size:
            self.pending.extend(buffers)
            self.forget(sent)

    def forget(self, sent: int) -> None:
        """So many bytes of the queue are with the kernel."""
        forget(self.pending, sent)

    def for_carrier(self) -> list[Buffer]:
        """What of the queue the carrier is to send next; nothing, if that is little."""
        parts: list[Buffer] = []
        left = MOVE_BYTES
        if self._is_carried:
            for part in islice(self.pending, _PARTS_MAX):
                parts.append(memoryview(part)[:left])
                left -= len(parts[-1])
                if not left:
                    break
        return parts if MOVE_BYTES - left >= CARRIED_FROM else []

    def flush(self) -> int:
        """Sends of the queue what the kernel takes now; how many bytes that were."""
        pending = self.pending
        total = 0
        while pending:
            parts = [pending[index] for index in range(min(len(pending), _PARTS_MAX))]
            try:
                sent = self._sock.sendmsg(parts)
            except BlockingIOError:
                break
            total += sent
            self.forget(sent)
            if sent < size_of(parts):
                break
        return total

    def drop(self) -> None:
        """Forgets the queue, and with it the views of tensors that it held."""
        self.pending.clear()
