"""Byte-code instructions that the server's own thread executes for a request: a figure that noise does not touch.

    python tests/bench/instructions.py [--against CHECKOUT]

A server of this checkout, and of another one if named, runs with a trace function that counts opcodes while the load
is on. Tracing makes everything slow, so the seconds mean nothing, and instance threads are not counted: compare the
same row of two checkouts.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.cases import known_cases
from tests.bench.grpc_caller import grpc_callers
from tests.bench.http_caller import http_callers
from tests.bench.load import drive
from tests.bench.models import write_models
from tests.conformance.servers import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

CALLERS = {"http": http_callers, "grpc": grpc_callers}
CASES = ("ONNX add/sub", "ONNX add/sub, no batching", "ONNX MLP, batching", "identity 1 KiB")
CHECKOUT = Path(__file__).resolve().parents[2]


class Counter:
    """Counts the opcodes of the thread that takes the signals, from one SIGUSR1 to the next, then writes the count."""

    def __init__(self, file: Path) -> None:
        self.count = 0
        self._file = file
        self._running = False

    def toggle(self, *_: object) -> None:
        """The signal handler."""
        self._running = not self._running
        if self._running:
            self.count = 0
            sys.settrace(self._enter)
        else:
            sys.settrace(None)
            partial = self._file.with_suffix(".part")
            partial.write_text(str(self.count))
            partial.rename(self._file)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            self.count += 1
        return self._opcode


def serve(models: str, http_port: str, grpc_port: str, file: str) -> None:
    """The server process: `despina serve` with the counter."""
    from despina.frontends.cli import main as command

    signal.signal(signal.SIGUSR1, Counter(Path(file)).toggle)
    sys.argv = ["despina", "serve", "--model-repository", models, "--http-port", http_port, "--grpc-port", grpc_port]
    sys.argv += ["--allow-metrics", "false"]
    raise SystemExit(command())


class Counted:
    """A server of one checkout, counted on demand."""

    def __init__(self, checkout: Path, models: Path, folder: Path) -> None:
        self._file = folder / f"count-{checkout.name}"
        http_port, grpc_port = free_ports(2)
        self._ports = {"http": http_port, "grpc": grpc_port}
        arguments = ["--serve", str(models), str(http_port), str(grpc_port), str(self._file)]
        path = os.pathsep.join([str(checkout / ".editable"), str(CHECKOUT)])
        self._child = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def measure(self, protocol: str, case: str, concurrency: int, seconds: float) -> float:
        """Instructions a request."""

        def load(length: float) -> int:
            callers = CALLERS[protocol](known_cases()[case], "127.0.0.1", self._ports[protocol], concurrency)
            return drive(callers, length, 0.0, None).requests

        for attempt in range(100):
            try:
                load(0.4)
                break
            except OSError:
                if attempt == 99:
                    raise
                time.sleep(0.1)
        self._file.unlink(missing_ok=True)
        self._child.send_signal(signal.SIGUSR1)
        requests = load(seconds)
        self._child.send_signal(signal.SIGUSR1)
        while not self._file.exists():
            time.sleep(0.01)
        return int(self._file.read_text()) / requests

    def close(self) -> None:
        """Ends the process."""
        self._child.terminate()
        self._child.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args(arguments)
    checkouts = [CHECKOUT, *([options.against.resolve()] if options.against else [])]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        write_models(models)
        servers = [Counted(checkout, models, Path(folder)) for checkout in checkouts]
        print("| case | door | callers | " + " | ".join(checkout.name for checkout in checkouts) + " | ratio |")
        print("|---|---|---|" + "---|" * (len(checkouts) + 1))
        try:
            for case in options.cases:
                for protocol in CALLERS:
                    for concurrency in options.concurrency:
                        row = [server.measure(protocol, case, concurrency, options.seconds) for server in servers]
                        cells = " | ".join(f"{count:,.0f}" for count in row)
                        print(f"| {case} | {protocol} | {concurrency} | {cells} | {row[0] / row[-1]:.3f} |", flush=True)
        finally:
            for server in servers:
                server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    main()
