"""A thread that moves large messages between a door's sockets and memory, one piece after the other, while the door's
loop serves small ones.

    loop ──receive, send──▶ queue ──▶ thread: the kernel copies, without the interpreter
     ▲                                  │ bell
     └────────────── collect ◀──────────┘

Copying is nearly all that a door does for a large message, and memory that is touched for the first time costs several
times as much. A loop that does this itself has used up its share of the processors when a small request comes, and
waits with it until all others have had theirs; one that mostly sleeps has a processor at once.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from .parts import forget

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ..schema.tensor import Buffer

    Back = Callable[[int, Exception | None], None]
    """Told, of a move that is over, how many bytes it has moved, and what it has raised: BlockingIOError where the
    socket had nothing, or took nothing. Must not raise."""

CARRIED_FROM: Final = (2 << 20) + (1 << 16)
"""Less, tensors of 2 MiB with what is around them, the loop moves in a pass or two: handing over costs more."""
TURN_BYTES: Final = 2 << 20
"""Then others have their turns, if they wait."""
MOVE_BYTES: Final = 16 << 20
"""Of one move, so that its connection is seen to go on."""
PIECE_BYTES_MIN: Final = 16 * 1024
"""Where the peer is so fast, the rest of its message is waited for a moment,"""
PATIENCE_MS: Final = 1
"""as handing the socket back and forth costs more."""


class Carrier:
    """Of one door, on whose thread everything happens but the moves. Until a move has come back its socket must stay
    open, and nobody else may use that direction of it. Where there is no room for the thread, asking for a move raises
    RuntimeError."""

    def __init__(self) -> None:
        """Raises OSError where no descriptor is left."""
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when there is something to `collect`."""
        self._asked: queue.SimpleQueue[tuple[Callable[[], int], Back] | None] = queue.SimpleQueue()
        self._over: deque[tuple[Back, int, Exception | None]] = deque()
        self._thread: threading.Thread | None = None
        """Started when there is something to move for the first time."""
        self._is_closing = False

    def receive(self, sock: socket.socket, place: memoryview, back: Back, first: Buffer = b"") -> None:
        """Receives what is there, up to the end of the place. At the end of the stream it comes back with 0.

        `first` is the beginning, if it has been received already: memory is touched here only.
        """
        place = place[:MOVE_BYTES]

        def move() -> int:
            begun = _placed(first, place) if first else 0
            return self._moved(
                lambda at: sock.recv_into(place[at : at + TURN_BYTES]), sock, select.POLLIN, len(place), begun
            )

        self._ask(move, back)

    def send(self, sock: socket.socket, parts: Sequence[Buffer], back: Back) -> None:
        """Sends of the parts, in their order, what the kernel takes."""

        def move() -> int:
            left = deque(parts)

            def step(at: int) -> int:
                sent = sock.sendmsg(left)
                forget(left, sent)
                return sent

            return self._moved(step, sock, select.POLLOUT, sum(map(len, parts)))

        self._ask(move, back)

    def collect(self) -> None:
        """Tells of the moves that are over. Call it when the bell rings."""
        os.eventfd_read(self.bell)
        self._tell()

    def close(self) -> None:
        """Ends the thread, which may take as long as one move does; moves that have not begun come back at once."""
        self._is_closing = True
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()
        self._tell()
        os.close(self.bell)

    def _tell(self) -> None:
        over = self._over
        while over:
            back, count, problem = over.popleft()
            back(count, problem)

    def _moved(self, step: Callable[[int], int], sock: socket.socket, events: int, size: int, total: int = 0) -> int:
        """How much of `size` there is after as many steps as the peer and others allow, from `total` on. Raises what
        the first step raises, if nothing was there: later ones' problems are met again."""
        got = 0
        while total < size:
            try:
                got = step(total)
            except BlockingIOError:
                if got >= PIECE_BYTES_MIN and self._is_soon(sock, events):
                    got = 0  # it may not be ready after all
                    continue
                break
            except OSError:
                if not total:
                    raise
                break
            if not got:
                return total
            total += got
            if total >= TURN_BYTES and not self._asked.empty():
                break
        if not total:
            raise BlockingIOError
        return total

    def _is_soon(self, sock: socket.socket, events: int) -> bool:
        """Whether the move can go on within a moment; not if anybody else waits for a turn."""
        if not self._asked.empty() or self._is_closing:
            return False
        poll = select.poll()
        poll.register(sock, events)
        return bool(poll.poll(PATIENCE_MS))

    def _ask(self, move: Callable[[], int], back: Back) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="carrier", daemon=True)
            thread.start()
            self._thread = thread
        self._asked.put((move, back))

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            move, back = asked
            count = 0
            problem: Exception | None = None
            try:
                if self._is_closing:
                    raise BlockingIOError
                count = move()
            except Exception as raised:
                problem = raised
            del asked, move  # and with it the buffers: whoever is told may use them again
            self._over.append((back, count, problem))
            del back, problem
            os.eventfd_write(self.bell, 1)


def _placed(data: Buffer, place: memoryview) -> int:
    """Copies it there, as numpy does: without the interpreter. Its size."""
    there = np.frombuffer(data, np.uint8)
    np.copyto(np.frombuffer(place, np.uint8, len(there)), there)
    return len(there)
