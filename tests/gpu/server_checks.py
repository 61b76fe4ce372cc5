"""Checks of a server by its doors, through tritonclient, and figures of tensors in device memory."""

from __future__ import annotations

import base64
import contextlib
import importlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.gpu.machine import Skipped, has
from tests.gpu.region import Region, regions
from tests.gpu.served import PATIENCE_SECONDS, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.gpu.served import Served

SIZES = (64 << 10, 1 << 20, 16 << 20, 256 << 20)
FIGURE_SECONDS = 2.0
FIGURE_SECONDS_MAX = 25


class TookTooLong(Exception):
    """What was to be done within a time was not."""


def gauges(served: Served) -> None:
    """NVML's gauges are on the metrics page, with sensible values."""
    page = served.metrics()
    for name in ("utilization", "memory_total_bytes", "memory_used_bytes", "power_usage", "power_limit"):
        assert f"nv_gpu_{name}{{gpu_uuid=" in page, f"no nv_gpu_{name}"
    total = float(next(line for line in page.splitlines() if line.startswith("nv_gpu_memory_total_bytes{")).split()[-1])
    assert total > 1 << 30, total
    assert "nv_energy_consumption{" in page, "no energy"


def instances_on_the_device(served: Served) -> None:
    """KIND_GPU reaches the model, and the model's metrics name the device."""
    module, client = served.client("http")
    result = client.infer("echo", [given(module, np.zeros(4, np.float32))])
    assert result.as_numpy("ABOUT")[0] == b"GPU 0", result.as_numpy("ABOUT")
    assert 'nv_inference_request_success{gpu_uuid="GPU-' in served.metrics(), "the device is not named"


def torch_model(served: Served) -> None:
    """A model.py computes with torch on the device."""
    if not has("torch"):
        raise Skipped("torch is not installed")
    module, client = served.client("grpc")
    rows = np.arange(16, dtype=np.float32)
    result = client.infer("matmul", [given(module, rows)]).as_numpy("OUT")
    expected = (rows.reshape(-1, 8) @ np.arange(64, dtype=np.float32).reshape(8, 8)).reshape(-1)
    assert np.allclose(result, expected), result


def shared(door: str) -> Callable[[Served], None]:
    def check(served: Served) -> None:
        """Tensors go in and come out through device memory of another process."""
        module, client = served.client(door)
        with regions(client, 1 << 20) as (source, target):
            for count in (4, 100_000, 1 << 18):
                values = np.random.default_rng(count).random(count, np.float32)
                source.fill(values)
                tensor = module.InferInput("IN", [count], "FP32")
                tensor.set_shared_memory("in", count * 4)
                wanted = module.InferRequestedOutput("OUT")
                wanted.set_shared_memory("out", count * 4)
                client.infer("echo", [tensor], outputs=[wanted])
                assert (target.read(count) == values).all(), f"{count} elements differ"
            assert {"in", "out"} <= set(registered(client))
        assert not {"in", "out"} & set(registered(client))

    check.__name__ = f"shared_memory_{door}"
    return check


def device_to_device(model: str, given_name: str, answer: str, package: str) -> Callable[[Served], None]:
    def check(served: Served) -> None:
        """Tensors come from regions and go there without the host."""
        if not Path(served.log).with_name("models").joinpath(model).is_dir():
            raise Skipped(f"there is no model '{model}': {package} is not installed, or has made none")
        module, client = served.client("grpc")
        with regions(client, 1 << 20) as (source, target):
            for count in (8, 1 << 18):
                values = np.random.default_rng(count).random(count, np.float32)
                source.fill(values)
                tensor = module.InferInput(given_name, [1, count], "FP32")
                tensor.set_shared_memory("in", count * 4)
                wanted = module.InferRequestedOutput(answer)
                wanted.set_shared_memory("out", count * 4)
                client.infer(model, [tensor], outputs=[wanted])
                assert np.allclose(target.read(count), values * 2 + 1), f"{count} elements differ"

    return check


def faults(served: Served) -> None:
    """Handles that are none, sizes beyond the region, regions that are gone: refused in words; the server serves on."""
    module, client = served.client("http")

    def refused(call: Callable[[], object]) -> str:
        try:
            call()
        except Exception as error:
            return str(error)
        raise AssertionError("it was taken")

    assert "invalid args" in refused(
        lambda: client.register_cuda_shared_memory("x", base64.b64encode(bytes(64)), 0, 64)
    )
    region = Region("r", 4096)
    region.register(client)
    assert "already in manager" in refused(lambda: region.register(client))
    assert "invalid args" in refused(lambda: Region("large", 4096).register(client, 1 << 30))
    tensor = module.InferInput("IN", [4096], "FP32")
    tensor.set_shared_memory("r", 4096 * 4)
    assert "Invalid offset + byte size" in refused(lambda: client.infer("echo", [tensor]))
    client.unregister_cuda_shared_memory("r")
    assert "Unable to find shared memory region" in refused(lambda: client.infer("echo", [tensor]))
    region.free()
    assert client.infer("echo", [given(module, np.zeros(4, np.float32))]).as_numpy("OUT").tolist() == [0] * 4


