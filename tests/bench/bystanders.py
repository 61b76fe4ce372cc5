"""How long small requests wait beside large ones: `python tests/bench/bystanders.py --help`.

One caller asks a small model over and over, with a pause between; meanwhile others upload, send large JSON, or very
many texts, or a model takes much memory. Said is how long the small requests took: the 99th percentile and the longest.
DESPINA_REFERENCE_TRITON names the script that runs the reference server; without one our own figures stand alone.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import bystanders_grpc
from tests.bench.models import write_config, write_python
from tests.conformance.servers import reference_script, running_despina, running_in_process, running_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.synchronize import Event

PAUSE_S: Final = 0.002
QUIET_S: Final = 2.0
IDENTITY: Final = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]) for array in inputs]
"""
HUNGRY: Final = """import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()[0])
            total = np.ones(count, np.uint8)[:: 4096].sum()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.array([total], np.int64))]) for _ in requests]
"""


MODELS: Final = {"small": "FP32", "numbers": "FP32", "integers": "INT32", "texts": "STRING", "raw": "UINT8"}


def write_models(root: Path) -> None:
    """A small one, those of large requests, and one that takes as much memory as it is told to."""
    for name, datatype in (
        ("small", "FP32"),
        ("numbers", "FP32"),
        ("integers", "INT32"),
        ("texts", "STRING"),
        ("raw", "UINT8"),
    ):
        write_config(root, name, "python", 0, [("INPUT0", datatype, "-1")], [("OUTPUT0", datatype, "-1")])
        write_python(root, name, IDENTITY)
    write_config(root, "hungry", "python", 0, [("INPUT0", "INT64", "1")], [("OUTPUT0", "INT64", "1")])
    write_python(root, "hungry", HUNGRY)


@attrs.frozen
class Body:
    """An infer request."""

    model: str
    head: bytes
    data: bytes = b""
    """Binary, behind the head."""


def raw(model: str, datatype: str, shape: int, data: bytes) -> Body:
    """With one input, whose bytes follow the head; so does the output's."""
    tensor = {"name": "INPUT0", "datatype": datatype, "shape": [shape], "parameters": {"binary_data_size": len(data)}}
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return Body(model, json.dumps(head).encode(), data)


