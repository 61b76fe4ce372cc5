"""What takes requests for a connection, without parsing them and past the handlers: see usual.py, the one that does."""

from __future__ import annotations

from typing import Final, Protocol

MADE_MAX: Final = 8
"""Of them, for one connection and generation. Clients that never repeat themselves, or ask for two models in turn, are
left alone after that."""


class ShortWay(Protocol):
    """One connection's. Everything is for the trio thread."""

    def submit(self, data: bytes) -> bool:
        """Takes what was received if it is such a request and nothing more. False, and nothing is done, if not."""
        ...

    def abandon(self) -> None:
        """The client of the request in flight has left."""
        ...

    def rest(self) -> None:
        """From time to time: lets go of what the last request held."""
        ...
