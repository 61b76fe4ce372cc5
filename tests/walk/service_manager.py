"""The part of a service manager: a notify socket that is read, and a watchdog that bites."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.walk.served import served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.walk.walking import Walk

WATCHDOG_S = 1.0
_STUCK = """
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(3600)
"""
_CONFIG = """
backend: "python"
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
parameters { key: "DESPINA_ISOLATION" value { string_value: "none" } }
parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }
"""
_ONE = b'{"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]}]}'


class NotifySocket:
    """A bound one; `heard` is every line so far, in order, and when it came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def listen(self, seconds: float) -> list[str]:
        """The next datagram's lines; none when nothing comes in time."""
        self._socket.settimeout(seconds)
        try:
            lines = self._socket.recv(65536).decode().splitlines()
        except TimeoutError:
            return []
        self.heard += [(time.monotonic(), line) for line in lines]
        return lines

    def hear(self, line: str, seconds: float = 30.0) -> None:
        """Until this line has come."""
        give_up = time.monotonic() + seconds
        while all(one != line for _, one in self.heard):
            assert time.monotonic() < give_up, f"{line} did not come: {self.heard}"
            self.listen(0.2)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def notify_socket() -> Iterator[NotifySocket]:
    """One with a short path, wherever the walk's folders are."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        manager = NotifySocket(Path(place) / "notify")
        with contextlib.closing(manager):
            yield manager


def notified(walk: Walk, despina: Path, models: Path, folder: Path) -> None:
    """The life of a server as its manager hears it."""
    with walk.step("a notify socket: STATUS while models load, READY=1, then STOPPING=1"):
        folder.mkdir()
        with notify_socket() as manager:
            environment = {"NOTIFY_SOCKET": str(manager.path)}
            with served(despina, models, folder / "told", environment=environment) as server:
                manager.hear("READY=1")
                assert server.terminate() == 0
                manager.hear("STOPPING=1")
        lines = [line for _, line in manager.heard]
        assert any(line.startswith("STATUS=") for line in lines[: lines.index("READY=1") + 1]), lines
        walk.note(next(line for line in lines if line.startswith("STATUS=")))


def bitten(walk: Walk, despina: Path, folder: Path) -> None:
    """As systemd with WatchdogSec=1: without WATCHDOG=1 for so long the process is killed, and started anew."""
    with walk.step("a model that never returns, on the engine's own loop: the watchdog starves, a new server serves"):
        folder.mkdir()
        model = folder / "models" / "stuck"
        (model / "1").mkdir(parents=True)
        (model / "1" / "model.py").write_text(_STUCK)
        (model / "config.pbtxt").write_text(_CONFIG)
        with notify_socket() as manager:
            environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6))}
            with served(despina, folder / "models", folder / "first", environment=environment) as server:
                manager.hear("READY=1")
                until = time.monotonic() + 2 * WATCHDOG_S
                fed = 0
                while time.monotonic() < until:
                    fed += "WATCHDOG=1" in manager.listen(WATCHDOG_S)
                assert fed >= 3, manager.heard
                request = urllib.request.Request(f"http://{server.http}/v2/models/stuck/infer", _ONE)
                with contextlib.suppress(TimeoutError, OSError):
                    urllib.request.urlopen(request, timeout=0.3)
                last = time.monotonic()
                while time.monotonic() - last < WATCHDOG_S:
                    if "WATCHDOG=1" in manager.listen(0.05):
                        last = time.monotonic()
                    assert time.monotonic() < until + 20 * WATCHDOG_S, "the watchdog was fed though the loop is stuck"
                walk.note(f"fed {fed} times in {2 * WATCHDOG_S:g} s before, not for {WATCHDOG_S:g} s after: SIGABRT")
                server.child.send_signal(signal.SIGABRT)
                assert server.child.wait(20) == -signal.SIGABRT
        with served(despina, folder / "models", folder / "second") as server:
            server.get("/v2/health/ready")
