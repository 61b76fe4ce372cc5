"""The sending half of one HTTP/1.1 connection: replies, whole or bit by bit, the lingering after the last, the end.

See receiver.py for the states and rules.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING, Final

from ....engine.port.concerns import peer_name
from ....schema.kserve_http_reply import encode_error
from ....schema.tensor import size_of
from ...tls import TlsSocket
from ..request.breakdown import note
from ..request.request import JSON, Buffer, Field
from .outlet import Outlet
from .status import head_of_reply, head_of_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from ....engine.port.buffers import BufferPool
    from ..request.streamed import StreamedReply
    from .head import Head
    from .http1_request import Http1Request
    from .intake import Intake
    from .listener import Listener

HEAD, BODY, CHUNKS, ANSWER, LINGER, CLOSED = range(6)

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT


class Sender:
    """What the receiving half builds on. It and Connection override the last six methods."""

    __slots__ = (
        "_buffer",
        "_carried",
        "_intake",
        "_listener",
        "_on_sent",
        "_outlet",
        "_peer_ended",
        "_pool",
        "_request",
        "_streamed",
        "events",
        "fd",
        "since",
        "sock",
        "state",
    )

    def __init__(self, listener: Listener, sock: socket.socket, intake: Intake) -> None:
        self._listener = listener
        self._intake = intake
        self.sock = sock
        self.fd = sock.fileno()
        self.state = HEAD
        self.events = READ
        """What epoll was told to watch."""
        self.since = listener.now
        """When the wait began that the present state's timeout limits."""
        self._request: Http1Request | None = None
        """In flight."""
        self._buffer: np.ndarray | None = None
        """The array below the body of the request in flight,"""
        self._pool: BufferPool | None = None
        """and the pool that it is from."""
        self._on_sent: Callable[[], None] | None = None
        """Called once nothing is unsent."""
        self._outlet = Outlet(sock, is_carried=not isinstance(sock, TlsSocket))
        self._carried = 0
        """READ, WRITE: the directions that the carrier has; it needs the socket until it gives them back."""
        self._peer_ended = False
        self._streamed: StreamedReply | None = None
        """The reply under way, where it is sent bit by bit."""

    @property
    def peer(self) -> str:
        """The client, for the log."""
        return peer_name(self.sock)

    @property
    def is_parting(self) -> bool:
        """Replies say `Connection: close`."""
        return self._listener.parting

    def answer(
        self, head: Head, status: int, content_type: bytes, buffers: Sequence[Buffer], fields: Sequence[Field]
    ) -> None:
        """Sends the reply to the request in flight and makes ready for the next one."""
        if self._buffer is not None:
            self._give_buffer()
        listener = self._listener
        form = head.form
        mark = None if listener.parting else form.keep_mark
        start = head_of_reply(status, content_type, size_of(buffers), fields, mark)
        self._request = None
        self.since = listener.now
        self.state = HEAD
        self._send([start] if form.method == b"HEAD" else [start, *buffers])
        if mark is None or self.events != READ or self._intake.data or self._peer_ended:
            self._answered(keep=mark is not None)

    def _answered(self, *, keep: bool) -> None:
        """The whole reply is on its way."""
        listener = self._listener
        if self.state == CLOSED:
            return
        if not keep:
            self._finish(unread=bool(self._ahead()))
        elif self._ahead():
            listener.resume_soon(self)
        elif self._peer_ended:
            self._finish(unread=False)
        if self.events != READ:
            self._watch_input()

    def begin_answer(self, head: Head, status: int, content_type: bytes, streamed: StreamedReply) -> None:
        """Sends the head of a reply that follows bit by bit."""
        self._streamed = streamed
        streamed.is_chunked = not head.form.is_http10
        streamed.keeps = head.form.keep_mark is not None and streamed.is_chunked and not self._listener.parting
        self.since = self._listener.now
        self._send([head_of_stream(status, content_type, is_chunked=streamed.is_chunked, closes=not streamed.keeps)])
        if self._peer_ended:
            self._listener.resume_soon(self)  # the client has left, unless this reply is whole by then

    def send_part(self, data: bytes) -> None:
        """Sends more of such a reply."""
        streamed = self._streamed
        if streamed is None or not data:
            return  # an empty chunk would be the last
        if not self._outlet.pending:
            self.since = self._listener.now
        self._send([b"%x\r\n" % len(data), data, b"\r\n"] if streamed.is_chunked else [data])

    def end_answer(self) -> None:
        """Ends such a reply and makes ready for the next request."""
        streamed, self._streamed = self._streamed, None
        self._request = None
        if self._buffer is not None:
            self._give_buffer()
        if streamed is None:
            return
        self.since = self._listener.now
        self.state = HEAD
        if streamed.is_chunked:
            self._send([b"0\r\n\r\n"])
        self._answered(keep=streamed.keeps and not self._listener.parting)  # it may have begun before that

    @property
    def unsent_bytes(self) -> int:
        return size_of(self._outlet.pending)

    def refuse(self, status: int, message: str) -> None:
        """Answers what cannot be served and ends the connection in such a way that the client can read the answer."""
        self._drop_input()
        content = encode_error(message)
        self.state = LINGER
        self._send([head_of_reply(status, JSON, len(content), (), None), content])
        if self.state != CLOSED:
            self._finish(unread=True)

    def cut(self, problem: Exception) -> None:
        """Ends the connection because an answer that may have begun to leave cannot be sent. Never raises."""
        note("an answer cannot be sent", problem, self)
        self.abort()

    def _finish(self, *, unread: bool) -> None:
        """No more replies follow. Closing a socket with unread bytes resets it, and the reply with it: so linger."""
        self.since = self._listener.now
        self._intake.clear()
        if not unread and not self._outlet.pending:
            self.close()
            return
        self.state = LINGER
        self._watch((self.events & WRITE) | (0 if self._peer_ended else READ))
        if not self._outlet.pending:
            self._end_output()

    def _end_output(self) -> None:
        """All is sent and nothing follows."""
        if self._peer_ended:
            self.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def _send(self, buffers: Sequence[Buffer]) -> None:
        try:
            self._outlet.send(buffers)
        except OSError:
            self.abort()
            return
        if self._outlet.pending:
            self._watch(self.events | WRITE)

    def _flush(self) -> None:
        if parts := self._outlet.for_carrier():
            self._listener.carrier.send(self.sock, parts, self._on_carried_out)
            self._hand_to_carrier(WRITE)
            return
        bulk = self._listener.bulk
        if not bulk.may_move(self.fd):
            return
        try:
            sent = self._outlet.flush()
        except OSError:
            self.abort()
            return
        bulk.moved(self.fd, sent)
        self._on_flushed(sent)

    def _on_carried_out(self, sent: int, problem: Exception | None) -> None:
        """The carrier has sent so much of a large reply. Never raises."""
        try:
            if self._take_back(WRITE, problem):
                self._outlet.forget(sent)
                self._on_flushed(sent)
        except Exception as raised:
            self.cut(raised)

    def _on_flushed(self, sent: int) -> None:
        if sent and self.state in (HEAD, ANSWER, LINGER):
            self.since = self._listener.now
        if self._outlet.pending:
            return
        if self._on_sent is not None:
            self._tell_sent()
        self._watch(self.events & ~WRITE)
        if self.state == LINGER:
            self._end_output()
        elif self._streamed is not None and self._streamed.on_room is not None:
            self._streamed.on_room()
        elif self.state == HEAD:
            self._answered(keep=True)  # a client that had too much to take may ask again
            if self._listener.draining:
                self.on_drain()

    def when_sent(self, on_sent: Callable[[], None]) -> None:
        """Calls once the reply just given has left, or cannot any more: maybe now."""
        if self.state == CLOSED or not self._outlet.pending:
            on_sent()
        else:
            self._on_sent = on_sent

    def _tell_sent(self) -> None:
        on_sent, self._on_sent = self._on_sent, None
        if on_sent is not None:
            on_sent()

    # The end.

    def abort(self) -> None:
        """Closes with a reset: the client has left, or takes nothing. What it waited for is cancelled."""
        if self.state != CLOSED:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close()

    def close(self) -> None:
        """Closes now; a request in flight is cancelled. Idempotent, never raises."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self._streamed = None
        self._listener.forget(self)
        if not self._carried:
            self.sock.close()
        self._outlet.drop()
        try:
            self._drop_input()
            self._tell_sent()
        except Exception as problem:
            note("ending a connection failed", problem)
        self._abandon()

    def _abandon(self) -> None:
        """The client gets no answer any more: whoever makes it is told. Never raises."""
        request, self._request = self._request, None
        if request is not None:
            try:
                request.abandon()
            except Exception as problem:
                note("cancelling a request failed", problem)

    def release(self) -> socket.socket:
        """Gives the socket away, for another protocol."""
        self.state = CLOSED
        self._listener.forget(self)
        return self.sock

    def _give_buffer(self) -> None:
        """The body's memory may be used again."""
        assert self._buffer is not None
        assert self._pool is not None, "it is from somewhere"
        self._listener.pools.give_back(self._pool, self._buffer)
        self._buffer = self._pool = None

    def _watch(self, events: int) -> None:
        if events != self.events and self.state != CLOSED:
            self.events = events
            self._listener.watch(self.fd, events & ~self._carried)

    def _hand_to_carrier(self, direction: int) -> None:
        """It has been asked: until it is taken back the loop does nothing with this direction of the socket."""
        self._carried |= direction
        self._listener.watch(self.fd, self.events & ~self._carried)

    def _take_back(self, direction: int, problem: Exception | None) -> bool:
        """Whether the connection goes on, after a move that may have had a problem. Raises it if it is not the
        peer's."""
        self._carried &= ~direction
        if self.state == CLOSED:
            if not self._carried:
                self.sock.close()
            return False
        self._listener.watch(self.fd, self.events & ~self._carried)
        if problem is None or isinstance(problem, BlockingIOError):
            return True
        if not isinstance(problem, OSError):
            raise problem
        self.abort()
        return False

    # The others'.

    def fail(self, problem: Exception) -> None:
        """Answers, if it can, that something of ours broke, and ends the connection."""
        raise NotImplementedError

    def resume(self) -> None:
        """Takes the next request from what has been received, or ends a reply under way whose client has left."""
        raise NotImplementedError

    def on_drain(self) -> None:
        """Ends the connection of a server that stops, as soon as nothing is owed."""
        raise NotImplementedError

    def _watch_input(self) -> None:
        """Reads on, as far as the state allows."""
        raise NotImplementedError

    def _drop_input(self) -> None:
        """Forgets what was received."""
        raise NotImplementedError

    def _ahead(self) -> int:
        """Bytes received and not consumed."""
        raise NotImplementedError
