"""Every check that needs a GPU, and its figures: `make gpu`, or this file by any Python that has despina installed.

Prints one line a check: passed, failed or skipped, with the reason and the time. Without a GPU everything is skipped by
name. Needs cupy, tritonclient with its two clients, and the packages of the server; no network. Under five minutes.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.metadata
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.about = np.array([(args["model_instance_kind"] + " " + args["model_instance_device_id"]).encode()], object)

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()),
                    pb_utils.Tensor("ABOUT", self.about),
                ]
            )
            for request in requests
        ]
"""
TORCH_MODEL = """
import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.device = torch.device("cuda", int(args["model_instance_device_id"]))
        self.weight = torch.arange(64, dtype=torch.float32, device=self.device).reshape(8, 8)

    def execute(self, requests):
        answers = []
        for request in requests:
            rows = torch.from_numpy(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()).to(self.device)
            product = (rows.reshape(-1, 8) @ self.weight).reshape(-1).cpu().numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", product)]))
        return answers
"""
CONFIG = """backend: "python"
input [{ name: "IN" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [-1] }%s]
instance_group [{ kind: KIND_GPU count: 1 gpus: [0] }]
"""
SIZES = (64 << 10, 1 << 20, 16 << 20, 256 << 20)
FIGURE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


class Skipped(Exception):
    """A check that cannot run here; its text says why."""


class Bench:
    """A running server, and clients for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        models = folder / "models"
        write_model(models / "echo", MODEL, CONFIG % ', { name: "ABOUT" data_type: TYPE_STRING dims: [1] }')
        if has("torch"):
            write_model(models / "matmul", TORCH_MODEL, CONFIG % "")
        self.ports = free_ports(3)
        command = [sys.executable, "-c", "from despina.frontends.cli import main; raise SystemExit(main())", "serve"]
        command += ["--model-repository", str(models)]
        for door, port in zip(("http", "grpc", "metrics"), self.ports, strict=True):
            command += [f"--{door}-port", str(port)]
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=log)
        until(self.is_ready)

    def is_ready(self) -> bool:
        if self.child.poll() is not None:
            raise AssertionError("the server ended")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}/v2/health/ready"):
            return True
        return False

    def client(self, door: str) -> Any:
        """tritonclient's module for a door, and a client of it."""
        module = importlib.import_module(f"tritonclient.{door}")
        return module, module.InferenceServerClient(f"127.0.0.1:{self.ports[0 if door == 'http' else 1]}")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}/metrics") as page:
            return page.read().decode()

    def close(self) -> None:
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()


class Region:
    """Device memory of this process, as a client has it: filled, registered, read back."""

    def __init__(self, name: str, size: int) -> None:
        import cupy

        self.name, self.size = name, size
        self._runtime = cupy.cuda.runtime
        # Of its own and not from cupy's pool: a handle stands for the whole allocation.
        self.address = self._runtime.malloc(size)
        self.handle = bytes(self._runtime.ipcGetMemHandle(self.address))

    def fill(self, array: np.ndarray) -> None:
        self._runtime.memcpy(self.address, array.ctypes.data, array.nbytes, self._runtime.memcpyHostToDevice)
        self._runtime.deviceSynchronize()

    def read(self, count: int) -> np.ndarray:
        array = np.empty(count, np.float32)
        self._runtime.memcpy(array.ctypes.data, self.address, array.nbytes, self._runtime.memcpyDeviceToHost)
        return array

    def register(self, client: Any, size: int = 0) -> None:
        import base64

        client.register_cuda_shared_memory(self.name, base64.b64encode(self.handle), 0, size or self.size)

    def free(self) -> None:
        self._runtime.free(self.address)


@contextlib.contextmanager
def regions(client: Any, size: int) -> Iterator[tuple[Region, Region]]:
    """One for inputs and one for outputs, registered."""
    pair = Region("in", size), Region("out", size)
    try:
        for region in pair:
            region.register(client)
        yield pair
    finally:
        client.unregister_cuda_shared_memory()
        for region in pair:
            region.free()


# --- The checks


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
    import base64

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
            while time.perf_counter() - began < FIGURE_SECONDS or count < 2:
                result = client.infer("echo", [tensor], outputs=[wanted])
                count += 1
        except Exception as error:
            return str(error)[:60]
        spent, cpu = time.perf_counter() - began, cpu_seconds(bench.child.pid) - before
        got = target.read(size // 4) if through == "device" else result.as_numpy("OUT")
        assert (got == values).all(), "a wrong answer"
        return count / spent, cpu / count * 1e6


def shown(figure: tuple[float, float] | str) -> str:
    return f"{figure} |" if isinstance(figure, str) else f"{figure[0]:,.0f} | {figure[1]:,.0f}"


# --- The machine


def registered(client: Any) -> list[str]:
    """The names of the regions, whichever door tells."""
    status = client.get_cuda_shared_memory_status()
    return sorted(status.regions) if hasattr(status, "regions") else sorted(entry["name"] for entry in status)


def given(module: Any, values: np.ndarray) -> Any:
    tensor = module.InferInput("IN", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


def write_model(folder: Path, model: str, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(model)
    (folder / "config.pbtxt").write_text(config)


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


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


def main() -> int:
    """Exit status 1 if a check failed."""
    checks = [gauges, instances_on_the_device, torch_model, shared("http"), shared("grpc"), faults, client_that_dies]
    checks.append(onnx_provider)
    print(f"GPU checks, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    missing = why_not()
    if missing:
        for check in checks:
            print(f"skipped  {check.__name__}: {missing}")
        return 0
    print(about(), flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            for check in checks:
                began, verdict, reason = time.perf_counter(), "passed ", ""
                try:
                    check(bench)
                except Skipped as why:
                    verdict, reason = "skipped", f": {why}"
                except Exception:
                    verdict, reason, failed = "FAILED ", f"\n{traceback.format_exc()}", failed + 1
                print(f"{verdict}  {check.__name__} ({time.perf_counter() - began:.1f} s){reason}", flush=True)
            print_figures(bench)
        finally:
            bench.close()
            if failed:
                print("\nThe server's log:\n" + bench.log.read_text()[-4000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
