"""Python models in processes of their own, beside the reference server's: `python tests/bench/isolated.py --help`.

Both run the same model.py files; the CPU of a request is that of the server and of the models' processes. Also: how
long a load takes, and what a model's process holds in memory when it has nothing to do. DESPINA_REFERENCE_TRITON names
the script that runs the reference server; without one our own figures stand alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.cases import known_cases
from tests.bench.models import ISOLATED_MODELS, write_models
from tests.bench.run import CALLERS, Target, measured_in_turns, shown
from tests.conformance.servers import Server, reference_script, running_despina, running_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOADED = "isolated_identity"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints as it goes."""
    options = parsed(arguments)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load average {load}, {os.cpu_count()} cores\n")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_models(folder / "models", tuple(ISOLATED_MODELS))
        servers = {"Despina": stack.enter_context(running_despina(folder / "models", made(folder / "ours"), EXPLICIT))}
        if reference_script() is not None:
            opponent = running_reference(folder / "models", made(folder / "theirs"), EXPLICIT)
            servers["reference"] = stack.enter_context(opponent)
        if options.loads:
            print_loads(servers, options.loads)
        for server in servers.values():
            for model in ISOLATED_MODELS:
                post(server, f"{model}/load")
        targets = [
            Target(name, "127.0.0.1", server.http_port, server.grpc_port, server.pid)
            for name, server in servers.items()
        ]
        print_costs(targets, options)


EXPLICIT = ("--model-control-mode=explicit",)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in known_cases() if name.startswith("isolated ")]
    parser.add_argument("--cases", nargs="*", metavar="CASE", default=names, help=f"of: {', '.join(names)}")
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--protocols", nargs="*", choices=list(CALLERS), default=list(CALLERS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each server in each row")
    parser.add_argument("--turns", type=int, default=2, help="how often the servers take turns in each row")
    parser.add_argument("--loads", type=int, default=5, help="how often a model is loaded and unloaded")
    return parser.parse_args(arguments)


def print_costs(targets: Sequence[Target], options: argparse.Namespace) -> None:
    """A row for each door, case and number of callers."""
    print("\nCPU µs a request, the models' processes included (requests a second)\n")
    print("| door | case | callers | " + " | ".join(target.name for target in targets) + " | ratio |")
    print("|---|---|---|" + "---|" * (len(targets) + 1))
    for protocol in options.protocols:
        for name in options.cases:
            for concurrency in options.concurrency:
                case = known_cases()[name]
                found = measured_in_turns(protocol, case, targets, concurrency, options.seconds, options.turns)
                ours, *theirs = [found[target.name] for target in targets]
                ratio = f"{ours.cpu_us / theirs[0].cpu_us:.2f}" if theirs and theirs[0].cpu_us and ours.cpu_us else ""
                cells = [protocol, name, str(concurrency), *map(shown, (ours, *theirs)), ratio]
                print("| " + " | ".join(cells) + " |", flush=True)


def print_loads(servers: dict[str, Server], count: int) -> None:
    """How long the load of a model takes, in turns, and what its process then holds."""
    lasted: dict[str, list[float]] = {name: [] for name in servers}
    held = {}
    for _ in range(count):
        for name, server in servers.items():
            before = set(descendants(server.pid))
            began = time.perf_counter()
            post(server, f"{LOADED}/load")
            lasted[name].append(time.perf_counter() - began)
            (child,) = (pid for pid in descendants(server.pid) if pid not in before and not [*descendants(pid)])
            held[name] = memory_kib(child)
            post(server, f"{LOADED}/unload")
            while child in descendants(server.pid):
                time.sleep(0.01)
    print("| server | load of a Python model, ms: median (all) | idle process, MiB: RSS, PSS, private |\n|---|---|---|")
    for name in servers:
        times = ", ".join(f"{1000 * one:.0f}" for one in lasted[name])
        kept = ", ".join(f"{kib / 1024:.1f}" for kib in held[name])
        print(f"| {name} | {1000 * statistics.median(lasted[name]):.0f} ({times}) | {kept} |")


def post(server: Server, command: str) -> None:
    """Of the model repository. Raises HTTPError where it is refused."""
    url = f"http://127.0.0.1:{server.http_port}/v2/repository/models/{command}"
    urllib.request.urlopen(urllib.request.Request(url, data=b"{}", method="POST"), timeout=60).close()


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and theirs."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from descendants(child)


def memory_kib(pid: int) -> tuple[int, int, int]:
    """RSS, PSS and what is the process's alone, of /proc/PID/smaps_rollup."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name] = int(size)
    return sizes["Rss:"], sizes["Pss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"]


def made(folder: Path) -> Path:
    """The folder, which is new."""
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
