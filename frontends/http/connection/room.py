"""Who makes room when a door is full, and who may come in although nobody does.

A full door closes the connection that has been idle for longest; where none is idle, the request that has been
dripping in for longest is refused. Where everybody is at work a few places more are left, for health probes only.
"""

from __future__ import annotations

import math
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from .connection import Connection
from .head import Head, Refusal
from .sender import ANSWER, HEAD

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOUND_MAX: Final = 64
"""Connections remembered from one look at all of them."""
_VAIN_S: Final = 0.1
"""Between two looks that find nobody."""
_PROBE_S: Final = 2.0
"""A probe asks at once."""
_NO_ROOM: Final = "the server has no connection left but for health probes: try again later"


class Room:
    """Finds who can be done without among the `connections` of a listener."""

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections
        self._found: deque[tuple[bool, float, Connection]] = deque()
        """Some that can be done without, idle ones first, and since when."""
        self._vain_at = -math.inf
        """When nobody was found."""

    def make(self, now: float) -> bool:
        """Ends one connection. False, and nothing is done, if all are at work or have just begun."""
        found = self._found
        while found:
            _, since, connection = found.popleft()
            if connection.since == since and connection.is_spare(now):
                connection.make_room()
                return True
        if now - self._vain_at < _VAIN_S:
            return False
        spare = [
            (not connection.is_idle(), connection.since, connection)
            for connection in self._connections.values()
            if connection.is_spare(now)
        ]
        if not spare:
            self._vain_at = now
            return False
        spare.sort(key=itemgetter(0, 1))
        found.extend(spare[:_FOUND_MAX])
        found.popleft()[2].make_room()
        return True


class ProbeConnection(Connection):
    """One beyond the limit: it has one request, for health, and little time to ask it."""

    __slots__ = ()

    def _take_request(self) -> None:
        if self._intake.is_http2():
            self.refuse(503, _NO_ROOM)
        else:
            super()._take_request()

    def _start_body(self, head: Head) -> None:
        form = head.form
        if not self._listener.is_probe(form.method, form.path):
            raise Refusal(503, _NO_ROOM)
        self._head = last = Head(form.for_the_last(), head.length, head.header_length)
        super()._start_body(last)

    def _start_chunks(self, head: Head) -> None:
        raise Refusal(503, _NO_ROOM)

    def is_spare(self, now: float) -> bool:
        """It takes no place that others could have."""
        return False

    def may_go(self) -> bool:
        """Whether the next probe may have its place."""
        return self.state != ANSWER

    def on_tick(self, now: float) -> None:
        if self.state == HEAD and now - self.since > _PROBE_S:
            self.close()
        else:
            super().on_tick(now)
