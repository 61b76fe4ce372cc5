"""Listening sockets: bound early, so that a taken port is found before models load; listening late, when they have."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 1024


class PortTaken(Exception):
    """Somebody else listens there; the text is the protocol's."""


class BadAddress(Exception):
    """The address is no address of this machine, or none at all."""


@attrs.frozen
class Door:
    """One service's sockets: one per address that its name stands for."""

    service: str
    sockets: Sequence[socket.socket]

    @property
    def place(self) -> str:
        """`address:port` of the first socket, with the port that it really has."""
        address, port = self.sockets[0].getsockname()[:2]
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def listen(self) -> None:
        """From here on clients get in. Raises PortTaken when another process was quicker."""
        for sock in self.sockets:
            try:
                sock.listen(BACKLOG)
            except OSError as error:
                raise _renamed(error, *sock.getsockname()[:2]) from error

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def bind_door(service: str, address: str, port: int, *, reuse_port: bool = False) -> Door:
    """Binds without listening. `address` may be a host name or IPv6, with or without brackets; port 0 is any free one.

    Raises PortTaken or BadAddress.
    """
    host = address.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BadAddress(f"{service}: cannot listen at '{address}:{port}': {error}") from None
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for family, kind, protocol, _, where in found:
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                alone = len(found) > 1 or where[0] != "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(alone))
            # A name with two addresses gets one port, whichever the first socket found free.
            target = (where[0], sockets[0].getsockname()[1] if sockets and not port else where[1], *where[2:])
            try:
                sock.bind(target)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and sockets:
                    continue  # `localhost` may name an address that this machine does not have
                raise _renamed(error, address, port) from error
            sockets.append(sock)
        undo.pop_all()
        return Door(service, sockets)


def _renamed(error: OSError, address: str, port: int) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return PortTaken(f"Socket '{address}:{port}' already in use ")
    return BadAddress(f"cannot listen at '{address}:{port}': {error.strerror}")
