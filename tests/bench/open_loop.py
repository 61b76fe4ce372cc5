"""How long requests take at a rate that the server does not choose: `make latency`, or `open_loop.py --help`.

First a closed loop finds what each server can do. Then requests that vary come at a share of the slower server's
capacity, the same for both, and of each one's own, at random times or at equal distances; the servers take turns. Waits
begin when requests are due. Python models run in processes of their own, as is the default of both servers, and in ours
once more in its own process; ONNX models run in ours alone. DESPINA_REFERENCE_TRITON names the script that runs the
reference server; without one our own figures stand alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.arrivals import ARRIVALS, SHARES, Waits, due_times, flood, ranked, together
from tests.bench.load import drive
from tests.bench.models import write_models
from tests.bench.run import CALLERS, Target
from tests.bench.traffic import Row
from tests.conformance.servers import reference_script, running_despina, running_in_process, running_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIES = frozenset({"values", "uuid", "rows", "traceparent", "outputs", "parameters"})
ROWS = {
    name: Row(name, VARIES, model=model)
    for name, model in {"Python add/sub": "simple", "ONNX add/sub": "onnx_addsub", "ONNX MLP": "onnx_mlp"}.items()
}
OF_PYTHON = ("Python add/sub",)
"""What every server serves."""


@attrs.frozen
class Load:
    """A rate: a share of what a server can do, and of which server's that is."""

    share: float
    of: str
    """The slower one's, which is the same rate for all, or their own."""
    arrivals: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints as it goes."""
    options = parsed(arguments)
    print(f"Load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {options.connections} connections")
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = stack.enter_context(serving(folder))
        for model in options.models:
            able = targets if model in OF_PYTHON else targets[:1]
            for door in options.protocols:
                rows += print_waits(door, ROWS[model], able, options)
    if options.json is not None:
        told = {"load average": os.getloadavg()[0], "cores": os.cpu_count(), "waits": rows}
        options.json.write_text(json.dumps(told, indent=1))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(ROWS), default=list(ROWS), metavar="MODEL")
    parser.add_argument("--protocols", nargs="*", choices=list(CALLERS), default=list(CALLERS))
    parser.add_argument("--shares", nargs="*", type=float, default=[0.5, 0.8], help="of a server's capacity")
    parser.add_argument("--of", nargs="*", choices=["slower", "own"], default=["slower", "own"], help="which server's")
    parser.add_argument("--arrivals", nargs="*", choices=ARRIVALS, default=list(ARRIVALS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of requests for each server in each row")
    parser.add_argument("--turns", type=int, default=5, help="how often the servers take turns in each row")
    parser.add_argument("--connections", type=int, default=128, help="on which requests may be under way")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[list[Target]]:
    """The servers, ours first."""
    all_models, python = folder / "all", folder / "python"
    write_models(all_models, tuple(row.model for row in ROWS.values()))
    write_models(python, tuple(ROWS[name].model for name in OF_PYTHON))
    kinds = {
        "Despina": (running_despina, all_models),
        "Despina, in process": (running_in_process, python),
        "reference": (running_reference, python),
    }
    if reference_script() is None:
        del kinds["reference"]
    with contextlib.ExitStack() as stack:
        targets = []
        for name, (run, models) in kinds.items():
            (folder / name).mkdir()
            server = stack.enter_context(run(models, folder / name))
            targets.append(Target(name, "127.0.0.1", server.http_port, server.grpc_port, server.pid))
        yield targets


def print_waits(
    door: str, row: Row, targets: Sequence[Target], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One table: a row for each load and server. Yields them as values."""
    able = capacities(door, row, targets, options)
    said = ", ".join(f"{name} {rate:,.0f}" for name, rate in able.items())
    print(f"\n### {door.upper()}, {row.name}: in a closed loop {said} a second\n")
    print("| arrivals | of capacity | server | a second | p50 ms | p90 | p99 (of turns) | p99.9 | longest", end="")
    print(" | sent late, p99 | CPU µs |\n|---|---|---|---|---|---|---|---|---|---|---|")
    for load in loads(options, len(targets)):
        rates = {
            name: load.share * (min(able.values()) if load.of == "slower" else rate) for name, rate in able.items()
        }
        for name, turns in in_turns(door, row, targets, load.arrivals, rates, options).items():
            waits = together(turns)
            p99s = [turn.within_ms(0.99) for turn in turns]
            cells = [
                load.arrivals,
                f"{load.share:.0%} of {load.of}",
                name,
                f"{len(waits.seconds) / waits.lasted_s:,.0f}",
            ]
            cells += [f"{waits.within_ms(share):.2f}" for share in (0.5, 0.9)]
            cells.append(f"{waits.within_ms(0.99):.2f} ({statistics.median(p99s):.2f})")
            cells += [f"{waits.within_ms(share):.2f}" for share in (0.999, 1.0)]
            cells.append(f"{1e3 * ranked(waits.late, 0.99):.2f}")
            cells.append("?" if waits.cpu_us is None else f"{waits.cpu_us:,.0f}")
            print("| " + " | ".join(cells) + " |", flush=True)
            yield {
                "protocol": door,
                "model": row.name,
                "server": name,
                **attrs.asdict(load),
                "per_second": rates[name],
                "requests": len(waits.seconds),
                "cpu_us": waits.cpu_us,
                "within_ms": [(share, waits.within_ms(share)) for share in SHARES],
                "p99_ms_of_turns": p99s,
                "late_p99_ms": 1e3 * ranked(waits.late, 0.99),
            }


def loads(options: argparse.Namespace, servers: int) -> Iterator[Load]:
    """What is asked for; a single server is the slower one."""
    for arrivals in options.arrivals:
        for of in options.of if servers > 1 else ["own"]:
            for share in options.shares:
                yield Load(share, of, arrivals)


def capacities(door: str, row: Row, targets: Sequence[Target], options: argparse.Namespace) -> dict[str, float]:
    """How many requests a second each server answers to callers who ask again at once: the median of turns."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for _ in range(options.turns):
        for target in targets:
            callers = CALLERS[door](row, target.host, target.port(door), max(1, options.connections // 2))
            seconds = options.seconds / options.turns / 2
            found[target.name].append(drive(callers, seconds, seconds / 4, target.pid, learns=True).per_second)
    return {name: statistics.median(rates) for name, rates in found.items()}


def in_turns(
    door: str,
    row: Row,
    targets: Sequence[Target],
    arrivals: str,
    rates: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, list[Waits]]:
    """What became of the requests of each turn, by server."""
    found: dict[str, list[Waits]] = {target.name: [] for target in targets}
    for turn in range(options.turns):
        for target in targets:
            callers = CALLERS[door](row, target.host, target.port(door), options.connections)
            due = due_times(rates[target.name], options.seconds / options.turns, arrivals, turn)
            found[target.name].append(flood(callers, due, target.pid))
    return found


if __name__ == "__main__":
    main()
