"""What every backend must do, done by TensorRT's over stand-ins: see test_tensorrt.py. `make gpu` asks a device."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from despina.testing import backend_suite

from tests.unit.backends import fake_cuda, fake_tensorrt
from tests.unit.backends.suite.lookup import identity_config

KINDS = {"BOOL": "BOOL", "UINT8": "UINT8", "INT8": "INT8", "INT32": "INT32", "INT64": "INT64", "FP16": "HALF"}
KINDS |= {"FP32": "FLOAT", "BF16": "BF16"}


class TestTensorRT(backend_suite.BackendSuite):
    """What its profile does not take is bad."""

    backend = "tensorrt"
    frameworks = ("tensorrt", "cupy")
    datatypes = tuple(KINDS)
    instance_kind = "KIND_GPU"

    @pytest.fixture(autouse=True)
    def stand_ins(self, monkeypatch):
        cuda = fake_cuda.Late()
        self.trt = fake_tensorrt.Module(cuda)
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=cuda)))
        monkeypatch.setattr("despina.engine.repository.loader.find_gpus", lambda: [0])
        yield
        assert cuda.leftovers() == (0, 0, 0, 0, 0)

    def saved(self, folder, kind, compute):
        self.trt.plans[b"plan"] = fake_tensorrt.Plan(
            [fake_tensorrt.Tensor("x", kind, (-1, -1))],
            [fake_tensorrt.Tensor("y", kind, (-1, -1))],
            [{"x": ((1, 4), (4, 4), (16, 4))}],
            compute,
            lambda shapes, values: {"y": shapes["x"]},
        )
        (folder / "1").mkdir()
        (folder / "1" / "model.plan").write_bytes(b"plan")

    def write_model(self, folder):
        self.saved(folder, "FLOAT", lambda inputs: {"y": inputs["x"] * 2})
        (folder / "config.pbtxt").write_text(
            'platform: "tensorrt_plan" max_batch_size: 16 dynamic_batching {} '
            'input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }] '
            'output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]'
        )

    def inputs(self, rows, seed):
        return {"x": np.random.default_rng(seed).random((rows, 4), dtype=np.float32)}

    def expected(self, inputs):
        return {"y": inputs["x"] * 2}

    def bad_inputs(self):
        return {"x": np.zeros((1, 3), np.float32)}

    def write_identity(self, folder, datatype):
        self.saved(folder, KINDS[datatype], lambda inputs: {"y": inputs["x"]})
        identity_config(folder, self.backend, datatype)


class TestTensorRTAhead(TestTensorRT):
    """With the next batch on its way while one executes."""

    def write_model(self, folder):
        super().write_model(folder)
        path = folder / "config.pbtxt"
        path.write_text(f"{path.read_text()}\noptimization {{ eager_batching: true }}\n")
