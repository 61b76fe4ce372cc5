"""The program of the process that forks models' processes off itself; see fork_server.py. One thread, no model's code.

It has imported what a model's process needs, so that a new one is ready at once and shares that memory with others.
"""

from __future__ import annotations

import array
import gc
import marshal
import os
import select
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from typing import Any, Final

from . import child
from .fork_server import PACKET_BYTES_MAX
from .frames import files_of

IDLE_S_MAX: Final = 10.0
"""Without any processes; then it ends."""
_LOOK_MS: Final = 1000


class _Forked(BaseException):
    """This is the new process: unwinds what belongs to the old one."""

    def __init__(self, link: int) -> None:
        self.link = link


def main(fd: int) -> None:
    """The process: never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with socket.socket(fileno=fd) as control:
            gc.collect()
            gc.freeze()
            _serve(control)
    except _Forked as forked:
        link = forked.link
    else:
        os._exit(0)
    child.main(link)


def _serve(control: socket.socket) -> None:
    """Until there is nobody to fork for."""
    owner = os.getppid()
    running: set[int] = set()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    idle_since = time.monotonic()
    while True:
        if running:
            idle_since = time.monotonic()
        if not poll.poll(_LOOK_MS):
            # Whoever was forked off the owner may hold the other end, too.
            if os.getppid() != owner or (not running and time.monotonic() - idle_since > IDLE_S_MAX):
                return
            continue
        said, ancillary, _, _ = control.recvmsg(PACKET_BYTES_MAX, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        if not said:
            return
        kind, *about = marshal.loads(said)
        if kind == "start":
            _start(control, running, about, files_of(ancillary))
        else:
            (pid,) = about
            running.discard(pid)
            _, status = os.waitpid(pid, 0)
            control.send(marshal.dumps((os.waitstatus_to_exitcode(status),)))


def _start(control: socket.socket, running: set[int], about: list[Any], files: list[int]) -> None:
    link, *outputs = files
    pid = -1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # BLAS has threads, and knows how to fork
            pid = os.fork()
    except OSError as error:
        control.send(marshal.dumps((str(error),)))
        return
    finally:
        if pid != 0:
            for file in files:
                os.close(file)
    if not pid:
        _become(about, outputs)
        raise _Forked(link)
    running.add(pid)
    pidfd = os.pidfd_open(pid)
    control.sendmsg([marshal.dumps((pid,))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))])
    os.close(pidfd)


def _become(about: list[Any], outputs: list[int]) -> None:
    """As a process that was started anew would be."""
    changed, removed, folder = about
    os.setsid()
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    for name in removed:
        del os.environb[name]
    os.environb.update(changed)
    with suppress(OSError):  # it may be gone
        os.chdir(folder)
    # Python's own random numbers are other ones in each process already.
    drawn: Any = sys.modules.get("numpy.random")
    if drawn is not None:
        drawn.seed()
