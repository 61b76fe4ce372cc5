"""How bytes leave a connection: framing of messages, flow control, fairness between streams, and the socket.

    Call.reply ──small, windows open──▶ queue ──flush──▶ socket
        └──large, or windows shut──▶ the call's own `unsent` ──one DATA frame a turn, round robin──▶ queue

Nothing here blocks. What the kernel does not take waits in the queue for the listener's `on_writable`; what the windows
do not allow waits with its call. Messages are not copied, except small ones into one buffer with their frames.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from ...carrier import CARRIED_FROM
from ...parts import forget
from ..wire.constants import (
    DATA,
    JOIN_BYTES_MAX,
    PEER_FRAME_BYTES_MIN,
    WINDOW_DEFAULT,
    frame_head,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ....schema.tensor import Buffer
    from ...bulk import Bulk
    from ..request.call import Call
    from .carried import Carried

_TURN_BYTES: Final = 262_144
"""The most that one stream sends before the next has its turn, if there is another."""
_QUEUE_BYTES: Final = 1_048_576 + 65_536
"""Streams are moved to the queue until it holds this much: a tensor of 1 MiB with what is around it."""
_CARRIED_QUEUE_BYTES: Final = 2_883_584
"""The same where there is one stream only, and the carrier sends: each of its moves costs the loop a wake-up or two.
With what may be queued before, less than `backlog_bytes_max`, for meanwhile the peer is heard."""
_PARTS_MAX: Final = 128
"""Buffers given to one `sendmsg`."""


class Outlet:
    """The sending side of one connection. `flush` raises OSError when the peer is gone."""

    __slots__ = (
        "_bulk",
        "_carried",
        "_fd",
        "_queue",
        "_sock",
        "_waiting",
        "acks",
        "peer_frame_bytes",
        "peer_window_bytes",
        "queued_bytes",
        "sent_bytes",
        "window",
    )

    def __init__(self, sock: socket.socket, bulk: Bulk, carried: Carried | None = None) -> None:
        """`carried` sends what is large, where the carrier can use the socket."""
        self._carried = carried
        self._sock = sock
        self._fd = sock.fileno()
        self._bulk = bulk
        self._queue: deque[Buffer] = deque()
        self._waiting: deque[Call] = deque()
        """Calls with unsent bytes, in the order of their next turn."""
        self.queued_bytes = 0
        self.sent_bytes = 0
        """Since the connection began; the listener sees progress by it."""
        self.acks = 0
        """Acknowledgements in the queue."""
        self.window = WINDOW_DEFAULT
        """What the peer lets us send on all streams together."""
        self.peer_window_bytes = WINDOW_DEFAULT
        """The window that new streams start with."""
        self.peer_frame_bytes = PEER_FRAME_BYTES_MIN

    @property
    def is_idle(self) -> bool:
        """Nothing waits, neither for the kernel nor for a window."""
        return not self._queue and not self._waiting

    @property
    def waiting_count(self) -> int:
        """Calls whose bytes wait for their turns."""
        return len(self._waiting)

    def put(self, data: Buffer) -> None:
        """Queues bytes that flow control does not count."""
        self._queue.append(data)
        self.queued_bytes += len(data)

    def put_message(
        self, call: Call, head: bytes, buffers: Sequence[Buffer], size: int, trailers: bytes, flag: bytes = b"\0"
    ) -> None:
        """Queues one message of `size` bytes, after the frame `head` and before the frames `trailers` (empty: none).
        `flag` says whether it is compressed."""
        total = size + 5
        if (
            total <= JOIN_BYTES_MAX
            and total <= call.window
            and total <= self.window
            and total <= self.peer_frame_bytes
            and not call.unsent
        ):
            prefix = frame_head(total, DATA, 0, call.id) + flag + size.to_bytes(4, "big")
            self.put(b"".join((head, prefix, *buffers, trailers)))
            self.window -= total
            call.window -= total
            if trailers:
                call.sent_all()
            return
        if head:
            self.put(head)
        if not call.unsent and not call.is_waiting:
            call.is_waiting = True
            self._waiting.append(call)
        call.keep((flag + size.to_bytes(4, "big"), *buffers))
        call.unsent_bytes += total
        call.trailers = trailers

    def reopen(self, call: Call) -> None:
        """The call's window grew: give it turns again."""
        if call.unsent and not call.is_waiting:
            call.is_waiting = True
            self._waiting.append(call)

    def flush(self) -> bool:
        """Sends what the kernel takes now, and of large messages what it is the connection's turn for, or has them
        sent. False when something is left in the queue."""
        queue = self._queue
        carried = self._carried
        if carried is not None and carried.sends:
            return False
        if len(queue) == 1 and not self._waiting:  # as mostly: one answer, or those of a pass
            data = queue[0]
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                return False
            self.sent_bytes += sent
            self.queued_bytes -= sent
            if sent == len(data):
                queue.clear()
                self.acks = 0
                return True
            queue[0] = memoryview(data)[sent:]
        while True:
            if self._waiting and self.queued_bytes < _QUEUE_BYTES:
                self._take_turns()
            if not queue:
                self.acks = 0
                return True
            try:
                if len(queue) == 1:
                    sent = self._sock.send(queue[0])
                elif self.queued_bytes <= JOIN_BYTES_MAX:
                    joined = b"".join(queue)
                    queue.clear()
                    queue.append(joined)
                    sent = self._sock.send(joined)
                elif carried is not None and self._is_large():
                    carried.send(list(islice(queue, _PARTS_MAX)))
                    return False
                else:
                    if not self._bulk.may_move(self._fd):
                        return False
                    sent = self._sock.sendmsg(list(islice(queue, _PARTS_MAX)))
                    self._bulk.moved(self._fd, sent)
            except BlockingIOError:
                return False
            self.forget(sent)

    def _is_large(self) -> bool:
        """The queue is full, and what waits with it is for the carrier."""
        queued = self.queued_bytes
        return queued >= _QUEUE_BYTES and queued + sum(call.unsent_bytes for call in self._waiting) >= CARRIED_FROM

    def forget(self, sent: int) -> None:
        """So many bytes of the queue are with the kernel."""
        self.sent_bytes += sent
        self.queued_bytes -= sent
        if self.queued_bytes:
            forget(self._queue, sent)
        else:
            self._queue.clear()

    def _take_turns(self) -> None:
        """Moves DATA frames of waiting calls to the queue, one frame a turn, as far as the windows allow."""
        waiting = self._waiting
        is_carried = self._carried is not None and len(waiting) == 1 and waiting[0].unsent_bytes >= CARRIED_FROM
        queue_bytes = _CARRIED_QUEUE_BYTES if is_carried else _QUEUE_BYTES
        while waiting and self.window > 0 and self.queued_bytes < queue_bytes:
            call = waiting.popleft()
            turn = _TURN_BYTES if waiting else queue_bytes
            size = min(call.unsent_bytes, call.window, self.window, self.peer_frame_bytes, turn)
            if size <= 0 or call.done:
                call.is_waiting = False
                continue
            self.window -= size
            call.window -= size
            call.unsent_bytes -= size
            self.put(frame_head(size, DATA, 0, call.id))
            self.queued_bytes += size
            unsent = call.unsent
            while size:
                part = unsent[0]
                if len(part) > size:
                    self._queue.append(part[:size])
                    unsent[0] = part[size:]
                    break
                size -= len(part)
                self._queue.append(unsent.popleft())
            if call.unsent:
                waiting.append(call)
                continue
            call.is_waiting = False
            if call.trailers:
                self.put(call.trailers)
            call.sent_all()
