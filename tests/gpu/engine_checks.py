"""Checks of each backend on the device, in an engine of this process, and of what they are built on."""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.gpu.machine import Skipped, free_bytes, need
from tests.gpu.models import DOUBLING, WIDTH_MAX, write_onnx, write_plan, write_torchscript

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEAK_BYTES_MAX = 8 << 20
GRAPHS = """optimization { cuda { graphs: true
  graph_spec { batch_size: 1 input { key: "IN" value { dim: [8] } } }
  graph_spec { batch_size: 8 input { key: "IN" value { dim: [64] } }
    graph_lower_bound { batch_size: 2 input { key: "IN" value { dim: [1] } } } } } }
"""
TENSORRT = """optimization { execution_accelerators { gpu_execution_accelerator [{ name: "tensorrt"
  parameters { key: "precision_mode" value: "FP32" }
  parameters { key: "max_workspace_size_bytes" value: "268435456" } }] } }
"""


def device_numbers(folder: Path) -> None:
    """As many GPUs are found as CUDA counts, also where the environment hides some."""
    script = (
        "import cupy; from despina.engine.repository.devices import find_gpus\n"
        "try: count = cupy.cuda.runtime.getDeviceCount()\n"
        "except Exception: count = 0\n"
        "assert len(find_gpus()) == count, (find_gpus(), count)"
    )
    for visible in (None, "0", "", "-1", "0,99", "GPU-none"):
        environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=30)


def plumbing(folder: Path) -> None:
    """Copies there and back through pinned memory, streams that wait for one another, a captured graph; all memory
    comes back."""
    from despina.backends.device import Gpu, Memory, Pinned, Stream

    gpu = Gpu.open(0, "check", "gpu")
    gpu.use()
    assert gpu.capability().count(".") == 1
    gpu.runtime.free(gpu.runtime.malloc(1))  # CUDA sets itself up
    before = free_bytes()
    size = 64 << 20
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    streams = [Stream(gpu, priority=priority, spins=priority > 0) for priority in (0, -1, 1)]
    memory, source, target = Memory(gpu, size), Pinned(gpu, size), Pinned(gpu, size)
    source.bytes[:] = data
    streams[0].copy_in(memory, source.address, size)
    streams[1].after(streams[0])
    streams[1].copy_out(target.address, memory.address, size)
    streams[1].wait()
    assert (target.bytes == data).all(), "bytes differ"
    streams[2].begin_capture()
    streams[2].copy_in(memory, source.address, size)
    streams[2].copy_out(target.address, memory.address, size)
    graph = streams[2].end_capture()
    source.bytes[:] = data[::-1]
    for _ in range(2):
        graph.launch(streams[2])
    streams[2].wait()
    assert (target.bytes == data[::-1]).all(), "the graph's bytes differ"
    for held in (graph, *streams, memory, source, target):
        held.close()
        held.close()
    assert before - free_bytes() <= LEAK_BYTES_MAX, f"{before - free_bytes()} bytes are gone"


def torchscript(folder: Path) -> None:
    """A TorchScript file on the device."""
    need("torch")
    if not importlib.import_module("torch").cuda.is_available():
        raise Skipped("this torch has no CUDA")
    write_torchscript(folder / "m")
    serves(folder, "IN__0", "OUT__0")


def onnx_cuda(folder: Path) -> None:
    """ONNX Runtime's CUDA provider."""
    need_provider("CUDAExecutionProvider")
    write_onnx(folder / "m")
    serves(folder)


def onnx_tensorrt(folder: Path) -> None:
    """ONNX Runtime's TensorRT provider, by the accelerator of that name."""
    need_provider("TensorrtExecutionProvider")
    write_onnx(folder / "m", TENSORRT)
    serves(folder, sizes=(8,))  # each new shape builds a plan


def tensorrt_plan(folder: Path) -> None:
    """A plan with two profiles."""
    need("tensorrt")
    write_plan(folder / "m", profiles=2)
    text = (folder / "m" / "config.pbtxt").read_text().replace("gpus: [0]", 'gpus: [0] profile: ["0", "1"]')
    (folder / "m" / "config.pbtxt").write_text(text)
    serves(folder)


