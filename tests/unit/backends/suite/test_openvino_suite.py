"""What every backend must do, done by OpenVINO."""

from __future__ import annotations

import numpy as np
import openvino as ov
from despina.testing import backend_suite
from openvino import opset13 as op

from tests.unit.backends.suite.lookup import identity_config

TYPES = {"BOOL": "?", "FP16": "f2", "FP32": "f4"}
TYPES |= {f"INT{8 * size}": f"i{size}" for size in (1, 2, 4)} | {f"UINT{8 * size}": f"u{size}" for size in (1, 2, 4)}


class TestOpenVINO(backend_suite.BackendSuite):
    """Its table lookups give 0 beyond the end: what only the model can tell is a size of its own. 64 bits it
    computes with 32."""

    backend = "openvino"
    frameworks = ("openvino",)
    datatypes = tuple(TYPES)

    def saved(self, folder, make, kind, sizes):
        x = op.parameter(sizes, np.dtype(kind), name="x")
        x.output(0).set_names({"x"})
        y = make(x)
        y.output(0).set_names({"y"})
        (folder / "1").mkdir()
        ov.save_model(ov.Model([op.result(y)], [x], "m"), folder / "1" / "model.xml", compress_to_fp16=False)

    def write_model(self, folder):
        self.saved(folder, lambda x: op.multiply(x, np.float32(2)), "f4", [-1, 4])
        (folder / "config.pbtxt").write_text(
            f'backend: "{self.backend}" max_batch_size: 16 dynamic_batching {{}} '
            'input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }] '
            'output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]'
        )

    def inputs(self, rows, seed):
        return {"x": np.random.default_rng(seed).random((rows, 4), dtype=np.float32)}

    def expected(self, inputs):
        return {"y": inputs["x"] * 2}

    def bad_inputs(self):
        return {"x": np.zeros((1, 3), np.float32)}

    def write_identity(self, folder, datatype):
        self.saved(folder, lambda x: op.concat([x], 1), TYPES[datatype], [-1, 4])
        identity_config(folder, self.backend, datatype)
