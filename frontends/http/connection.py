"""One HTTP/1.1 connection: a state machine driven by the listener's epoll, without a task of its own.

    HEAD ──empty line──▶ BODY or CHUNKED ──last byte──▶ ANSWER ──reply──▶ HEAD     (small bodies skip BODY)
      any ──refusal, `Connection: close`──▶ LINGER (read and throw away) ──▶ CLOSED

Rules
1. Everything that changes the state of a connection lives here; how bytes leave is `Outlet`'s business.
2. One request at a time is with the handlers; what the client sends ahead waits in `_input`, up to a bound, and then
   in the kernel. So answers leave in the order of the requests.
3. The end of the client's stream is not its leaving. A client may close its sending side and wait for the answer; one
   that closed the whole socket looks the same until something is sent to it. So when a stream ends while a request is
   in flight, an interim `100 Continue` goes out: HTTP/1.1 clients skip it; the host of a client that left answers it
   with a reset, which epoll reports at once and which cancels the request. HTTP/1.0 knows no interim answers: there
   only the answer itself finds out.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING, Final

from ...schema.kserve_http_reply import encode_error
from .chunked import ChunkedBody
from .head import CHUNKED, Head, Refusal, parse_head
from .outlet import Outlet
from .request import JSON, TEXT, Buffer, Field, HttpRequest
from .status import head_of_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from .listener import Listener

HEAD, BODY, CHUNKS, ANSWER, LINGER, CLOSED = range(6)

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
PEER_END: Final = select.EPOLLRDHUP
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
"""Always reported: a reset, or both directions closed."""

RECEIVE_BYTES: Final = 64 * 1024
_TURN_BYTES_MAX: Final = 4 * 1024 * 1024
"""Body bytes received of one connection before the others have their turn."""
_MEMO_BYTES_MAX: Final = 2048
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection:
    """Created by the listener for an accepted, non-blocking socket."""

    __slots__ = (
        "_at",
        "_body",
        "_buffer",
        "_chunks",
        "_got",
        "_head",
        "_input",
        "_listener",
        "_memo",
        "_outlet",
        "_peer_ended",
        "_request",
        "_scanned",
        "events",
        "fd",
        "since",
        "sock",
        "state",
    )

    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        self._listener = listener
        self.sock = sock
        self.fd = sock.fileno()
        self.state = HEAD
        self.events = READ
        """What epoll was told to watch."""
        self.since = listener.now
        """When the wait began that the present state's timeout limits."""
        self._input = b""
        """Received and not consumed, from `_at` on."""
        self._at = 0
        self._scanned = 0
        """Where in `_input` the search for the end of the head goes on."""
        self._memo: Head | None = None
        """The last head, for the next request that has the same one."""
        self._head: Head | None = None
        self._request: _Request | None = None
        self._buffer: np.ndarray | None = None
        """The pool's array below `_body`."""
        self._body: memoryview | None = None
        self._got = 0
        self._chunks: ChunkedBody | None = None
        self._outlet = Outlet(sock)
        self._peer_ended = False

    # What epoll says.

    def on_event(self, events: int) -> None:
        if events & BROKEN:
            if self.state == LINGER:
                self.close()  # both directions are at their end; the kernel may still be sending the reply
            else:
                self.abort()
            return
        if events & WRITE:
            self._flush()
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
            if self._at < len(self._input):
                self._input = self._input[self._at :] + data
                self._scanned -= self._at
            else:
                self._input = data
                self._scanned = 0
                self.since = self._listener.now
            self._at = 0
            self._take_request()
            if self.state == ANSWER:
                self._watch_input()
        elif state == CHUNKS:
            self.since = self._listener.now
            self._feed_chunks(data, 0)
        elif state == ANSWER:
            self._input = self._input[self._at :] + data
            self._at = self._scanned = 0
            self._watch_input()
        # LINGER: thrown away

    def _receive_body(self) -> None:
        """Large body: the kernel copies straight into its place."""
        body = self._body
        assert body is not None, "a body being received has a buffer"
        size = len(body)
        turn = 0
        while self._got < size:
            try:
                count = self.sock.recv_into(body[self._got :])
            except BlockingIOError:
                break
            except OSError:
                self.abort()
                return
            if not count:
                self._on_peer_end()
                return
            self._got += count
            turn += count
            if turn > _TURN_BYTES_MAX:
                break
        self.since = self._listener.now
        if self._got == size:
            self._body = None
            self._hand_over(body)

    def _on_peer_end(self) -> None:
        if self.state == ANSWER:
            self._peer_ended = True
            self._probe()
        elif self.state == HEAD and self._at < len(self._input):
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
        self._watch(self.events & WRITE)
        head = self._head
        if not self._outlet.pending and head is not None and not head.is_http10:
            self._send([_CONTINUE])

    def _watch_input(self) -> None:
        """Reads on, unless the client is too far ahead of its answers or its stream has ended."""
        if self.state in (HEAD, ANSWER):
            if self._peer_ended:
                wanted = 0
            elif len(self._input) - self._at > self._listener.settings.pipelined_bytes_max:
                wanted = PEER_END
            else:
                wanted = READ
            self._watch((self.events & WRITE) | wanted)

    # From bytes to requests.

    def resume(self) -> None:
        """Called by the listener after a reply, when more requests had been received ahead."""
        if self.state == HEAD and self._at < len(self._input):
            self._take_request()

    def _take_request(self) -> None:
        try:
            head, body_at = self._find_head()
            if head is None:
                if self._peer_ended:
                    self._finish(unread=False)
                elif self.state == HEAD:
                    self._watch((self.events & WRITE) | READ)
                return
            self._head = head
            if head.length == CHUNKED:
                self._start_chunks(head, body_at)
            else:
                self._start_body(head, body_at)
        except Refusal as refusal:
            self.refuse(refusal.status, refusal.message)

    def _find_head(self) -> tuple[Head | None, int]:
        """The next request's head and where its body begins; None while the head is not whole. Raises Refusal."""
        data = self._input
        at = self._at
        memo = self._memo
        if memo is not None and data.startswith(memo.raw, at):
            return memo, at + len(memo.raw)
        while data.startswith(b"\r\n", at):  # HTTP asks servers to skip empty lines before a request
            at += 2
        self._at = at
        settings = self._listener.settings
        end = data.find(b"\r\n\r\n", max(at, self._scanned - 3))
        if end < 0:
            self._check_unfinished_head()
            self._scanned = len(data)
            return None, 0
        end += 4
        if end - at > settings.head_bytes_max:
            raise Refusal(431, f"request head exceeds {settings.head_bytes_max} bytes")
        raw = data[at:end]
        if raw == _PREFACE and self._listener.takes_http2:
            self._listener.hand_over(self, data[at:])
            return None, 0
        head = parse_head(raw, header_count_max=settings.header_count_max, body_bytes_max=settings.body_bytes_max)
        if len(raw) <= _MEMO_BYTES_MAX:
            self._memo = head
        return head, end

    def _check_unfinished_head(self) -> None:
        """Refuses at once what can become no head, rather than wait for the timeout."""
        data = self._input
        at = self._at
        limit = self._listener.settings.head_bytes_max
        if len(data) - at > limit:
            raise Refusal(431, f"request head exceeds {limit} bytes")
        if at < len(data) and not (65 <= data[at] <= 90 or (data[at] == 13 and at + 1 == len(data))):
            raise Refusal(400, "malformed request: a method in capitals is expected")
        start = max(at, self._scanned)
        if data.find(b"\0", start) >= 0:
            raise Refusal(400, "malformed request: NUL in the head")
        while (line_end := data.find(b"\n", start)) >= 0:
            if line_end == at or data[line_end - 1] != 13:
                raise Refusal(400, "malformed request: line does not end with CRLF")
            start = line_end + 1

    def _start_body(self, head: Head, at: int) -> None:
        data = self._input
        size = head.length
        have = len(data) - at
        if have >= size:
            if have == size:
                body = memoryview(data)[at:] if size else b""
                self._input = b""
                self._at = 0
            else:
                body = memoryview(data)[at : at + size]
                self._at = at + size
            self._scanned = 0
            self._hand_over(body)
            return
        self._buffer = array = self._listener.buffers.take(size)
        self._body = body = array.data[:size]
        body[:have] = memoryview(data)[at:]
        self._got = have
        self._input = b""
        self._at = self._scanned = 0
        self.since = self._listener.now
        self.state = BODY
        if head.expects_continue:
            self._send([_CONTINUE])

    def _start_chunks(self, head: Head, at: int) -> None:
        settings = self._listener.settings
        self._chunks = ChunkedBody(
            bytes_max=settings.body_bytes_max,
            count_max=settings.chunk_count_max,
            overhead_max=settings.head_bytes_max,
        )
        data = self._input
        self._input = b""
        self._at = self._scanned = 0
        self.since = self._listener.now
        self.state = CHUNKS
        if head.expects_continue and at == len(data):
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
                self._input = data[end:]
            self._hand_over(memoryview(chunks.body))

    def _hand_over(self, body: Buffer) -> None:
        head = self._head
        assert head is not None, "a request has a head"
        self.state = ANSWER
        self._request = request = _Request(self, head, body)
        self._listener.handle(request)

    # From replies to bytes.

    def answer(
        self, head: Head, status: int, content_type: bytes, buffers: Sequence[Buffer], fields: Sequence[Field]
    ) -> None:
        """Sends the reply to the request in flight and makes ready for the next one."""
        self._request = None
        listener = self._listener
        if self._buffer is not None:
            listener.buffers.give(self._buffer)
            self._buffer = None
        keep = head.keep_alive and not listener.draining
        size = sum(map(len, buffers))
        if head.method == b"HEAD":
            buffers = ()
        keep_mark = head.is_http10 if keep else None
        self.since = listener.now
        self.state = HEAD
        self._send([head_of_reply(status, content_type, size, fields, keep_mark), *buffers])
        if self.state == CLOSED:
            return
        if not keep:
            self._finish(unread=self._at < len(self._input))
        elif self._at < len(self._input):
            listener.resume_soon(self)
        elif self._peer_ended:
            self._finish(unread=False)
        if self.events != READ:
            self._watch_input()

    def refuse(self, status: int, message: str) -> None:
        """Answers what cannot be served and ends the connection in such a way that the client can read the answer."""
        self._drop_input()
        content = encode_error(message)
        self.state = LINGER
        self._send([head_of_reply(status, JSON, len(content), (), None), content])
        if self.state != CLOSED:
            self._finish(unread=True)

    def _finish(self, *, unread: bool) -> None:
        """No more replies follow. Closing a socket with unread bytes resets it, and the reply with it: so linger."""
        self.since = self._listener.now
        self._input = b""
        self._at = 0
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

    def _send(self, buffers: list[Buffer]) -> None:
        try:
            self._outlet.send(buffers)
        except OSError:
            self.abort()
            return
        if self._outlet.pending:
            self._watch(self.events | WRITE)

    def _flush(self) -> None:
        try:
            self._outlet.flush()
        except OSError:
            self.abort()
            return
        if self._outlet.progressed and self.state in (HEAD, ANSWER, LINGER):
            self.since = self._listener.now
        if self._outlet.pending:
            return
        self._watch(self.events & ~WRITE)
        if self.state == LINGER:
            self._end_output()

    # The end.

    def is_idle(self) -> bool:
        """True between requests: nothing received, nothing owed."""
        return self.state == HEAD and self._at >= len(self._input) and not self._outlet.pending

    def on_drain(self) -> None:
        """The server stops: takes the request that may have arrived by now, or ends an idle connection at once."""
        if self.is_idle():
            self._receive()
            if self.is_idle():
                self.close()

    def on_tick(self, now: float) -> None:
        """Ends waits that took too long."""
        settings = self._listener.settings
        waited = now - self.since
        state = self.state
        if self._outlet.pending:
            if waited > settings.write_stall_timeout:
                self.abort()
        elif state == HEAD:
            if self._at < len(self._input):
                if waited > settings.head_timeout:
                    self.refuse(408, f"request head not received within {settings.head_timeout:g} seconds")
            elif waited > settings.idle_timeout:
                self.close()
        elif state in (BODY, CHUNKS):
            if waited > settings.body_stall_timeout:
                self.refuse(408, f"no request body received for {settings.body_stall_timeout:g} seconds")
        elif state == LINGER and waited > settings.linger_timeout:
            self.close()

    def abort(self) -> None:
        """Closes with a reset: the client has left, or takes nothing. What it waited for is cancelled."""
        if self.state != CLOSED:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close()

    def close(self) -> None:
        """Closes now; a request in flight is cancelled. Idempotent."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self._drop_input()
        self._outlet.drop()
        self._listener.forget(self)
        self.sock.close()
        request = self._request
        self._request = None
        if request is not None:
            request.abandon()

    def release(self) -> socket.socket:
        """Gives the socket away, for another protocol."""
        self.state = CLOSED
        self._listener.forget(self)
        return self.sock

    def _drop_input(self) -> None:
        self._input = b""
        self._at = 0
        self._chunks = None
        self._body = None
        if self._buffer is not None:
            self._listener.buffers.give(self._buffer)
            self._buffer = None

    def _watch(self, events: int) -> None:
        if events != self.events and self.state != CLOSED:
            self.events = events
            self._listener.watch(self.fd, events)


class _Request(HttpRequest):
    """A request that came over a Connection."""

    __slots__ = ("_connection", "_head")

    def __init__(self, connection: Connection, head: Head, body: Buffer) -> None:
        super().__init__(head.method, head.path, head.headers, body)
        self._connection: Connection | None = connection
        self._head = head

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        connection = self._connection
        if connection is not None:
            self._connection = None
            self.on_gone = None
            connection.answer(self._head, status, content_type, buffers, fields)

    def abandon(self) -> None:
        """The client has left: the handler is told, and its reply goes nowhere."""
        self._connection = None
        self.is_gone = True
        on_gone = self.on_gone
        self.on_gone = None
        if on_gone is not None:
            on_gone()
