"""`despina serve` as a process whose doors may stand anywhere: TLS, Unix sockets, ports shared or passed on.

Unlike `servers.running_despina` it asks no door whether it is there: the log says where each one is, and every port is
chosen by the kernel.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conformance.servers import START_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DESPINA = str(Path(sys.executable).parent / "despina")
ANYWHERE = [f"--{door}-{what}" for door in ("http", "grpc", "metrics") for what in ("address=127.0.0.1", "port=0")]
STOP_S_MAX = 20.0

# What a service manager does between fork and exec: descriptors from 3 on, and the pid that the command will have.
_LAUNCH = """
import os, sys
given = [int(text) for text in sys.argv[1].split(",")]
for fd in given:
    os.dup2(fd, fd + 500)
for place, fd in enumerate(given):
    os.dup2(fd + 500, 3 + place)
os.closerange(3 + len(given), 1000)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Process:
    """A server that was started, and what it says."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self.child = child
        self.log = log

    @property
    def http_port(self) -> int:
        return int(self.place("HTTPService").rpartition(":")[2])

    @property
    def grpc_port(self) -> int:
        return int(self.place("GRPCInferenceService").rpartition(":")[2])

    def place(self, service: str) -> str:
        """Where that door listens, in the log's words. Waits until it does."""
        return self.said(rf"Started {service} at ([^\"\n]+)")

    def said(self, pattern: str) -> str:
        """The first group of the first match, once there is one. RuntimeError if the process ends before."""
        give_up = time.monotonic() + START_SECONDS_MAX
        while True:
            is_over = self.child.poll() is not None
            text = self.log.read_text(errors="replace")
            if match := re.search(pattern, text):
                return match[1]
            if is_over or time.monotonic() > give_up:
                raise RuntimeError(f"never said {pattern!r}: {self.child.args!r}\n{text[-4000:]}")
            time.sleep(0.02)

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """The exit code and all that was said. subprocess.TimeoutExpired if it goes on."""
        return self.child.wait(STOP_S_MAX), self.log.read_text(errors="replace")


@contextlib.contextmanager
def started(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> Iterator[Process]:
    """The child process of `command`, maybe not ready yet; killed when the block is left."""
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=descriptors,
            process_group=0,
        )
    try:
        yield Process(child, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def serving(models: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A server whose doors are open, on ports of 127.0.0.1 that the kernel chose unless `options` say otherwise."""
    with started(command(models, *options), log, environment) as process:
        process.place("Metrics Service")  # the last door
        yield process


def command(models: Path, *options: str) -> list[str]:
    """The command line; later options win over ANYWHERE."""
    names = {option.partition("=")[0] for option in options}
    defaults = [option for option in ANYWHERE if option.partition("=")[0] not in names]
    return [DESPINA, "serve", f"--model-repository={models}", *defaults, *options]


@contextlib.contextmanager
def activated(
    command_line: Sequence[str], log: Path, sockets: Sequence[socket.socket], **environment: str
) -> Iterator[Process]:
    """A process that finds `sockets` from descriptor 3 on, and LISTEN_PID and LISTEN_FDS in its environment, which
    `environment` may change."""
    descriptors = [sock.fileno() for sock in sockets]
    launcher = [sys.executable, "-c", _LAUNCH, ",".join(map(str, descriptors)), *command_line]
    variables = {"LISTEN_FDS": str(len(sockets)), **environment}
    with started(launcher, log, variables, descriptors) as process:
        yield process