def tensorrt_completed(folder: Path) -> None:
    """A plan without a configuration of its own."""
    need("tensorrt")
    write_plan(folder / "m")
    (folder / "m" / "config.pbtxt").write_text('platform: "tensorrt_plan"\n')
    with opened(folder) as engine:
        config = engine.model("m").config
        assert (config.max_batch_size, list(config.input[0].dims)) == (8, [-1]), config
        check(engine, "IN", "OUT", 3, 5)


def tensorrt_graphs(folder: Path) -> None:
    """Captured graphs, exact and with a lower bound, and batches that none takes."""
    need("tensorrt")
    write_plan(folder / "m", DOUBLING, GRAPHS)
    with opened(folder) as engine:
        for rows, width in ((1, 8), (2, 1), (3, 17), (8, 64), (1, 9), (8, 65), (2, 64)):
            check(engine, "IN", "OUT", rows, width)
        print(f"         a row of 8: {latency(engine, 'IN', 1, 8):.0f} µs by a graph")


def tensorrt_options(folder: Path) -> None:
    """A stream for outputs, waiting that spins, no pinned memory, memory by profile."""
    need("tensorrt")
    more = (
        "optimization { priority: PRIORITY_MAX cuda { busy_wait_events: true output_copy_stream: true }\n"
        "  input_pinned_memory { enable: false } output_pinned_memory { enable: false } }\n"
        'parameters { key: "execution_context_allocation_strategy" value { string_value: "ON_PROFILE_CHANGE" } }\n'
    )
    write_plan(folder / "m", DOUBLING, more)
    serves(folder)


CHECKS: dict[str, Callable[[Path], None]] = {
    "device_numbers": device_numbers,
    "plumbing": plumbing,
    "torchscript": torchscript,
    "onnx_cuda": onnx_cuda,
    "onnx_tensorrt": onnx_tensorrt,
    "tensorrt_plan": tensorrt_plan,
    "tensorrt_completed": tensorrt_completed,
    "tensorrt_graphs": tensorrt_graphs,
    "tensorrt_options": tensorrt_options,
}
"""By name, in their order."""


# --- How


def need_provider(name: str) -> None:
    need("onnxruntime")
    has = importlib.import_module("onnxruntime").get_available_providers()
    if name not in has:
        raise Skipped(f"the onnxruntime here has {', '.join(has)} only")


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """An engine over the folder that takes orders."""
    from despina import blocking

    with blocking.open_engine(folder, model_control_mode="explicit") as engine:
        engine.load("m")
        yield engine


def serves(folder: Path, given: str = "IN", answer: str = "OUT", sizes: tuple[int, ...] = (8, WIDTH_MAX)) -> None:
    """Right answers alone and in company, figures, and the memory that comes back when the model is unloaded."""
    with opened(folder) as engine:
        for rows, width in ((1, 8), (3, 8), (8, 8)):
            check(engine, given, answer, rows, width)
        with ThreadPoolExecutor(16) as pool:
            for done in [pool.submit(check, engine, given, answer, 1, 8) for _ in range(200)]:
                done.result()
        for width in sizes:
            print(f"         a row of {width}: {latency(engine, given, 1, width):.0f} µs")
        engine.unload("m")
        left = []
        for _ in range(3):  # the first load sets much up that stays
            wait_for_unload(engine)
            left.append(free_bytes())
            engine.load("m")
            check(engine, given, answer, 1, 8)
            engine.unload("m")
        wait_for_unload(engine)
        assert left[1] - free_bytes() <= LEAK_BYTES_MAX, f"free after each unload: {left}, {free_bytes()}"


def wait_for_unload(engine: Any) -> None:
    """Until its instances have ended."""
    for _ in range(200):
        if all(entry.state != "UNLOADING" for entry in engine.index()):
            break
        time.sleep(0.05)
    time.sleep(0.2)


def check(engine: Any, given: str, answer: str, rows: int, width: int) -> None:
    array = np.random.default_rng(rows * width).random((rows, width), np.float32)
    got = engine.infer("m", {given: array})[answer]
    assert got.shape == array.shape, got.shape
    assert np.allclose(got, array * 2 + 1), (rows, width)


def latency(engine: Any, given: str, rows: int, width: int) -> float:
    """The median of a request's, in µs; one caller."""
    array = np.ones((rows, width), np.float32)
    spent = []
    until = time.perf_counter() + 2
    while len(spent) < 20 or (time.perf_counter() < until and len(spent) < 500):
        began = time.perf_counter()
        engine.infer("m", {given: array})
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e6
