"""One connection, whole: how long it may wait for its client, how it ends, and what it is worth when others wait.

Sender (sender.py)  ◀── Receiver (receiver.py: states and rules)  ◀── Connection
"""

from __future__ import annotations

from typing import Final

from ..request.breakdown import answer_to, note
from .receiver import Receiver
from .sender import BODY, CHUNKS, CLOSED, HEAD, LINGER
from .status import UNFINISHED, slow_body

_SPARE_AFTER_S: Final = 1.0
"""An idle connection, or the beginning of a request, so old is not needed by a full door."""
_BETWEEN_REQUESTS_S: Final = 0.2
"""A client that had its answer so lately may be about to ask again: its write must not fail for the server's stop."""
_FIRST_REQUEST_S: Final = 1.0
"""A client that has just come is about to ask, and may be slow: its machine, or the way, is busy."""
_LAST_WORDS_S: Final = 0.1
"""How long a stopping server lingers after a refusal."""


class Connection(Receiver):
    """Created by the listener for an accepted, non-blocking socket."""

    __slots__ = ()

    def is_idle(self) -> bool:
        """True between requests: nothing received, nothing owed."""
        return self.state == HEAD and not self._ahead() and not self._outlet.pending

    def is_spare(self, now: float) -> bool:
        """Whether a full door can do without this connection: nothing, or hardly anything, comes of it."""
        if self.is_idle():
            return now - self.since > _SPARE_AFTER_S
        if self.state == HEAD:
            return bool(self._ahead()) and not self._outlet.pending and now - self.since > _SPARE_AFTER_S
        return self._is_dripping(now, _SPARE_AFTER_S)

    def _is_dripping(self, now: float, grace: float) -> bool:
        """Whether less of a body has come than `body_rate_min` allows, the first `grace` seconds not counted."""
        if self.state == BODY:
            got = self._got
        elif self.state == CHUNKS and self._chunks is not None:
            got = len(self._chunks.body)
        else:
            return False
        return got < self._listener.settings.body_rate_min * (now - self._body_since - grace)

    def make_room(self) -> None:
        """Ends it for somebody who waits."""
        if not self.is_idle():
            self.refuse(408, "the server is full and this request arrives slowly")
        self.close()

    def on_drain(self) -> None:
        """The server stops. Called now and then until the connection has ended: takes the request that may have come
        by now, ends an idle connection, and does not wait long for the rest of a request."""
        listener = self._listener
        waited = listener.now - self.since
        if self.state == LINGER:
            if waited > _LAST_WORDS_S and not self._outlet.pending:
                self.close()
        elif self.is_idle():
            self._receive()
            grace = _FIRST_REQUEST_S if self._head is None else _BETWEEN_REQUESTS_S
            if waited > grace and self.is_idle():
                self.close()
        elif (
            self.state in (HEAD, BODY, CHUNKS)
            and not self._outlet.pending
            and listener.now - listener.draining_since > listener.settings.stop_grace
        ):
            self.refuse(*UNFINISHED)

    def fail(self, problem: Exception) -> None:
        """Something of ours broke while this connection was served: what its client asked is answered with that, or
        where an answer has begun cut off, and it ends here. Never raises."""
        note("serving a connection failed", problem, self)
        if self.state == LINGER or self._outlet.pending or self._streamed is not None:
            self.abort()
        elif self.state != CLOSED:
            try:
                self._abandon()
                self.refuse(*answer_to(problem))
            except Exception as second:
                self.cut(second)

    def on_tick(self, now: float) -> None:
        """Ends waits that took too long."""
        settings = self._listener.settings
        waited = now - self.since
        state = self.state
        if self._outlet.pending:
            if waited > settings.write_stall_timeout:
                self.abort()
        elif state == HEAD:
            if self._ahead():
                if waited > settings.head_timeout:
                    self.refuse(408, f"request head not received within {settings.head_timeout:g} seconds")
            elif waited > settings.idle_timeout:
                self.close()
        elif state in (BODY, CHUNKS):
            if waited > settings.body_stall_timeout:
                self.refuse(408, f"no request body received for {settings.body_stall_timeout:g} seconds")
            elif self._is_dripping(now, settings.body_stall_timeout):
                self.refuse(408, slow_body(settings.body_rate_min))
        elif state == LINGER and waited > settings.linger_timeout:
            self.close()
