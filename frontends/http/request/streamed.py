"""A reply whose body is made bit by bit: what its handler and its carrier tell each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class StreamedReply:
    """Made by the handler, for `HttpRequest.begin_reply`."""

    __slots__ = ("is_chunked", "keeps", "on_room")

    def __init__(self, *, on_room: Callable[[], None] | None = None) -> None:
        self.on_room = on_room
        """Called when all that was written has left."""
        self.is_chunked = True
        """For the carrier. False for HTTP/1.0: there the end of the connection is the end of the body."""
        self.keeps = True
        """For the carrier: the connection stays open afterwards."""
