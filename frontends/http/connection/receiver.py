"""The receiving half of one HTTP/1.1 connection, a state machine driven by the listener's epoll without a task of its
own: from bytes to requests.

    HEAD ──empty line──▶ BODY or CHUNKED ──last byte──▶ ANSWER ──reply──▶ HEAD     (small bodies skip BODY)
      any ──refusal, `Connection: close`──▶ LINGER (read and throw away) ──▶ CLOSED

Rules
1. What a client's bytes do to the state of its connection is here, what answers do to it in sender.py, what time does
   to it in connection.py; how bytes leave is `Outlet`'s business.
2. One request at a time is with the handlers; what the client sends ahead waits in `_intake`, up to a bound, and then
   in the kernel. So answers leave in the order of the requests.
3. The end of the client's stream is not its leaving. A client may close its sending side and wait for the answer; one
   that closed the whole socket looks the same until something is sent to it. So when a stream ends while a request is
   in flight, an interim `100 Continue` goes out: HTTP/1.1 clients skip it; the host of a client that left answers it
   with a reset, which epoll reports at once and which cancels the request. HTTP/1.0 knows no interim answers: there
   only the answer itself finds out. A reply that comes bit by bit, once begun, ends where its client's stream ends, as
   in the reference server.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING, Final

from ....engine.port.buffers import ALIGNMENT, RECYCLED_FROM
from ....schema.fault import InvalidArgument
from ....schema.kserve_http import parse_header_length
from ....schema.tensor import COPY_BYTES_MAX
from ...carrier import CARRIED_FROM
from ...tls import TlsSocket
from ..request.breakdown import NoRoomForBody
from .chunked import ChunkedBody
from .head import CHUNKED, Head, Refusal
from .http1_request import Http1Request
from .intake import Intake
from .sender import ANSWER, BODY, CHUNKS, CLOSED, HEAD, LINGER, READ, WRITE, Sender

if TYPE_CHECKING:
    import socket

    from ..request.request import Buffer
    from .listener import Listener

PEER_END: Final = select.EPOLLRDHUP
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
"""Always reported: a reset, or both directions closed."""

RECEIVE_BYTES: Final = 64 * 1024 + 8 * 1024
"""So that a tensor of 64 KiB comes whole with its heads; more would be mapped anew each time by the allocator."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Receiver(Sender):
    """What Connection builds on."""

    __slots__ = ("_body", "_body_since", "_chunks", "_got", "_head")

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        super().__init__(listener, sock, Intake(listener.heads))
        self._head: Head | None = None
        self._body: memoryview | None = None
        """Where the body being received goes."""
        self._body_since = 0.0
        """When the request in flight began, if its body came in pieces."""
        self._got = 0
        self._chunks: ChunkedBody | None = None

    # What epoll says.

    def on_event(self, events: int) -> None:
        if events == READ:
            if self.state == BODY:
                self._receive_body()
            else:
                self._receive()
            return
        if events & BROKEN:
            if self.state == LINGER:
                self.close()  # both directions are at their end; the kernel may still be sending the reply
            else:
                self.abort()
            return
        if events & WRITE:
            try:
                self._flush()
            except Exception as problem:
                self.cut(problem)
        if events & READ and self.state != CLOSED:
            if self.state == BODY:
                self._receive_body()
            else:
                self._receive()
        elif events & PEER_END and self.state == ANSWER:
            self._probe()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        state = self.state
        if not data:
            self._on_peer_end()
        elif state == HEAD:
            if self._intake.append(data):
                self.since = self._listener.now
            self._take_request()
            if self.state == ANSWER and self.events != READ:
                self._watch_input()
        elif state == CHUNKS:
            self.since = self._listener.now
            self._feed_chunks(data, 0)
        elif state == ANSWER:
            self._intake.append(data)
            self._watch_input()
        # LINGER: thrown away

    def _receive_body(self) -> None:
        """Large body: the kernel copies straight into its place."""
        body = self._body
        assert body is not None, "a body being received has a buffer"
        if self._is_for_carrier(len(body)):
            self._carry_in(body[self._got :])
            return
        bulk = self._listener.bulk
        if not bulk.may_move(self.fd):
            return
        size = len(body)
        began = self._got
        end = min(size, began + bulk.left)
        place_end = size if isinstance(self.sock, TlsSocket) else end  # a record is read whole
        while self._got < end:
            try:
                count = self.sock.recv_into(body[self._got : place_end])
            except BlockingIOError:
                break
            except OSError:
                self.abort()
                return
            if not count:
                self._on_peer_end()
                return
            self._got += count
        bulk.moved(self.fd, self._got - began)
        self._on_more_body(body)

    def _is_for_carrier(self, size: int) -> bool:
        return size >= CARRIED_FROM and not isinstance(self.sock, TlsSocket)

    def _carry_in(self, place: memoryview, first: Buffer = b"") -> None:
        self._listener.carrier.receive(self.sock, place, self._on_carried_in, first)
        self._hand_to_carrier(READ)

    def _on_carried_in(self, count: int, problem: Exception | None) -> None:
        """The carrier has received so much of a large body. Never raises."""
        try:
            body = self._body
            if self._take_back(READ, problem) and body is not None and problem is None:
                if count:
                    self._got += count
                    self._on_more_body(body)
                else:
                    self._on_peer_end()
        except Exception as raised:
            self.fail(raised)

    def _on_more_body(self, body: memoryview) -> None:
        self.since = self._listener.now
        if self._got == len(body):
            self._body = None
            if isinstance(self.sock, TlsSocket):
                self._intake.append(self.sock.surplus())
            self._hand_over(body)

    def _on_peer_end(self) -> None:
        if self.state == ANSWER:
            self._peer_ended = True
            self._probe()
        elif self.state == HEAD and self._ahead():
            self._peer_ended = True  # what it sent before is answered first
            self._watch(self.events & WRITE)
            self._listener.resume_soon(self)
        elif self._outlet.pending and self.state in (HEAD, LINGER):
            self._peer_ended = True
            self._finish(unread=False)  # it may still read the reply
        else:
            self.close()  # nothing is owed: idle, or a request cut short

    def _probe(self) -> None:
        """The client's stream ended, or ends behind what it sent ahead: has it left? See rule 3."""
        if self._streamed is not None:
            self.close()
            return
        self._watch(self.events & WRITE)
        head = self._head
        if not self._outlet.pending and head is not None and not head.form.is_http10:
            self._send([_CONTINUE])

    def _watch_input(self) -> None:
        """Reads on, unless the client is too far ahead of its answers, too far behind with taking them, or its stream
        has ended."""
        if self.state in (HEAD, ANSWER):
            if self._peer_ended or (self.state == HEAD and self._is_behind()):
                wanted = 0
            elif self._ahead() > self._listener.settings.pipelined_bytes_max:
                wanted = PEER_END
            else:
                wanted = READ
            self._watch((self.events & WRITE) | wanted)

    def _ahead(self) -> int:
        """Bytes received and not consumed."""
        return len(self._intake.data) - self._intake.at

    def _is_behind(self) -> bool:
        """Whether so much of earlier answers waits for the client that it gets no more of them."""
        return bool(self._outlet.pending) and self.unsent_bytes > self._listener.settings.pipelined_bytes_max

    # From bytes to requests.

    def resume(self) -> None:
        """Called by the listener after a reply, when more requests had been received ahead, and after the beginning of
        one that comes bit by bit, when the client's stream had ended."""
        if self.state == HEAD and self._ahead() and not self._is_behind():
            self._take_request()
        elif self._streamed is not None and self._peer_ended:
            self.close()

    def _take_request(self) -> None:
        listener = self._listener
        intake = self._intake
        try:
            if self._head is None and listener.takes_http2 and intake.is_http2():
                listener.hand_over(self, intake.data[intake.at :])
                return
            head = intake.next_head()
            if head is None:
                if self._peer_ended:
                    self._finish(unread=False)
                elif self.state == HEAD:
                    self._watch((self.events & WRITE) | READ)
                return
            self._head = head
            if head.length == CHUNKED:
                self._start_chunks(head)
            else:
                self._start_body(head)
        except Refusal as refusal:
            self.refuse(refusal.status, refusal.message)
        if self._peer_ended and self.state in (BODY, CHUNKS):
            self._drop_input()  # cut short, and nothing more comes
            self._finish(unread=False)

    def _start_body(self, head: Head) -> None:
        intake = self._intake
        data = intake.data
        at = intake.at
        size = head.length
        have = len(data) - at
        if have == size:
            intake.clear()
            self._hand_over(data[at:] if size <= COPY_BYTES_MAX else memoryview(data)[at:])
            return
        if have > size:
            intake.at = at + size
            self._hand_over(memoryview(data)[at : at + size])
            return
        self._body = body = self._place_for(head)
        is_carried = self._is_for_carrier(size)
        if not is_carried:
            body[:have] = memoryview(data)[at:]
        self._got = 0 if is_carried else have
        intake.clear()
        self._body_since = self.since
        self.since = self._listener.now
        self.state = BODY
        self._watch((self.events & WRITE) | READ)  # the client may have been too far ahead to be read
        if head.form.expects_continue:
            self._send([_CONTINUE])
        if is_carried and self.state == BODY:
            self._carry_in(body, memoryview(data)[at:])

    def _place_for(self, head: Head) -> memoryview:
        """Where a large body goes: into the buffers that were noted for such requests, its first tensor aligned."""
        size, told = head.length, head.header_length
        pool, start = self._listener.buffers, 0
        noted = head.form.notes.buffers
        if noted is not None and told is not None and size >= RECYCLED_FROM:
            with contextlib.suppress(InvalidArgument):  # which the handler tells
                start = -parse_header_length(told, size) % ALIGNMENT
                pool = noted
        try:
            self._buffer = array = pool.take(start + size)
        except MemoryError as problem:
            raise NoRoomForBody(size) from problem
        self._pool = pool
        return array.data[start : start + size]

    def _start_chunks(self, head: Head) -> None:
        settings = self._listener.settings
        self._chunks = ChunkedBody(
            bytes_max=settings.body_bytes_max,
            count_max=settings.chunk_count_max,
            overhead_max=settings.head_bytes_max,
        )
        data = self._intake.data
        at = self._intake.at
        self._intake.clear()
        self._body_since = self.since
        self.since = self._listener.now
        self.state = CHUNKS
        self._watch((self.events & WRITE) | READ)
        if head.form.expects_continue and at == len(data):
            self._send([_CONTINUE])
        if self.state == CHUNKS:
            self._feed_chunks(data, at)

    def _feed_chunks(self, data: bytes, at: int) -> None:
        chunks = self._chunks
        assert chunks is not None, "chunks being received have a decoder"
        try:
            end = chunks.feed(data, at)
        except Refusal as refusal:
            self.refuse(refusal.status, refusal.message)
            return
        if end >= 0:
            self._chunks = None
            if end < len(data):
                self._intake.append(data[end:])
            self._hand_over(memoryview(chunks.body))

    def _hand_over(self, body: Buffer) -> None:
        head = self._head
        assert head is not None, "a request has a head"
        self.state = ANSWER
        self._request = request = Http1Request(self, head, body, self._intake.text)
        self._listener.handle(request)

    # For traces.

    def began_at(self) -> float:
        """When the request in flight began to arrive, in seconds of trio's clock."""
        head = self._head
        in_pieces = self._buffer is not None or (head is not None and head.length == CHUNKED)
        return self._body_since if in_pieces else self.since

    def _drop_input(self) -> None:
        self._intake.clear()
        self._chunks = None
        self._body = None
        if self._buffer is not None:
            self._give_buffer()
