"""What every backend must do, done by ONNX Runtime."""

from __future__ import annotations

import onnx
from onnx import TensorProto as T
from onnx import helper as h

from tests.unit.backends.suite.lookup import LookupSuite, identity_config

KINDS = {"BOOL": T.BOOL, "FP16": T.FLOAT16, "FP32": T.FLOAT, "FP64": T.DOUBLE, "BYTES": T.STRING, "BF16": T.BFLOAT16}
KINDS |= {f"{sign}INT{size}": getattr(T, f"{sign}INT{size}") for sign in ("", "U") for size in (8, 16, 32, 64)}


def saved(folder, nodes, inputs, outputs, constants=()):
    graph = h.make_graph(nodes, "m", inputs, outputs, list(constants))
    (folder / "1").mkdir()
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10), folder / "1" / "model.onnx")


class TestOnnxRuntime(LookupSuite):
    backend = "onnxruntime"
    frameworks = ("onnxruntime",)
    datatypes = tuple(KINDS)

    def write_lookup(self, folder, table):
        def tensor(name, kind):
            return h.make_tensor_value_info(name, kind, ["batch", 2])

        nodes = [h.make_node("Gather", ["table", "index"], ["value"])]
        constant = h.make_tensor("table", T.FLOAT, table.shape, table)
        saved(folder, nodes, [tensor("index", T.INT64)], [tensor("value", T.FLOAT)], [constant])

    def write_identity(self, folder, datatype):
        x, y = (h.make_tensor_value_info(name, KINDS[datatype], ["batch", 4]) for name in ("x", "y"))
        saved(folder, [h.make_node("Identity", ["x"], ["y"])], [x], [y])
        identity_config(folder, self.backend, datatype)
