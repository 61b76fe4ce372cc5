"""ONNX Runtime sends nothing home and leaves nothing behind, whoever imports it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import onnx
import pytest
from despina.backends.telemetry import refuse_telemetry, stop_telemetry
from onnx import TensorProto as T
from onnx import helper as h

PYTHON = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        import onnxruntime
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.ones((1, 1), np.float32))]) for _ in requests]
"""
CONFIG = """
backend: "{backend}" max_batch_size: 4
input [{{ name: "x" data_type: TYPE_FP32 dims: [1] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [1] }}]
instance_group [{{ kind: KIND_CPU }}]
"""
PROGRAM = """
import sys
import despina
import numpy as np
with despina.blocking.open_engine(sys.argv[1]) as engine:
    print(engine.infer("m", {"x": np.ones((1, 1), np.float32)})["y"].tolist())
"""


@pytest.mark.parametrize(("backend", "isolation"), [("onnxruntime", ""), ("python", "none"), ("python", "process")])
def test_no_file_in_a_fresh_home(tmp_path, backend, isolation):
    """A program that serves one request leaves its user's folder as it was."""
    home, version = tmp_path / "home", tmp_path / "models" / "m" / "1"
    home.mkdir()
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG.format(backend=backend))
    if backend == "python":
        (version / "model.py").write_text(PYTHON)
    else:
        ends = [h.make_tensor_value_info(end, T.FLOAT, [None, 1]) for end in "xy"]
        graph = h.make_graph([h.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
        onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), version / "model.onnx")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment = {**kept, "HOME": str(home), "DESPINA_ISOLATION": isolation}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "models")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[[1.0]]\n", done.stderr
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize(("asked", "stopped"), [(None, True), ("1", True), ("0", False)])
def test_who_asks_for_it_gets_it(monkeypatch, asked, stopped):
    """What the environment says counts; without a word it is off, also where the program had imported it before."""
    if asked is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    else:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", asked)
    said = []
    refuse_telemetry()
    stop_telemetry(SimpleNamespace(disable_telemetry_events=lambda: said.append("stop")))
    assert os.environ["ORT_DISABLE_TELEMETRY"] == (asked or "1")
    assert bool(said) == stopped
    stop_telemetry(SimpleNamespace())
