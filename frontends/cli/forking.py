"""Processes that a model forks: they are no servers. With the doors' sockets a port would stay taken after the server
has gone, and clients of closed connections would wait for ever; with its signal handlers they could not be ended.

Programs that a model starts are no matter: sockets close on exec, and handlers go.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ANY: Final = ("0.0.0.0", "::")
_kept: set[object] = set()
"""The places of listening sockets: (address, port), or the path. Connections have that of the door they came by."""


def keep_from_children(sockets: Iterable[socket.socket]) -> None:
    """From here on a forked child begins without these bound sockets and the connections that came in by them.

    For the rest of the process: a place is not forgotten when its door closes.
    """
    if not _kept:
        os.register_at_fork(after_in_child=_let_go)
    _kept.update(_place(sock) for sock in sockets)


def _let_go() -> None:
    """Runs in the child. Numbers stay in use, for nothing: objects that it inherited may close them once more."""
    signal.set_wakeup_fd(-1)  # it would wake the server
    for number in _SIGNALS:
        if getattr(signal.getsignal(number), "__module__", "").startswith("trio."):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in _sockets():
        with socket.socket(fileno=descriptor) as sock:
            if _came_by_a_door(sock):
                os.dup2(nowhere, descriptor, inheritable=False)
            sock.detach()
    os.close(nowhere)


def _sockets() -> Iterator[int]:
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                yield int(name)
        except OSError:
            continue  # it was the listing's own


def _came_by_a_door(sock: socket.socket) -> bool:
    try:
        place = _place(sock)
    except OSError:
        return False
    return place in _kept or (isinstance(place, tuple) and any((address, place[1]) in _kept for address in _ANY))


def _place(sock: socket.socket) -> object:
    name = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return name[0].removeprefix("::ffff:"), name[1]
    return name if sock.family == socket.AF_UNIX and name else None
