"""Every check that needs a GPU, and its figures: `make gpu`, or this file by any Python that has despina installed.

Prints one line a check: passed, failed or skipped, with the reason and the time. Without a GPU everything is skipped by
name. Needs cupy, tritonclient with its two clients, and the packages of the server; no network. Under five minutes:
each check, each figure and the whole have a time of their own, after which they end as failed.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import faulthandler
import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.gpu.region import Region, regions
from tests.gpu.served import PATIENCE_SECONDS, Bench, cpu_seconds, has, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = (64 << 10, 1 << 20, 16 << 20, 256 << 20)
FIGURE_SECONDS = 2.0
FIGURE_SECONDS_MAX = 25
CHECK_SECONDS_MAX = 40
WHOLE_SECONDS_MAX = 290


class Skipped(Exception):
    """A check that cannot run here; its text says why."""


class TookTooLong(Exception):
    """What was to be done within a time was not."""


# --- The checks


def server_starts(bench: Bench) -> None:
    """It serves models that ask for a GPU."""
    until(bench.is_ready)


def gauges(bench: Bench) -> None:
    """NVML's gauges are on the metrics page, with sensible values."""
    page = bench.metrics()
    for name in ("utilization", "memory_total_bytes", "memory_used_bytes", "power_usage", "power_limit"):
        assert f"nv_gpu_{name}{{gpu_uuid=" in page, f"no nv_gpu_{name}"
    total = float(next(line for line in page.splitlines() if line.startswith("nv_gpu_memory_total_bytes{")).split()[-1])
    assert total > 1 << 30, total
    assert "nv_energy_consumption{" in page, "no energy"


def instances_on_the_device(bench: Bench) -> None:
    """KIND_GPU reaches the model, and the model's metrics name the device."""
    module, client = bench.client("http")
    result = client.infer("echo", [given(module, np.zeros(4, np.float32))])
    assert result.as_numpy("ABOUT")[0] == b"GPU 0", result.as_numpy("ABOUT")
    assert 'nv_inference_request_success{gpu_uuid="GPU-' in bench.metrics(), "the device is not named"


def torch_model(bench: Bench) -> None:
    """A model.py computes with torch on the device."""
    if not has("torch"):
        raise Skipped("torch is not installed")
    module, client = bench.client("grpc")
    rows = np.arange(16, dtype=np.float32)
    result = client.infer("matmul", [given(module, rows)]).as_numpy("OUT")
    expected = (rows.reshape(-1, 8) @ np.arange(64, dtype=np.float32).reshape(8, 8)).reshape(-1)
    assert np.allclose(result, expected), result


def shared(door: str) -> Callable[[Bench], None]:
    def check(bench: Bench) -> None:
        """Tensors go in and come out through device memory of another process."""
        module, client = bench.client(door)
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
            assert registered(client) == ["in", "out"]
        assert registered(client) == []

    check.__name__ = f"shared_memory_{door}"
    return check


def faults(bench: Bench) -> None:
    """Handles that are none, sizes beyond the region, regions that are gone: refused in words; the server serves on."""
    module, client = bench.client("http")

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
    tensor = module.InferInput("IN", [4096], "FP32")
    tensor.set_shared_memory("r", 4096 * 4)
    assert "Invalid offset + byte size" in refused(lambda: client.infer("echo", [tensor]))
    client.unregister_cuda_shared_memory("r")
    assert "Unable to find shared memory region" in refused(lambda: client.infer("echo", [tensor]))
    region.free()
    assert client.infer("echo", [given(module, np.zeros(4, np.float32))]).as_numpy("OUT").tolist() == [0] * 4


