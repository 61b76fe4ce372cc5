"""examples/ray_serve.py on a local Ray, where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.servers import free_ports

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"

NAP = """
import time
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        rows = [pb_utils.get_input_tensor_by_name(request, "ROW").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SAME", row)]) for row in rows]
"""
CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "ROW" data_type: TYPE_INT32 dims: [ 2 ] } ]
output [ { name: "SAME" data_type: TYPE_INT32 dims: [ 2 ] } ]
dynamic_batching { }
"""


def ray_python():
    """A Python that has ray and despina, or None: DESPINA_RAY_PYTHON, or this one."""
    return os.environ.get("DESPINA_RAY_PYTHON") or (sys.executable if importlib.util.find_spec("ray") else None)


@pytest.mark.slow
@pytest.mark.skipif(
    ray_python() is None, reason="ray is not installed (DESPINA_RAY_PYTHON: a Python with ray and despina)"
)
def test_ray_serve(tmp_path):
    """Goal: the example answers over HTTP and refuses in words; requests under way in a replica share executions; more
    of them bring another replica; all of it stops. Method: a Ray of this machine, in a process of its own."""
    (tmp_path / "models" / "nap" / "1").mkdir(parents=True)
    (tmp_path / "models" / "nap" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "models" / "nap" / "1" / "model.py").write_text(NAP)
    (port,) = free_ports(1)
    command = [ray_python(), HERE / "ray_session.py", EXAMPLES, tmp_path / "models", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    said = [line for line in done.stdout.splitlines() if line in ("http", "batches", "replicas", "stopped")]
    assert said == ["http", "batches", "replicas", "stopped"]
