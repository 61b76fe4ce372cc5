"""Starts models' processes in a millisecond: they are forked off one that has imported all they need, and ran nothing.

    ForkServer ──start: environment, folder; link, stdout, stderr──▶ forking.py ──fork──▶ child.main
        ▲  ◀──────────────────────────── its pid, and a pidfd ────────┘
        └── over: pid ──▶ waits for it ──▶ its status

One for each process of ours that has models, started when the first model is; it ends after a while without any, and
when that process does, whose models' processes end with it. No model's code runs in it, so nothing of one model's is
another one's. What is told is a packet of marshal's each.
"""

from __future__ import annotations

import array
import atexit
import marshal
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, Final

from ....schema.fault import Unavailable
from .frames import files_of

_PROGRAM: Final = "from despina.backends.python.isolated.forking import main; main({})"
PACKET_BYTES_MAX: Final = 1 << 17
_ONE_FILE: Final = socket.CMSG_SPACE(array.array("i").itemsize)
_ANSWER_S_MAX: Final = 20.0
"""It imports numpy before its first answer."""


class ForkServer:
    """The process that forks. For any thread."""

    def __init__(self) -> None:
        """Raises OSError where it cannot be started."""
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_ANSWER_S_MAX)
        self.owner_pid = os.getpid()
        self._environment = dict(os.environb)
        """As it was started with."""
        self._is_closed = False
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM.format(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                self._socket.close()
                raise

    def start(self, link: int) -> tuple[int, int]:
        """Forks a process that serves over the file `link`. Its pid, and a pidfd that is the caller's to close.

        Raises OSError where that does not work, ConnectionError once this has ended.
        """
        before, now = self._environment, dict(os.environb)
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        (said,), files = self._ask(("start", changed, [*(before.keys() - now.keys())], _folder()), (link, 1, 2))
        if not files:
            raise OSError(f"fork failed: {said}")
        return int(said), files[0]

    def status(self, pid: int) -> int | None:
        """How one has ended that is over: as Popen.returncode; None where nobody knows any more."""
        try:
            (status,), _ = self._ask(("over", pid), ())
        except OSError:
            return None
        return int(status)

    def close(self) -> None:
        """Its processes end with it."""
        with self._lock:
            self._is_closed = True
            self._socket.close()
        if self.owner_pid == os.getpid():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)

    def _ask(self, about: tuple[Any, ...], files: tuple[int, ...]) -> tuple[tuple[Any, ...], list[int]]:
        with self._lock:
            if self._is_closed:
                raise ConnectionError("the process that forks models' processes has ended")
            try:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
                self._socket.sendmsg([marshal.dumps(about)], ancillary)
                answer, came, _, _ = self._socket.recvmsg(PACKET_BYTES_MAX, _ONE_FILE, socket.MSG_CMSG_CLOEXEC)
            except OSError:  # an answer that comes later would be taken for another's
                self._is_closed = True
                self._socket.close()
                raise
        if not answer:
            raise ConnectionError("the process that forks models' processes has ended")
        return marshal.loads(answer), files_of(came)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return "/"


_starting: Final = threading.Lock()
_current: ForkServer | None = None


def start(link: int) -> tuple[ForkServer, int, int]:
    """Forks a process: who did it, its pid, and its pidfd. Blocks, the first time for as long as numpy takes to import.
    Raises Unavailable where that does not work."""
    try:
        for _ in range(2):
            server = _ours()
            try:
                return server, *server.start(link)
            except ConnectionError:  # it had nothing to do, and went home
                _forget(server)
        return (server := _ours()), *server.start(link)
    except OSError as error:
        raise Unavailable(f"unable to start a process for a model: {error}") from error


def _ours() -> ForkServer:
    global _current
    with _starting:
        if _current is None or _current.owner_pid != os.getpid():
            _current = ForkServer()
            atexit.register(_current.close)
        return _current


def _forget(server: ForkServer) -> None:
    global _current
    with _starting:
        if _current is server:
            _current = None
    server.close()
    atexit.unregister(server.close)
