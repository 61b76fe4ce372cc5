"""Listening sockets that a service manager opened and passed on: systemd's socket activation.

LISTEN_FDS says how many, from descriptor 3 on, LISTEN_PID for which process, LISTEN_FDNAMES (optional) their names.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from .listening import BadAddress, Door

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_FIRST_FD: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_doors(services: Sequence[str], environment: MutableMapping[str, str]) -> dict[str, Door]:
    """The doors, of those that shall be open, whose sockets were passed on.

    A socket named as a door (`http`, `grpc`, `metrics`, `sagemaker`, `vertex-ai`, in any case) is that door's; a door
    may have several. The others go, in order, to the doors without one. The variables are removed, so that children do
    not take them for theirs. Raises BadAddress for what is no listening stream socket and for sockets left over.
    """
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if not count or (pid and pid != str(os.getpid())):
        return {}
    if not count.isascii() or not count.isdigit():
        raise BadAddress(f"LISTEN_FDS is no number: {count}")
    sockets = [_listening(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]
    labels = names.split(":") if names else []
    labels += [""] * (len(sockets) - len(labels))
    by_label = {service.lower().replace(" ", "-"): service for service in services}
    found: dict[str, list[socket.socket]] = {}
    unnamed = []
    for sock, label in zip(sockets, labels, strict=False):
        service = by_label.get(label.lower())
        if service is None:
            unnamed.append((sock, label))
        else:
            found.setdefault(service, []).append(sock)
    free = [service for service in services if service not in found]
    for (sock, label), service in zip(unnamed, free, strict=False):
        if label.lower() in ("http", "grpc", "metrics", "sagemaker", "vertex-ai"):
            raise BadAddress(f"a socket was passed on for the {label} door, which is not open")
        found[service] = [sock]
    if len(unnamed) > len(free):
        raise BadAddress(f"{len(sockets)} sockets were passed on for {len(services)} open doors")
    return {service: Door(service, mine) for service, mine in found.items()}


def _listening(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.setblocking(False)
            sock.set_inheritable(False)
            return sock
        sock.detach()
    except OSError as error:
        raise BadAddress(f"descriptor {fd} was passed on, but is no socket: {error.strerror}") from error
    raise BadAddress(f"descriptor {fd} was passed on, but is no listening stream socket")
