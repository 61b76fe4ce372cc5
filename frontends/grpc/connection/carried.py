"""The directions of a connection's socket that the door's carrier has (../../carrier.py) until it gives them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.tensor import Buffer
    from ...carrier import Carrier
    from .carrying import Carrying


class Carried:
    """Of one connection, which closes its socket only where `has_socket` is false: else it is closed here."""

    __slots__ = ("_carrier", "_connection", "receives", "sends")
    __deletable__ = ("_connection",)

    def __init__(self, connection: Carrying, carrier: Carrier) -> None:
        self._connection = connection
        self._carrier = carrier
        self.receives = False
        self.sends = False

    @property
    def has_socket(self) -> bool:
        return self.receives or self.sends

    def receive(self, place: memoryview) -> None:
        """Into that place; the connection is told. Raises RuntimeError where the carrier cannot begin."""
        self._carrier.receive(self._connection.sock, place, self._on_received)
        self.receives = True

    def send(self, parts: Sequence[Buffer]) -> None:
        """In their order; the connection is told. Raises as `receive`."""
        self._carrier.send(self._connection.sock, parts, self._on_sent)
        self.sends = True

    def let_go(self) -> None:
        """The connection is closed. It is not referred to from here any more, once its socket is closed, too."""
        if not self.has_socket:
            del self._connection

    def _on_received(self, count: int, problem: Exception | None) -> None:
        self.receives = False
        if self._is_wanted():
            self._connection.on_received(count, problem)

    def _on_sent(self, count: int, problem: Exception | None) -> None:
        self.sends = False
        if self._is_wanted():
            self._connection.on_sent(count, problem)

    def _is_wanted(self) -> bool:
        if not self._connection.is_closed:
            return True
        if not self.has_socket:
            self._connection.sock.close()
            del self._connection
        return False
