"""What a connection looks like to who has its socket carried (carried.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket


class Carrying(Protocol):
    """A connection, for its `Carried`."""

    sock: socket.socket

    @property
    def is_closed(self) -> bool: ...

    def on_received(self, count: int, problem: Exception | None) -> None:
        """So much is in the place that was given. Never raises."""
        ...

    def on_sent(self, count: int, problem: Exception | None) -> None:
        """So much of the parts is with the kernel. Never raises."""
        ...
