"""A server whose Python model ends its process in every way: `python -m tests.conformance.chaos FOLDER SECONDS`.

Prints one line of JSON: what clients got, what the process held before and after, how long a neighbour's answers took.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import despina
import numpy as np
import onnx
import trio
from despina.frontends.grpc import GrpcSettings, serve_grpc
from despina.frontends.http import HttpSettings, serve_http

CLIENTS = 32
KILL_EVERY_S = 0.2
MODEL = """
import ctypes, os, signal, time
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            what = int(x[0])
            if what == 1: os.kill(os.getpid(), signal.SIGSEGV)
            if what == 2: os._exit(3)
            if what == 3: time.sleep(600)
            if what == 4: bytearray(4 << 30)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x * 2)]))
        return responses
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 2 }]
parameters { key: "DESPINA_ISOLATION" value { string_value: "process" } }
parameters { key: "DESPINA_EXECUTION_SECONDS_MAX" value { string_value: "0.5" } }
parameters { key: "DESPINA_MEMORY_BYTES_MAX" value { string_value: "1073741824" } }
"""


def write_models(folder: Path) -> None:
    """The model of trouble, and its neighbour."""
    (folder / "trouble" / "1").mkdir(parents=True)
    (folder / "trouble" / "config.pbtxt").write_text(CONFIG)
    (folder / "trouble" / "1" / "model.py").write_text(MODEL)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["IN", "IN"], ["OUT"])],
        "twice",
        [value("IN", onnx.TensorProto.INT32, [None])],
        [value("OUT", onnx.TensorProto.INT32, [None])],
    )
    (folder / "twice" / "1").mkdir(parents=True)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "twice" / "1" / "model.onnx")


class Clients:
    """Ask the model of trouble, each its door; in a process of their own, threads as tritonclient wants them."""

    def __init__(self, http_port: int, grpc_port: int, seconds: float) -> None:
        self.ports = {"http": http_port, "grpc": grpc_port}
        self.give_up = time.monotonic() + seconds
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.neighbour_s: list[float] = []

    def ask(self, door: str, seed: int) -> None:
        import tritonclient.grpc
        import tritonclient.http

        module: Any = tritonclient.http if door == "http" else tritonclient.grpc
        chance = random.Random(seed)
        with module.InferenceServerClient(f"127.0.0.1:{self.ports[door]}") as client:
            while time.monotonic() < self.give_up:
                size = chance.choice([1, 10, 1000, 50_000])
                data = np.full(size, 7, np.int32)
                data[0] = chance.choices([0, 1, 2, 3, 4], [1000, 2, 2, 1, 2])[0]
                given = module.InferInput("IN", [size], "INT32")
                given.set_data_from_numpy(data)
                try:
                    got = client.infer("trouble", [given]).as_numpy("OUT")
                    self.outcomes["answer" if np.array_equal(got, data * 2) else "WRONG ANSWER"] += 1
                except Exception as error:
                    self.outcomes[_kind(str(error))] += 1

    def ask_neighbour(self) -> None:
        import tritonclient.http

        given = tritonclient.http.InferInput("IN", [4, 1], "INT32")
        given.set_data_from_numpy(np.arange(4, dtype=np.int32).reshape(4, 1))
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{self.ports['http']}") as client:
            while time.monotonic() < self.give_up:
                began = time.monotonic()
                assert client.infer("twice", [given]).as_numpy("OUT").ravel().tolist() == [0, 2, 4, 6]
                self.neighbour_s.append(time.monotonic() - began)
                time.sleep(0.01)


def _kind(text: str) -> str:
    for kind in ("is not healthy", "MemoryError"):
        if kind in text:
            return kind
    return f"UNCLEAR: {text[:200]}"


def clients(http_port: int, grpc_port: int, seconds: float) -> dict[str, Any]:
    """What they got."""
    import threading

    asked = Clients(http_port, grpc_port, seconds)
    threads = [
        threading.Thread(target=asked.ask, args=("http" if index % 2 else "grpc", index)) for index in range(CLIENTS)
    ]
    threads.append(threading.Thread(target=asked.ask_neighbour))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(asked.neighbour_s)
    return {
        "outcomes": dict(asked.outcomes),
        "neighbour_answers": len(times),
        "neighbour_p50_ms": 1000 * times[len(times) // 2],
        "neighbour_p99_ms": 1000 * times[int(0.99 * len(times))],
        "neighbour_longest_ms": 1000 * times[-1],
    }


def processes(of: int | None = None) -> list[int]:
    """Those that serve models: they have started none themselves, and were started by those that do nothing else."""
    found: list[int] = []
    for task in Path(f"/proc/{of or os.getpid()}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            try:
                found += processes(pid) or [pid]
            except FileNotFoundError:
                continue  # it has ended
    return found


def held() -> dict[str, int]:
    """What this process holds now."""
    status = Path("/proc/self/status").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "processes": len(processes()),
        "segments": Path("/proc/self/maps").read_text().count("memfd:despina"),
        "rss_kb": int(status.partition("VmRSS:")[2].split()[0]),
    }


def _listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


async def _settled(engine: despina.Engine) -> dict[str, int]:
    """What is held once all instances serve again, and have been used."""
    with trio.fail_after(60):
        while not engine.is_ready():  # noqa: ASYNC110  other processes bring it about
            await trio.sleep(0.05)
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(engine.infer, "trouble", {"IN": np.zeros(50_000, np.int32)})
    await trio.sleep(0.5)
    return held()


async def _kill(engine: despina.Engine, own: set[int], kills: list[int]) -> None:
    """Ends a model's process now and then, while one serves."""
    chance = random.Random(1)
    while True:
        await trio.sleep(KILL_EVERY_S)
        models = [pid for pid in processes() if pid not in own]
        if models and engine.is_model_ready("trouble"):
            kills.append(chance.choice(models))
            try:
                os.kill(kills[-1], signal.SIGKILL)
            except ProcessLookupError:
                kills.pop()


async def main(folder: Path, seconds: float) -> None:
    write_models(folder)
    restart = despina.Restart(limit=100_000, backoff_min_s=0.05, backoff_max_s=0.2)
    ports = [_listening(), _listening()]
    http_port, grpc_port = (sock.getsockname()[1] for sock in ports)
    kills: list[int] = []
    async with despina.open_engine(folder, restart=restart) as engine, trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, engine, HttpSettings(), sockets=ports[:1]))
        await nursery.start(partial(serve_grpc, engine, GrpcSettings(), sockets=ports[1:]))
        before = await _settled(engine)
        models = set(processes())
        program = [sys.executable, "-m", "tests.conformance.chaos", "clients"]
        command = [*program, str(http_port), str(grpc_port), str(seconds)]
        process = await trio.lowlevel.open_process(command, stdout=-1)
        async with trio.open_nursery() as trouble:
            trouble.start_soon(_kill, engine, {process.pid}, kills)
            assert process.stdout is not None
            said = b""
            async for part in process.stdout:
                said += part
            await process.wait()
            trouble.cancel_scope.cancel()
        after = await _settled(engine)
        found = {**json.loads(said), "kills": len(kills), "before": before, "after": after}
        assert models.isdisjoint(processes()), "every process was ended at least once"
        print(json.dumps(found))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    if sys.argv[1] == "clients":
        print(json.dumps(clients(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
    else:
        trio.run(main, Path(sys.argv[1]), float(sys.argv[2]))
