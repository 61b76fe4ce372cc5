"""The server that is checked, as a child process, and the Python models that it serves on the device."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tests.conformance.servers import free_ports
from tests.gpu.machine import has

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 30.0
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


@attrs.frozen
class Served:
    """A running server as another process finds it, and clients for it."""

    ports: list[int]
    pid: int
    log: str

    def client(self, door: str) -> Any:
        """tritonclient's module for a door, and a client of it."""
        module = importlib.import_module(f"tritonclient.{door}")
        return module, module.InferenceServerClient(f"127.0.0.1:{self.ports[0 if door == 'http' else 1]}")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}/metrics", timeout=PATIENCE_SECONDS) as page:
            return page.read().decode()

    def log_tail(self) -> str:
        """The newest of what the server has said."""
        return Path(self.log).read_text(errors="replace")[-2000:]


class Server:
    """The child process, of these Python models and what is in `models` already. A model that does not load stops no
    other."""

    def __init__(self, folder: Path) -> None:
        models = folder / "models"
        write_model(models / "echo", MODEL, CONFIG % ', { name: "ABOUT" data_type: TYPE_STRING dims: [1] }')
        if has("torch"):
            write_model(models / "matmul", TORCH_MODEL, CONFIG % "")
        ports = free_ports(3)
        command = [sys.executable, "-c", "from despina.frontends.cli import main; raise SystemExit(main())", "serve"]
        command += ["--model-repository", str(models), "--exit-on-error", "false"]
        for door, port in zip(("http", "grpc", "metrics"), ports, strict=True):
            command += [f"--{door}-port", str(port)]
        path = folder / "server.log"
        with path.open("wb") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=log)
        self.served = Served(ports, self.child.pid, str(path))

    def is_ready(self) -> bool:
        if self.child.poll() is not None:
            raise AssertionError("the server ended")
        address = f"http://127.0.0.1:{self.served.ports[0]}/v2/models/echo/ready"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=PATIENCE_SECONDS):
            return True
        return False

    def close(self) -> None:
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def write_model(folder: Path, model: str, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(model)
    (folder / "config.pbtxt").write_text(config)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