def client_that_dies(bench: Bench) -> None:
    """A client ends while its region is registered: others are served, and the region can be unregistered."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=register_and_die, args=(bench.ports[0],))
    process.start()
    process.join(PATIENCE_SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == 7, f"the client ended with {process.exitcode}"
    module, client = bench.client("http")
    assert registered(client) == ["orphan"]
    tensor = module.InferInput("IN", [16], "FP32")
    tensor.set_shared_memory("orphan", 64)
    with contextlib.suppress(importlib.import_module("tritonclient.utils").InferenceServerException):
        client.infer("echo", [tensor])  # an answer or an error, but one of them
    client.unregister_cuda_shared_memory("orphan")
    assert client.infer("echo", [given(module, np.ones(4, np.float32))]).as_numpy("OUT").tolist() == [1] * 4


def onnx_provider(bench: Bench) -> None:
    """ONNX Runtime on the device."""
    if not has("onnxruntime"):
        raise Skipped("onnxruntime is not installed")
    providers = importlib.import_module("onnxruntime").get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        raise Skipped(f"onnxruntime {importlib.metadata.version('onnxruntime')} here has {providers} only")
    raise AssertionError("there is a CUDA provider: write this check")


def register_and_die(port: int) -> None:
    import tritonclient.http as module

    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    Region("orphan", 4096).register(client)
    os._exit(7)


# --- Figures


def print_figures(bench: Bench) -> None:
    """One caller, the identity model: tensors through device memory against tensors in the body."""
    print("\n| door | bytes | CUDA shared memory: requests/s | server CPU µs | body: requests/s | server CPU µs |")
    print("|---|---|---|---|---|---|")
    for door in ("http", "grpc"):
        for size in SIZES:
            cells = [shown(measured(bench, door, size, through)) for through in ("device", "body")]
            print(f"| {door} | {size:,} | {' | '.join(cells)} |", flush=True)


def measured(bench: Bench, door: str, size: int, through: str) -> tuple[float, float] | str:
    """Requests a second and the server's CPU µs a request."""
    module, client = bench.client(door)
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
        count, before, began = 0, cpu_seconds(bench.child.pid), time.perf_counter()
        try:
            with time_limit(FIGURE_SECONDS_MAX):
                while time.perf_counter() - began < FIGURE_SECONDS or count < 2:
                    result = client.infer("echo", [tensor], outputs=[wanted])
                    count += 1
        except Exception as error:
            return (str(error) or type(error).__name__)[:60]
        spent, cpu = time.perf_counter() - began, cpu_seconds(bench.child.pid) - before
        got = target.read(size // 4) if through == "device" else result.as_numpy("OUT")
        assert (got == values).all(), "a wrong answer"
        return count / spent, cpu / count * 1e6


def shown(figure: tuple[float, float] | str) -> str:
    return (
        f"{figure} |" if isinstance(figure, str) else f"{figure[0]:,.{0 if figure[0] >= 10 else 1}f} | {figure[1]:,.0f}"
    )


# --- The machine


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


def why_not() -> str:
    """Why there is nothing to check here; empty if there is."""
    for package in ("cupy", "tritonclient", "despina"):
        if not has(package):
            return f"{package} is not installed"
    try:
        count = importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"no GPU: {type(error).__name__}"
    return "" if count else "no GPU"


def about() -> str:
    runtime = importlib.import_module("cupy").cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    packages = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("numpy", "tritonclient"))
    return f"{name}, CUDA driver {runtime.driverGetVersion()}, Python {sys.version.split()[0]}, {packages}"


def all_checks() -> list[Callable[[Bench], None]]:
    """In their order: without a server that has started, no other means anything."""
    return [
        server_starts,
        gauges,
        instances_on_the_device,
        torch_model,
        shared("http"),
        shared("grpc"),
        faults,
        client_that_dies,
        onnx_provider,
    ]


def run(check: Callable[[Bench], None], bench: Bench) -> str:
    """Does one check, prints its line, and tells its verdict."""
    began, verdict, reason = time.perf_counter(), "passed", ""
    try:
        with time_limit(CHECK_SECONDS_MAX):
            check(bench)
    except Skipped as why:
        verdict, reason = "skipped", f": {why}"
    except Exception:
        verdict, reason = "FAILED", f"\n{traceback.format_exc()}The server's log ends:\n{log_tail(bench)}"
    print(f"{verdict:7}  {check.__name__} ({time.perf_counter() - began:.1f} s){reason}", flush=True)
    return verdict


def log_tail(bench: Bench) -> str:
    """The newest of what the server has said."""
    return bench.log.read_text(errors="replace")[-2000:]


def main() -> int:
    """Exit status 1 if a check failed."""
    print(f"GPU checks, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    missing = why_not()
    if missing:
        for check in all_checks():
            print(f"skipped  {check.__name__}: {missing}")
        return 0
    print(about(), flush=True)
    faulthandler.dump_traceback_later(WHOLE_SECONDS_MAX, exit=True)  # also out of a driver's call, which no signal ends
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            first, *others = all_checks()
            verdicts = [run(first, bench)]
            if verdicts == ["passed"]:
                verdicts += [run(check, bench) for check in others]
                print_figures(bench)
            else:
                for check in others:
                    print(f"skipped  {check.__name__}: the server did not start")
        finally:
            bench.close()
    return int("FAILED" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
