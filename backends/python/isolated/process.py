"""A model's own process, as the server sees it: started, told apart from its end, ended for certain.

It is the leader of a session of its own, so that a Ctrl-C in the server's terminal is not meant for it, and so that
what it has started ends with it. It ends when the server does: the link breaks, and the kernel says so, too.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import attr
import attrs
import trio

from ....schema.fault import Unavailable
from . import fork_server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .fork_server import ForkServer

_PROGRAM: Final = (
    "import sys; sys.path[:] = filter(None, sys.path); sys.path.append({!r}); import despina_beside; "
    "from despina.backends.python.isolated.child import main; main({})"
)
_HERE: Final = Path(__file__).parent
_PACKAGES: Final = [str(_HERE.parents[2]), *(module.__path__[0] for module in (attr, attrs))]
_REAP_S: Final = 5.0


@attrs.frozen(kw_only=True)
class Program:
    """What executes a model's process, if it is not forked."""

    python: str = sys.executable
    variables: Mapping[str, str] = attrs.field(factory=dict)
    """What its environment has besides the server's."""
    at_terminal: bool = False
    """It reads what is typed at the server's terminal. In a session of its own: Ctrl-C stays the server's."""


class ModelProcess:
    """One process. `sock` is the server's end of the link to it."""

    def __init__(self, program: Program | None = None) -> None:
        """Starts it: forked off one that has imported what it needs; by a program, on the calling thread's cores, where
        one is given. Blocks for a moment. Raises Unavailable where that cannot be done."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._code: int | None = None
        self._is_over = False
        self._started: _Started
        try:
            with theirs:
                if program is None:
                    server, self.pid, self._pidfd = fork_server.start(theirs.fileno())
                    self._started = _Forked(server, self.pid)
                else:
                    self._started = _Executed(_executed(program, theirs))
                    self.pid = self._started.process.pid
                    self._pidfd = self._started.watched()
        except BaseException:
            self.sock.close()
            raise

    def kill(self) -> None:
        """It and what it has started. Idempotent, does not wait."""
        if not self._is_over:  # else its number may be another's
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            with suppress(ProcessLookupError, PermissionError):  # it may not lead its session yet
                os.killpg(self.pid, signal.SIGKILL)

    async def ended(self) -> str:
        """Waits for its end, and says how it came, e.g. `was ended by SIGSEGV`."""
        if not self._is_over:
            own = os.dup(self._pidfd)  # each is waited for by one task at a time
            try:
                await trio.lowlevel.wait_readable(own)
            finally:
                os.close(own)
            self._end()
        return self.how()

    def how(self) -> str:
        """How it has ended."""
        if not self._is_over:
            return "has not ended"
        code = self._code
        if code is None:
            return "was ended with the process that had forked it"
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def reap(self) -> None:
        """Kills it, waits for its end and lets go of it. Blocks for a moment: what is killed ends."""
        self.kill()
        self.sock.close()
        if self._pidfd < 0:
            return
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if poll.poll(_REAP_S * 1000):
            self._end()
        os.close(self._pidfd)
        self._pidfd = -1

    async def aclose(self) -> None:
        """`reap` without blocking: killed, waited for, let go. Not to be cancelled."""
        self.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_S):
            await self.ended()
        self.reap()

    def _end(self) -> None:
        """It has ended: what it has started does, too."""
        if not self._is_over:
            self.kill()
            self._is_over = True
            self._code = self._started.status()


class _Started(Protocol):
    def status(self) -> int | None:
        """Of one that has ended: as Popen.returncode. Then the number is free."""
        ...


@attrs.frozen
class _Forked:
    server: ForkServer
    pid: int

    def status(self) -> int | None:
        return self.server.status(self.pid)


@attrs.frozen
class _Executed:
    process: subprocess.Popen[bytes]

    def status(self) -> int | None:
        return self.process.wait(_REAP_S)

    def watched(self) -> int:
        """A pidfd."""
        try:
            return os.pidfd_open(self.process.pid)
        except OSError as error:
            self.process.kill()
            self.process.wait()
            raise Unavailable(f"unable to watch the process of a model: {error}") from error


def _executed(program: Program, link: socket.socket) -> subprocess.Popen[bytes]:
    packages = os.pathsep.join(_PACKAGES)
    try:
        return subprocess.Popen(
            [program.python, "-c", _PROGRAM.format(str(_HERE / "path"), link.fileno())],
            pass_fds=(link.fileno(),),
            stdin=None if program.at_terminal else subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "DESPINA_PACKAGES": packages, **program.variables},
        )
    except (OSError, ValueError) as error:
        raise Unavailable(f"unable to start '{program.python}' for a model: {error}") from error
