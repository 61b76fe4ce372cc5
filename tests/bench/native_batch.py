"""What a native backend's batch costs besides the backend: CPU microseconds a request, identity of 1 KiB.

    python tests/bench/native_batch.py [--sketch FOLDER] [--against CHECKOUT]

Scope `batch` is what lies between engine and library: from jobs, with their requests, to their responses; `jobs` is the
same with what the engine makes of a batch anyhow: its jobs, and the batch.
A sketch is a folder with the C++ of a library that takes a batch in one call and has no server (core.cc, tsx.h);
sketch.py is its Python, from requests to outputs. It describes the tensors of each (`batch`), or only says where their
bytes are, as if all requests ever had one form (`one form`).
Each contestant is a process of its own; they take turns, and what is printed are the medians of the turns. Answers are
checked, byte for byte, in the first and the last batch of each turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

from despina.backends.native.instance import NativeInstance  # noqa: E402
from despina.backends.native.shapes import Shapes  # noqa: E402
from despina.engine.request.batch import Batch  # noqa: E402
from despina.engine.request.job import Job  # noqa: E402
from despina.native.loading import built_folder, extension  # noqa: E402
from despina.schema.inference import InferenceRequest  # noqa: E402
from despina.schema.tensor import Tensor  # noqa: E402
from despina.schema.wire.generated.inference import ModelConfig, ModelOutput  # noqa: E402

from tests.bench.sketch import MissingSketch, Sketch, build_sketch  # noqa: E402
from tests.native.conftest import SOURCES, compile_plugin  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BOOK: Any = SimpleNamespace(version_text="1", defers=False)
SIZES = (1, 8, 32)
BYTES = 1024
BATCH, JOBS, ONE_FORM = "batch", "jobs", "one form"
"""Scopes."""


def requests_of(size: int) -> list[InferenceRequest]:
    """Each with bytes of its own."""
    made = []
    for number in range(size):
        tensor = Tensor("INPUT0", "FP32", (1, BYTES // 4), bytes([number]) * BYTES)
        made.append(InferenceRequest("m", {"INPUT0": tensor}, id=f"request {number}"))
    return made


def batch_of(requests: Sequence[InferenceRequest]) -> Batch:
    """As the engine makes it."""
    jobs = [Job(request, None) for request in requests]
    for job in jobs:
        job.ledger = BOOK
    return Batch(jobs, len(jobs), "eager")


class Ours:
    """An instance without an engine."""

    def __init__(self, library: Path) -> None:
        native = extension()
        folder = str(library.parent)
        model, _ = native.model_open(str(library), "identity", folder, "{}", "m", 1, "/", "{}", False, None)
        native.model_settle(model, "{}", False, ["OUTPUT0"], [])
        address, _ = native.instance_open(model, "m_0", 1, 0, "{}")
        shapes = Shapes(ModelConfig(name="m", max_batch_size=256, output=[ModelOutput(name="OUTPUT0")]))
        self._instance = NativeInstance(native, address, "m_0", shapes, decoupled=False, on_close=lambda: None)

    def caller(self, scope: str, requests: Sequence[InferenceRequest]) -> Callable[[], object]:
        """Executes them. What it gives is for `answers`."""
        execute = self._instance.execute
        if scope == JOBS:

            def make_and_execute() -> Batch:
                batch = batch_of(requests)
                execute(batch)
                return batch

            return make_and_execute
        batch = batch_of(requests)

        def execute_only() -> Batch:
            execute(batch)
            return batch

        return execute_only

    @staticmethod
    def answers(batch: Any) -> list[tuple[str, str, tuple[int, ...], bytes]]:
        """Name, datatype, shape, bytes of each request's output."""
        found = []
        for job in batch.jobs:
            assert job.fault is None, job.fault
            (output,) = job.response.outputs
            found.append((output.name, output.datatype, tuple(output.shape), bytes(output.memory())))
        return found


def measure(contestant: Any, scope: str, size: int, seconds: float) -> float:
    """CPU microseconds a request in one turn."""
    requests = requests_of(size)
    right = [("OUTPUT0", "FP32", (1, BYTES // 4), request.inputs["INPUT0"].memory()) for request in requests]
    call = contestant.caller(scope, requests)
    assert contestant.answers(call()) == right
    batches = max(1, 128 // size)
    began, used, count = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < seconds:
        for _ in range(batches):
            last = call()
        count += batches * size
    used = time.process_time() - used
    assert contestant.answers(last) == right
    return used / count * 1e6


def serve(kind: str, library: str, folder: str) -> None:
    """A contestant's process: measures what its standard input asks for."""
    contestant = Ours(Path(library)) if kind == "ours" else Sketch(Path(library), Path(folder))
    for line in sys.stdin:
        scope, size, seconds = line.split()
        print(measure(contestant, scope, int(size), float(seconds)), flush=True)


class Contestant:
    """A process that waits for its turns."""

    def __init__(self, name: str, kind: str, library: Path, folder: Path, checkout: Path = CHECKOUT) -> None:
        self.name = name
        self.turns: dict[tuple[str, int], list[float]] = {}
        path = os.pathsep.join([str(checkout / ".editable"), str(CHECKOUT)])
        self._child = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, str(library), str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, scope: str, size: int, seconds: float) -> None:
        """Measures, and keeps the figure."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{scope} {size} {seconds}\n")
        self._child.stdin.flush()
        said = self._child.stdout.readline()
        if not said:
            raise SystemExit(f"{self.name}: ended by {self._child.wait()}")
        self.turns.setdefault((scope, size), []).append(float(said))

    def close(self) -> None:
        """Ends it."""
        self._child.communicate()


def compete(contestants: Sequence[tuple[Contestant, Sequence[str]]], options: argparse.Namespace) -> None:
    """Lets each contestant measure its scopes in turn, and prints a markdown table."""
    for _ in range(options.turns):
        for size in options.sizes:
            for contestant, scopes in contestants:
                for scope in scopes:
                    contestant.turn(scope, size, options.seconds)
    print("| scope | " + " | ".join(f"batch of {size}" for size in options.sizes) + " |")
    print("|---|" + "---|" * len(options.sizes))
    last, its_scopes = contestants[-1]
    bottom = its_scopes[-1]
    for contestant, scopes in contestants:
        for scope in scopes:
            cells = []
            for size in options.sizes:
                turns = contestant.turns[scope, size]
                ratio = statistics.median(map(float.__truediv__, turns, last.turns[bottom, size]))
                cells.append(f"{statistics.median(turns):.2f} ({ratio:.2f})")
            print(f"| {contestant.name}, {scope} | " + " | ".join(cells) + " |")
    print(f"\nIn brackets: median ratio of turns to {last.name}, {bottom}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sketch", type=Path, metavar="FOLDER", help="with core.cc and tsx.h; left out where it lacks")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="requests in a batch, at most 256")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = folder / "identity" / "libtriton_identity.so"
        compile_plugin(SOURCES / "identity.cc", library, built_folder() / "include")
        contestants = [(Contestant("this checkout", "ours", library, folder), (BATCH, JOBS))]
        if options.against:
            other = Contestant(options.against.name, "ours", library, folder, options.against.resolve())
            contestants.append((other, (BATCH, JOBS)))
        if options.sketch:
            try:
                build_sketch(options.sketch, folder)
                contestants.append((Contestant("the sketch", "sketch", library, folder), (BATCH, ONE_FORM)))
            except MissingSketch as problem:
                print(f"without the sketch: {problem}\n")
        try:
            compete(contestants, options)
        finally:
            for contestant, _ in contestants:
                contestant.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
