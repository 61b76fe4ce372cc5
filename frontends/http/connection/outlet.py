"""How bytes leave a connection: at once where the kernel takes them, else from a queue when it has room."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

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

    __slots__ = ("_sock", "pending", "progressed")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.pending: deque[Buffer] = deque()
        """Not yet taken by the kernel."""
        self.progressed = False
        """Whether the last `flush` sent anything."""

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Sends, or queues what the kernel does not take now."""
        if self.pending:
            self.pending.extend(buffers)
            return
        if len(buffers) > 1:
            if sum(map(len, buffers)) > JOIN_BYTES_MAX:
                self.pending.extend(buffers)
                self.flush()
                return
            self.send_whole(b"".join(buffers))
        else:
            self.send_whole(buffers[0])

    def send_whole(self, whole: Buffer) -> None:
        """The same for one buffer, while nothing is pending."""
        try:
            sent = self._sock.send(whole)
        except BlockingIOError:
            sent = 0
        if sent < len(whole):
            self.pending.append(memoryview(whole)[sent:])

    def flush(self) -> None:
        """Sends of the queue what the kernel takes now."""
        pending = self.pending
        self.progressed = False
        while pending:
            parts = [pending[index] for index in range(min(len(pending), _PARTS_MAX))]
            try:
                sent = self._sock.sendmsg(parts)
            except BlockingIOError:
                return
            self.progressed = True
            offered = sum(map(len, parts))
            whole_sent = sent == offered
            while pending and sent >= len(pending[0]):
                sent -= len(pending.popleft())
            if sent:
                pending[0] = memoryview(pending[0])[sent:]
            if not whole_sent:
                return

    def drop(self) -> None:
        """Forgets the queue, and with it the views of tensors that it held."""
        self.pending.clear()