def client_that_dies(served: Served) -> None:
    """A client ends while its region is registered: others are served, and the region can be unregistered."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=register_and_die, args=(served.ports[0],))
    process.start()
    process.join(PATIENCE_SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == 7, f"the client ended with {process.exitcode}"
    module, client = served.client("http")
    assert registered(client) == ["orphan"]
    tensor = module.InferInput("IN", [16], "FP32")
    tensor.set_shared_memory("orphan", 64)
    with contextlib.suppress(importlib.import_module("tritonclient.utils").InferenceServerException):
        client.infer("echo", [tensor])  # an answer or an error, but one of them
    client.unregister_cuda_shared_memory("orphan")
    assert client.infer("echo", [given(module, np.ones(4, np.float32))]).as_numpy("OUT").tolist() == [1] * 4


def register_and_die(port: int) -> None:
    import tritonclient.http as module

    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    Region("orphan", 4096).register(client)
    os._exit(7)


# --- Figures


def print_figures(served: Served) -> None:
    """One caller, the identity model: tensors through device memory against tensors in the body."""
    print("\n| door | bytes | CUDA shared memory: requests/s | server CPU µs | body: requests/s | server CPU µs |")
    print("|---|---|---|---|---|---|")
    for door in ("http", "grpc"):
        for size in SIZES:
            cells = [shown(measured(served, door, size, through)) for through in ("device", "body")]
            print(f"| {door} | {size:,} | {' | '.join(cells)} |", flush=True)


def measured(served: Served, door: str, size: int, through: str) -> tuple[float, float] | str:
    """Requests a second and the server's CPU µs a request."""
    module, client = served.client(door)
    values = np.arange(size // 4, dtype=np.float32)
    with contextlib.ExitStack() as stack:
        wanted = module.InferRequestedOutput("OUT")
        tensor = module.InferInput("IN", [size // 4], "FP32")
        if through == "device":
            source, target = stack.enter_context(regions(client, size))
            source.fill(values)
            tensor.set_shared_memory("in", size)
            wanted.set_shared_memory("out", size)
        else:
            tensor.set_data_from_numpy(values)
        count, before, began = 0, cpu_seconds(served.pid), time.perf_counter()
        try:
            with time_limit(FIGURE_SECONDS_MAX):
                while time.perf_counter() - began < FIGURE_SECONDS or count < 2:
                    result = client.infer("echo", [tensor], outputs=[wanted])
                    count += 1
        except Exception as error:
            return (str(error) or type(error).__name__)[:60]
        spent, cpu = time.perf_counter() - began, cpu_seconds(served.pid) - before
        got = target.read(size // 4) if through == "device" else result.as_numpy("OUT")
        assert (got == values).all(), "a wrong answer"
        return count / spent, cpu / count * 1e6


def shown(figure: tuple[float, float] | str) -> str:
    return (
        f"{figure} |" if isinstance(figure, str) else f"{figure[0]:,.{0 if figure[0] >= 10 else 1}f} | {figure[1]:,.0f}"
    )


def registered(client: Any) -> list[str]:
    """The names of the regions, whichever door tells."""
    status = client.get_cuda_shared_memory_status()
    return sorted(status.regions) if hasattr(status, "regions") else sorted(entry["name"] for entry in status)


def given(module: Any, values: np.ndarray) -> Any:
    tensor = module.InferInput("IN", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TookTooLong inside the block after that time. Blocks do not nest."""

    def interrupt(*_: object) -> None:
        raise TookTooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


CHECKS: dict[str, Callable[[Served], None]] = {
    "gauges": gauges,
    "instances_on_the_device": instances_on_the_device,
    "torch_in_a_model": torch_model,
    "shared_memory_http": shared("http"),
    "shared_memory_grpc": shared("grpc"),
    "tensorrt_shared_memory": device_to_device("plan", "IN", "OUT", "tensorrt"),
    "torchscript_shared_memory": device_to_device("torchscript", "IN__0", "OUT__0", "torch"),
    "faults": faults,
    "client_that_dies": client_that_dies,
}
"""By name, in their order."""
