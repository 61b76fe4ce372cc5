"""Instructions that the server executes for a request: a figure that noise does not touch.

    python tests/bench/instructions.py [--bytecode] [--against CHECKOUT]

A server of this checkout, and of another one if named, runs under callgrind, which counts what the processor would
execute of its code and of all libraries, in thousands a request; the kernel's part is not counted. With --bytecode a
trace function counts Python's opcodes on the server's own thread, which needs no valgrind and starts sooner. Callers
ask in rounds: the server is stopped until the requests of all are there, so that each pass of its loop finds them
together, however busy the machine is. Compare the same row of two checkouts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.grpc_caller import grpc_callers
from tests.bench.http_caller import http_callers
from tests.bench.models import write_models
from tests.bench.run import KNOWN
from tests.bench.traffic import known_rows
from tests.conformance.servers import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from tests.bench.load import Caller

CALLERS = {"http": http_callers, "grpc": grpc_callers}
CASES = (*known_rows(), "ONNX add/sub", "ONNX add/sub, no batching", "ONNX MLP, batching")
MODELS = ("onnx_addsub", "onnx_addsub2", "onnx_addsub_single", "onnx_mlp")
INLINE = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }\n'
"""Models seem slow under the tool, and would move to threads and back."""
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

    unit = 1
    """Instructions."""

    def __init__(self, checkout: Path, models: Path, folder: Path) -> None:
        self._file = folder / f"count-{checkout.name}"
        http_port, grpc_port = free_ports(2)
        self._ports = {"http": http_port, "grpc": grpc_port}
        arguments = ["--serve", str(models), str(http_port), str(grpc_port), str(self._file)]
        path = os.pathsep.join([str(checkout / ".editable"), str(CHECKOUT)])
        self._child = subprocess.Popen(
            [*self._tool(), sys.executable, __file__, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _tool(self) -> list[str]:
        """What the server runs under."""
        return []

    def _counted(self, load: Callable[[], int]) -> float:
        """Instructions for each of the requests that `load` says it has made."""
        self._file.unlink(missing_ok=True)
        self._child.send_signal(signal.SIGUSR1)
        requests = load()
        self._child.send_signal(signal.SIGUSR1)
        while not self._file.exists():
            time.sleep(0.01)
        return int(self._file.read_text()) / requests

    def measure(self, protocol: str, case: str, concurrency: int, requests: int) -> float:
        """Instructions a request."""

        def load(count: int) -> int:
            callers = CALLERS[protocol](KNOWN[case], "127.0.0.1", self._ports[protocol], concurrency)
            return rounds(callers, count // concurrency, self._child.pid)

        for attempt in range(1200):
            try:
                load(requests // 2)
                break
            except OSError:
                if attempt == 1199:
                    raise
                time.sleep(0.1)
        return self._counted(lambda: load(requests)) / self.unit

    def close(self) -> None:
        """Ends the process."""
        self._child.terminate()
        self._child.wait()


def rounds(callers: Sequence[Caller], count: int, pid: int) -> int:
    """Lets all callers ask together, again when all have their answers, so many times. Closes the connections; how many
    requests were answered."""
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(contextlib.closing(select.epoll()))
        by_fd = {caller.connection.fileno(): caller for caller in callers}
        for caller in callers:
            stack.callback(caller.connection.close)
            poll.register(caller.connection, select.EPOLLIN)
        for _ in range(count):
            os.kill(pid, signal.SIGSTOP)
            for caller in callers:
                caller.start()
            os.kill(pid, signal.SIGCONT)
            left = len(callers)
            while left:
                for fd, _ in poll.poll():
                    left -= by_fd[fd].readable()
        return count * len(callers)


class MachineCounted(Counted):
    """The same by callgrind."""

    unit = 1000

    def _tool(self) -> list[str]:
        return ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._file}"]

    def _counted(self, load: Callable[[], int]) -> float:
        self._control("-z")
        self._control("-i", "on")
        requests = load()
        self._control("-i", "off")
        for old in self._file.parent.glob(f"{self._file.name}.*"):
            old.unlink()
        self._control("-d")
        (dump,) = self._file.parent.glob(f"{self._file.name}.*")
        (totals,) = [line for line in dump.read_text().splitlines() if line.startswith("totals:")]
        return int(totals.split()[1]) / requests

    def _control(self, *order: str) -> None:
        subprocess.run(["callgrind_control", *order, str(self._child.pid)], check=True, capture_output=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--bytecode", action="store_true", help="count Python's opcodes, and no machine instructions")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--protocols", nargs="*", choices=list(CALLERS), default=list(CALLERS))
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 8])
    parser.add_argument(
        "--requests", type=int, default=800, help="counted in each row: what else runs is shared by them"
    )
    options = parser.parse_args(arguments)
    checkouts = [CHECKOUT, *([options.against.resolve()] if options.against else [])]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        write_models(models, MODELS)
        for config in models.glob("*/config.pbtxt"):
            config.write_text(config.read_text() + INLINE)
        kind = Counted if options.bytecode else MachineCounted
        servers = [kind(checkout, models, Path(folder)) for checkout in checkouts]
        print("| case | door | callers | " + " | ".join(checkout.name for checkout in checkouts) + " | ratio |")
        print("|---|---|---|" + "---|" * (len(checkouts) + 1))
        try:
            for case in options.cases:
                for protocol in options.protocols:
                    for concurrency in options.concurrency:
                        row = [server.measure(protocol, case, concurrency, options.requests) for server in servers]
                        cells = " | ".join(f"{count:,.0f}" if count >= 1000 else f"{count:.1f}" for count in row)
                        print(f"| {case} | {protocol} | {concurrency} | {cells} | {row[0] / row[-1]:.3f} |", flush=True)
        finally:
            for server in servers:
                server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    main()
