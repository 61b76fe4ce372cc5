"""One request never fails its batch: real models of each backend in a whole engine, requests that meet in its queue."""

from __future__ import annotations

import despina
import numpy as np
import onnx
import pytest
import trio
from onnx import TensorProto as T
from onnx import helper as h

from tests import in_process

CONFIG = """
backend: "{backend}"
max_batch_size: 8
dynamic_batching {{ max_queue_delay_microseconds: 20000 preferred_batch_size: [8] }}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{dims}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{dims}] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""
MODEL = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", array)]) for array in inputs]
"""


@pytest.fixture(params=["python", "onnxruntime"])
def repository(request, tmp_path):
    """Two identity models: `fixed`, whose size is known, and `open`."""
    for name, dims in (("fixed", 2), ("open", -1)):
        path = tmp_path / name / "1"
        path.mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(CONFIG.format(backend=request.param, dims=dims))
        if request.param == "python":
            (path / "model.py").write_text(MODEL)
            continue
        ends = [h.make_tensor_value_info(end, T.FLOAT, ["rows", dims if dims > 0 else "size"]) for end in "xy"]
        graph = h.make_graph([h.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
        onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path / "model.onnx")
    return tmp_path


@pytest.mark.parametrize("model", ["fixed", "open"])
@pytest.mark.parametrize("rows", [(0,), (1, 0, 1), (0, 2, 0, 1), (0, 0)])
async def test_a_request_without_rows_and_its_neighbours(repository, model, rows):
    """It is answered in kind, and everybody gets his own rows."""
    async with despina.open_engine(repository, backend_config=in_process.SETTING) as engine:
        results = {}

        async def ask(number, count):
            given = np.full((count, 2), number, np.float32)
            results[number] = (given, (await engine.infer(model, {"x": given}))["y"])

        for _ in range(2):
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for number, count in enumerate(rows):
                        nursery.start_soon(ask, number, count)
            assert len(results) == len(rows)
            for given, got in results.values():
                np.testing.assert_array_equal(got, given)
        (statistics,) = engine.statistics(model)
        assert statistics.inference_stats.fail.count == 0
        assert statistics.inference_stats.success.count == 2 * len(rows)
        assert statistics.inference_count == 2 * sum(rows)
