"""Measures Despina, answers checked: `make bench`, or `python tests/bench/run.py --help`.

Prints markdown tables: CPU µs of the server (its whole process tree) and requests in a second, over HTTP, gRPC and in
process. The machine is noisy, so whoever is compared is measured in turns within one run: this server, the one named
with --against, and for add/sub the floor, a bare epoll loop that answers with canned bytes. Trust ratios of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.cases import Case, known_cases
from tests.bench.grpc_caller import grpc_callers
from tests.bench.http_caller import http_callers
from tests.bench.in_process import measure_engine
from tests.bench.load import Measured, drive
from tests.bench.models import write_models
from tests.bench.traffic import Row, known_rows
from tests.conformance.servers import free_ports, running_in_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CALLERS = {"http": http_callers, "grpc": grpc_callers}
FLOOR_CASE = "ONNX add/sub"
KNOWN = {**known_rows(), **known_cases()}
"""Traffic that varies first: nobody sends one request over and over."""


@attrs.frozen
class Target:
    """A server under load. `pid` is the root of its process tree, None where that is not on this machine."""

    name: str
    host: str
    http_port: int
    grpc_port: int
    pid: int | None

    def port(self, protocol: str) -> int:
        """The door for a protocol."""
        return self.http_port if protocol == "http" else self.grpc_port


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs everything that was asked for and prints as it goes."""
    options = parsed(arguments)
    cases = [case for name, case in KNOWN.items() if not options.cases or name in options.cases]
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        write_models(models)
        if not options.no_engine:
            print_engine(models, options)
        ours = stack.enter_context(running_in_process(models, folder))
        targets = [Target("Despina", "127.0.0.1", ours.http_port, ours.grpc_port, ours.pid)]
        targets += [opponent(index, text) for index, text in enumerate(options.against)]
        for protocol in options.protocols:
            floor = stack.enter_context(running_floor(ours.http_port))
            rows += print_protocol(protocol, cases, targets, floor, options)
    if options.json is not None:
        told = {"load average": os.getloadavg()[0], "cores": os.cpu_count(), "rows": rows}
        options.json.write_text(json.dumps(told, indent=1))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    against = "also measure this server; it must serve the benchmark's models (see --write-models)"
    parser.add_argument(
        "--against", action="append", default=[], metavar="HOST:HTTP_PORT:GRPC_PORT[:PID]", help=against
    )
    parser.add_argument("--cases", nargs="*", metavar="CASE", help=f"only these of: {', '.join(KNOWN)}")
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--protocols", nargs="*", choices=list(CALLERS), default=list(CALLERS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each server in each row")
    parser.add_argument("--turns", type=int, default=2, help="how often the servers take turns in each row")
    parser.add_argument("--no-engine", action="store_true", help="leave the engine in process out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows of the doors' tables")
    parser.add_argument("--write-models", type=Path, metavar="FOLDER", help="write the benchmark's models and stop")
    options = parser.parse_args(arguments)
    if options.write_models is not None:
        write_models(options.write_models)
        raise SystemExit(0)
    return options


def opponent(index: int, text: str) -> Target:
    """HOST:HTTP_PORT:GRPC_PORT[:PID]."""
    host, http_port, grpc_port, *pid = text.split(":")
    return Target(
        "other" if index == 0 else f"other {index + 1}",
        host,
        int(http_port),
        int(grpc_port),
        int(pid[0]) if pid else None,
    )


@contextlib.contextmanager
def running_floor(upstream_port: int) -> Iterator[Target]:
    """The floor server, which learns its one answer from ours."""
    (port,) = free_ports(1)
    script = Path(__file__).resolve().parent / "floor.py"
    child = subprocess.Popen([sys.executable, str(script), str(port), str(upstream_port)])
    try:
        time.sleep(0.3)
        yield Target("floor", "127.0.0.1", port, port, child.pid)
    finally:
        child.kill()
        child.wait()


def print_protocol(
    protocol: str, cases: Sequence[Case | Row], targets: Sequence[Target], floor: Target, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One table: a row for each case and concurrency, columns for each server. Returns them as values."""
    rows: list[dict[str, Any]] = []
    print(f"\n### {protocol.upper()}: CPU µs a request (requests a second)\n")
    names = [target.name for target in targets]
    print("| case | callers | " + " | ".join(names) + " | floor | ours in floors |")
    print("|---|---|" + "---|" * (len(names) + 2))
    for case in cases:
        for concurrency in options.concurrency:
            has_floor = isinstance(case, Row) or case.name.startswith(FLOOR_CASE)
            wanted = [*targets, *([floor] if has_floor else [])]
            found = measured_in_turns(protocol, case, wanted, concurrency, options.seconds, options.turns)
            cells = [shown(found[target.name]) for target in targets]
            unit = found.get("floor")
            ratio = found[targets[0].name].cpu_us / unit.cpu_us if unit and unit.cpu_us else None
            cells += [shown(unit) if unit else "", f"{ratio:.1f}" if ratio else ""]
            print(f"| {case.name} | {concurrency} | " + " | ".join(cells) + " |", flush=True)
            servers = {name: attrs.asdict(one) for name, one in found.items()}
            rows.append({"protocol": protocol, "case": case.name, "callers": concurrency, "servers": servers})
    return rows


def measured_in_turns(
    protocol: str, case: Case | Row, targets: Sequence[Target], concurrency: int, seconds: float, turns: int
) -> dict[str, Measured]:
    """Every target's figures; they take turns so that noise hits all of them. The floor always speaks HTTP, and has one
    answer for everything."""
    runs: dict[str, list[Measured]] = {target.name: [] for target in targets}
    for _ in range(turns):
        for target in targets:
            is_floor = target.name == "floor"
            spoken, asked = ("http", known_cases()[FLOOR_CASE]) if is_floor else (protocol, case)
            callers = CALLERS[spoken](asked, target.host, target.port(spoken), concurrency)
            warm_s = min(0.3, seconds / 4)
            runs[target.name].append(drive(callers, seconds / turns, warm_s, target.pid, learns=not is_floor))
    return {name: merged(parts) for name, parts in runs.items()}


def merged(parts: Sequence[Measured]) -> Measured:
    """Several turns as one."""
    requests = sum(part.requests for part in parts)
    cpu = [part.cpu_us * part.requests for part in parts if part.cpu_us is not None]
    return Measured(requests, sum(part.seconds for part in parts), sum(cpu) / requests if cpu else None)


def shown(measured: Measured) -> str:
    """A table's cell."""
    cpu = (
        "?"
        if measured.cpu_us is None
        else f"{measured.cpu_us:,.0f}"
        if measured.cpu_us >= 20
        else f"{measured.cpu_us:.1f}"
    )
    return f"{cpu} ({measured.per_second:,.0f})"


def print_engine(models: Path, options: argparse.Namespace) -> None:
    """The engine alone, inside this process: everything but the doors."""
    print("\n### Engine in process: CPU µs a request (requests a second)\n")
    print("| case | executor | 1 caller | 8 callers | 64 callers |\n|---|---|---|---|---|")
    for case, executor, row in measure_engine(models, options.seconds):
        print(f"| {case} | {executor} | " + " | ".join(shown(one) for one in row) + " |", flush=True)


if __name__ == "__main__":
    main()
