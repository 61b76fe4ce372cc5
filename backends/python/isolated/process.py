"""A model's own process, as the server sees it: started, told apart from its end, ended for certain.

It is the leader of a session of its own, so that a Ctrl-C in the server's terminal is not meant for it, and so that
what it has started ends with it. It ends when the server does: the link breaks, and the kernel says so, too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from ....schema.fault import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAM: Final = "from despina.backends.python.isolated.child import main; main({})"
_REAP_S: Final = 5.0


class ModelProcess:
    """One process. `sock` is the server's end of the link to it."""

    def __init__(self, python: str = sys.executable, environment: Mapping[str, str] | None = None) -> None:
        """Starts it. Raises Unavailable where that cannot be done."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                [python, "-P", "-c", _PROGRAM.format(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=None if environment is None else {**os.environ, **environment},
            )
        except (OSError, ValueError) as error:
            self.sock.close()
            raise Unavailable(f"unable to start '{python}' for a model: {error}") from error
        finally:
            theirs.close()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self.kill()
            self._process.wait()
            self.sock.close()
            raise Unavailable(f"unable to watch the process of a model: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """It and what it has started. Idempotent, does not wait."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def ended(self) -> str:
        """Waits for its end, and says how it came, e.g. `was ended by SIGSEGV`."""
        own = os.dup(self._pidfd)  # each is waited for by one task at a time
        try:
            while self._process.poll() is None:
                await trio.lowlevel.wait_readable(own)
        finally:
            os.close(own)
        return self.how()

    def how(self) -> str:
        """How it has ended."""
        code = self._process.returncode
        if code is None:
            return "has not ended"
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def reap(self) -> None:
        """Kills it, waits for its end and lets go of it. Blocks for a moment: what is killed ends."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)
        self.sock.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    async def aclose(self) -> None:
        """`reap` without blocking: killed, waited for, let go. Not to be cancelled."""
        self.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_S):
            await self.ended()
        self.reap()