def large_json() -> list[Body]:
    """57 MiB of numbers as text."""
    data = b",".join([b"1234.5678"] * (57 * 2**20 // 10))
    head = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[%d],"data":[%b]}],"outputs":[{"name":"OUTPUT0",'
    head = head % (data.count(b",") + 1, data) + b'"parameters":{"binary_data":true}}]}'
    return [Body("numbers", head)]


def many_texts() -> list[Body]:
    """1,000,000 elements."""
    return [raw("texts", "BYTES", 1_000_000, (struct.pack("<I", 5) + b"hello") * 1_000_000)]


def large_bodies() -> list[Body]:
    """32 of 64 MiB, at once."""
    return [raw("raw", "UINT8", 64 * 2**20, bytes(64 * 2**20))] * 32


def large_upload() -> list[Body]:
    """512 MiB."""
    return [raw("raw", "UINT8", 512 * 2**20, bytes(512 * 2**20))]


def much_memory() -> list[Body]:
    """4 GiB, taken by the model."""
    return [raw("hungry", "INT64", 1, struct.pack("<q", 4 * 2**30))]


BESIDES: Final[dict[str, Callable[[], list[Body]] | None]] = {
    "nothing": None,
    "57 MiB of JSON": large_json,
    "1,000,000 texts": many_texts,
    "32 bodies of 64 MiB": large_bodies,
    "an upload of 512 MiB": large_upload,
    "a model that takes 4 GiB": much_memory,
}


def ask(port: int, body: Body) -> None:
    """Raises ValueError for an error, or an answer that is too short."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        fields = {"Content-Length": str(len(body.head) + len(body.data))}
        if body.data:
            fields["Inference-Header-Content-Length"] = str(len(body.head))
        connection.request("POST", f"/v2/models/{body.model}/infer", body=_parts(body), headers=fields)
        reply = connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise ValueError(f"{body.model}: {reply.status} {text[:200]!r}")
        if len(text) < len(body.data):
            raise ValueError(f"an answer of {len(text)} bytes")


def _parts(body: Body) -> list[bytes]:
    return [body.head, body.data]


@attrs.frozen
class Door:
    """How one is asked."""

    besides: Mapping[str, Callable[[], list[Any]] | None]
    """What makes the large requests of each kind."""
    ask: Callable[[int, Any], None]
    """One of these, at a port. Raises ValueError for an error, or an answer that is too short."""
    waits: Callable[[int, Callable[[], bool], float], list[float]]
    """How long each small request took, in seconds, with a pause between. Raises ValueError for a wrong answer."""


def disturb(door: str, port: int, kind: str, made: Event, begin: Event, over: Event) -> None:
    """In a process of its own, so that what it does is not measured: everything at once, when told to begin."""
    make = DOORS[door].besides[kind]
    assert make is not None, "nothing needs no process"
    bodies = make()
    failures: list[str] = []

    def one(body: Any) -> None:
        try:
            DOORS[door].ask(port, body)
        except (OSError, ValueError) as problem:
            failures.append(f"{kind}: {problem}")

    threads = [threading.Thread(target=one, args=(body,)) for body in bodies]
    made.set()
    begin.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    if failures:
        print("; ".join(sorted(set(failures))), file=sys.stderr, flush=True)


def waits(port: int, goes_on: Callable[[], bool], pause_s: float) -> list[float]:
    """How long each small request took, in seconds. Raises ValueError for a wrong answer."""
    body = raw("small", "FP32", 4, struct.pack("<4f", 1, 2, 3, 4))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    taken: list[float] = []
    with contextlib.closing(connection):
        while goes_on():
            fields = {"Inference-Header-Content-Length": str(len(body.head))}
            began = time.perf_counter()
            connection.request("POST", "/v2/models/small/infer", body=body.head + body.data, headers=fields)
            answer = connection.getresponse().read()
            taken.append(time.perf_counter() - began)
            if not answer.endswith(body.data):
                raise ValueError(f"wrong answer: {answer!r}")
            time.sleep(pause_s)
    return taken


DOORS: Final = {"http": Door(BESIDES, ask, waits)}
DOORS["grpc"] = Door(bystanders_grpc.BESIDES, bystanders_grpc.ask, bystanders_grpc.waits)


def measure(door: str, port: int, kind: str) -> tuple[list[float], float]:
    """The small requests' times, and how long the others took."""
    if DOORS[door].besides[kind] is None:
        until = time.monotonic() + QUIET_S
        return DOORS[door].waits(port, lambda: time.monotonic() < until, PAUSE_S), 0.0
    context = multiprocessing.get_context("spawn")
    made, begin, over = context.Event(), context.Event(), context.Event()
    others = context.Process(target=disturb, args=(door, port, kind, made, begin, over))
    others.start()
    made.wait()
    begin.set()
    began = time.monotonic()
    taken = DOORS[door].waits(port, lambda: not over.is_set(), PAUSE_S)
    lasted = time.monotonic() - began
    others.join()
    return taken, lasted


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--door", choices=list(DOORS), default="http")
    kinds = dict.fromkeys(kind for door in DOORS.values() for kind in door.besides)
    parser.add_argument(
        "--besides", nargs="*", choices=list(kinds), default=list(kinds), help="those that the door has"
    )
    parser.add_argument("--turns", type=int, default=3, help="how often the servers take turns in each row")
    parser.add_argument("--in-process", action="store_true", help="our models in the server's process")
    options = parser.parse_args(arguments)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load average {load}, {os.cpu_count()} cores\n")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_models(folder / "models")
        run = running_in_process if options.in_process else running_despina
        servers = {"Despina": stack.enter_context(run(folder / "models", folder))}
        if reference_script() is not None:
            (folder / "theirs").mkdir()
            servers["reference"] = stack.enter_context(running_reference(folder / "models", folder / "theirs"))
        door = options.door
        ports = {name: one.grpc_port if door == "grpc" else one.http_port for name, one in servers.items()}
        print("| beside | server | p99 ms | longest ms | of | the others took s |\n|---|---|---|---|---|---|")
        for kind in [kind for kind in options.besides if kind in DOORS[door].besides]:
            found: dict[str, list[float]] = {name: [] for name in ports}
            lasted = dict.fromkeys(ports, 0.0)
            for _ in range(options.turns):
                for name, port in ports.items():
                    taken, others = measure(door, port, kind)
                    found[name] += taken
                    lasted[name] = max(lasted[name], others)
            for name, taken in found.items():
                taken.sort()
                p99 = taken[min(len(taken) - 1, int(len(taken) * 0.99))]
                cells = f"{p99 * 1e3:.1f} | {taken[-1] * 1e3:.1f} | {len(taken)} | {lasted[name]:.1f}"
                print(f"| {kind} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
