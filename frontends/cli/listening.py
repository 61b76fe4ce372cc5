"""Listening sockets: bound early, so that a taken port is found before models load; listening late, when they have."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import attrs

from .socket_access import SocketAccess

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 1024
EVERYBODY = SocketAccess()
"""Unless the umask says otherwise."""
UNIX = "unix:"
"""What an address begins with that is the path of a Unix socket."""


class PortTaken(Exception):
    """Somebody else listens there; the text is the protocol's."""


class BadAddress(Exception):
    """The address is no address of this machine, or none at all."""


@attrs.frozen
class Door:
    """One service's sockets: one per address that its name stands for."""

    service: str
    sockets: Sequence[socket.socket]
    own_path: OwnPath | None = None
    """The Unix socket's file, if this process made it."""

    @property
    def place(self) -> str:
        """`address:port` of the first socket, with the port that it really has, or `unix:path`."""
        return place_of(self.sockets[0])

    def listen(self) -> None:
        """From here on clients get in. Raises PortTaken when another process was quicker."""
        for sock in self.sockets:
            try:
                sock.listen(BACKLOG)
            except OSError as error:
                raise _renamed(error, place_of(sock)) from error

    def close(self) -> None:
        """Closes the sockets, and removes the file of a Unix socket unless somebody else has put his there."""
        for sock in self.sockets:
            sock.close()
        if self.own_path is not None:
            self.own_path.remove()


@attrs.frozen
class OwnPath:
    """A file that this process made, recognised by its inode."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> OwnPath:
        found = os.stat(path)
        return cls(path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)


def place_of(sock: socket.socket) -> str:
    """Where a socket listens, as people write it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UNIX + (name if isinstance(name, str) else "@" + os.fsdecode(name[1:]))
    address, port = name[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def bind_door(
    service: str, address: str, port: int, *, reuse_port: bool = False, access: SocketAccess = EVERYBODY
) -> Door:
    """Binds without listening. `address` may be a host name, IPv6 with or without brackets, or `unix:` and a path, for
    which the port means nothing, but `access` does; port 0 is any free one.

    Raises PortTaken or BadAddress.
    """
    if address.startswith(UNIX):
        return _bind_path(service, address.removeprefix(UNIX), access)
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
                raise _renamed(error, f"{address}:{port}") from error
            sockets.append(sock)
        undo.pop_all()
        return Door(service, sockets)


def _bind_path(service: str, path: str, access: SocketAccess) -> Door:
    """A Unix socket: a file, or a name that begins with `@` and lives in the kernel only. A file that a server left
    behind when it was killed is replaced; one that somebody listens at is not."""
    place = UNIX + path
    if not path or "\0" in path:
        raise BadAddress(f"{service}: cannot listen at '{place}': a path is expected")
    name = "\0" + path[1:] if path.startswith("@") else path
    if not path.startswith("@"):
        _remove_stale(path, place)
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.setblocking(False)
        try:
            sock.bind(name)
        except (OSError, ValueError) as error:
            raise _renamed(error, place) from error
        if path.startswith("@"):
            undo.pop_all()
            return Door(service, [sock])
        own = OwnPath.of(path)
        undo.callback(own.remove)
        try:
            access.apply(path)
        except OSError as error:
            raise BadAddress(f"cannot give '{place}' its owner and mode: {error.strerror}") from error
        undo.pop_all()
        return Door(service, [sock], own)


def _remove_stale(path: str, place: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise BadAddress(f"cannot listen at '{place}': there is a file that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a backlog that is full means that somebody is there
            probe.connect(path)
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            os.unlink(path)
    except BlockingIOError:
        raise PortTaken(f"Socket '{place}' already in use ") from None
    except OSError:
        return  # nothing is there, or binding will say what is wrong
    else:
        raise PortTaken(f"Socket '{place}' already in use ")


def _renamed(error: Exception, place: str) -> Exception:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return PortTaken(f"Socket '{place}' already in use ")
    return BadAddress(f"cannot listen at '{place}': {getattr(error, 'strerror', None) or error}")
