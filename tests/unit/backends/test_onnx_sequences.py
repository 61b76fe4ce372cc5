"""Sequence controls of ONNX models: real files, executed by ONNX Runtime inside an engine."""

import despina
import numpy as np
import onnx
import pytest
import trio
from onnx import TensorProto, helper

CONTROLS = """sequence_batching { %s control_input [
  { name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 100] }] },
  { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 }] }
] }"""
TENSORS = """input [{ name: "INPUT" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "OUTPUT" data_type: TYPE_FP32 dims: [1] }]"""


def write_model(folder, config):
    """OUTPUT = INPUT + START + CORRID."""

    def row(name, kind):
        return helper.make_tensor_value_info(name, kind, ["batch", 1])

    inputs = [row("INPUT", TensorProto.FLOAT), row("START", TensorProto.FLOAT), row("CORRID", TensorProto.INT32)]
    nodes = [
        helper.make_node("Cast", ["CORRID"], ["id"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["INPUT", "START", "id"], ["OUTPUT"]),
    ]
    graph = helper.make_graph(nodes, "sums", inputs, [row("OUTPUT", TensorProto.FLOAT)])
    (folder / "m" / "1").mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, str(folder / "m" / "1" / "model.onnx"))
    (folder / "m" / "config.pbtxt").write_text(f'backend: "onnxruntime" max_batch_size: 2\n{config}')


@pytest.mark.parametrize("tensors", [TENSORS, ""], ids=["configured", "completed"])
@pytest.mark.parametrize("strategy", ["direct {}", "oldest { max_candidate_sequences: 8 }"], ids=["direct", "oldest"])
async def test_controls_reach_the_model(tmp_path, strategy, tensors):
    """Goal: START and CORRID are inputs of the model, not of its clients, also in places without a request."""
    write_model(tmp_path, CONTROLS % strategy + tensors)
    async with despina.open_engine(tmp_path) as engine:
        assert [entry.name for entry in engine.model_metadata("m").inputs] == ["INPUT"]

        async def ask(id, value, **flags):
            array = np.full((1, 1), value, np.float32)
            result = await engine.infer("m", {"INPUT": array}, sequence_id=id, **flags)
            answers[id].append(float(result["OUTPUT"][0, 0]))

        async def sequence(id):
            for value in range(20):
                await ask(id, value, sequence_start=value == 0, sequence_end=value == 19)

        answers = {id: [] for id in range(1, 7)}
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for id in answers:
                    nursery.start_soon(sequence, id)
        for id, got in answers.items():
            assert got == [100 + id, *[value + id for value in range(1, 20)]]


async def test_a_control_that_the_model_does_not_have(tmp_path):
    """Goal: refused at load, as an input would be."""
    write_model(tmp_path, (CONTROLS % "").replace('"CORRID" control', '"WHO" control') + TENSORS)
    with pytest.raises(despina.Internal):
        async with despina.open_engine(tmp_path):
            pass
    async with despina.open_engine(tmp_path, exit_on_error=False) as engine:
        assert "unexpected inference input 'WHO'" in engine.health().problems[0]
