"""A server as an operator starts it: its command, free ports, a log file, an environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.conformance.servers import free_ports, wait_until_live

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOORS = ("http", "grpc", "metrics")


@attrs.frozen
class Served:
    """One that runs. `log` is what `--log-file` names, `said` what came on its standard outputs."""

    child: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path
    said: Path

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=20) as answer:
            return bytes(answer.read())

    def terminate(self, seconds: float = 60.0) -> int:
        """SIGTERM, and its exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(seconds)


@contextlib.contextmanager
def served(
    despina: Path, models: Path, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Starts `despina serve` over `models` and waits until it is live. `folder` is made, for its log."""
    folder.mkdir(parents=True)
    ports = free_ports(3)
    command = [str(despina), "serve", "--model-repository", str(models), "--log-file", str(folder / "log")]
    for door, port in zip(DOORS, ports, strict=True):
        command += [f"--{door}-address=127.0.0.1", f"--{door}-port={port}"]
    surroundings = {**os.environ, **(environment or {})}
    with (folder / "said").open("wb") as said:
        child = subprocess.Popen([*command, *options], stdout=said, stderr=said, env=surroundings, process_group=0)
    try:
        wait_until_live(child, ports[0], folder / "log" if (folder / "log").exists() else folder / "said")
        yield Served(child, *ports, folder / "log", folder / "said")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
