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


STATES = """sequence_batching { %s
  control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 100] }] }]
  state [{ input_name: "OLD" output_name: "NEW" data_type: TYPE_FP32 dims: [%s] %s }]
}"""


def write_stateful_model(folder, config, *, grows=False):
    """OUTPUT = INPUT + START + the sum of OLD; NEW is OUTPUT, or, growing, OLD with OUTPUT behind it."""

    def row(name, width=1):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    width = f"{'old' if grows else ''}" or 1
    nodes = [
        helper.make_node("ReduceSum", ["OLD", "axis"], ["sum"], keepdims=1),
        helper.make_node("Sum", ["INPUT", "START", "sum"], ["OUTPUT"]),
        helper.make_node("Concat", ["OLD", "OUTPUT"], ["NEW"], axis=1)
        if grows
        else helper.make_node("Identity", ["OUTPUT"], ["NEW"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    outputs = [row("OUTPUT"), row("NEW", "new" if grows else 1)]
    graph = helper.make_graph(nodes, "s", [row("INPUT"), row("START"), row("OLD", width)], outputs, initializer=[axis])
    (folder / "m" / "1").mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, str(folder / "m" / "1" / "model.onnx"))
    (folder / "m" / "config.pbtxt").write_text(f'backend: "onnxruntime" max_batch_size: 4\n{config}')


ALSO_ANSWERED = TENSORS + ' output [{ name: "NEW" data_type: TYPE_FP32 dims: [1] }]'


@pytest.mark.parametrize("tensors", [TENSORS, "", ALSO_ANSWERED], ids=["configured", "completed", "state as an output"])
@pytest.mark.parametrize("strategy", ["direct {}", "oldest { max_candidate_sequences: 8 }"], ids=["direct", "oldest"])
@pytest.mark.parametrize("same", ["", "use_same_buffer_for_input_output: true"])
async def test_states_are_kept(tmp_path, strategy, tensors, same):
    """Goal: each of several sequences in one batch has its own sum, also beside places without a request."""
    write_stateful_model(tmp_path, STATES % (strategy, "1", same) + tensors)
    async with despina.open_engine(tmp_path) as engine:
        assert [entry.name for entry in engine.model_metadata("m").inputs] == ["INPUT"]
        named = [entry.name for entry in engine.model_metadata("m").outputs]
        assert named == (["OUTPUT", "NEW"] if tensors == ALSO_ANSWERED else ["OUTPUT"])

        async def sequence(id):
            for value in range(20):
                flags = {"sequence_start": value == 0, "sequence_end": value == 19}
                result = await engine.infer("m", {"INPUT": np.full((1, 1), value, np.float32)}, sequence_id=id, **flags)
                assert sorted(result, reverse=True) == named
                answers[id].append(float(result["OUTPUT"][0, 0]))

        answers = {id: [] for id in range(1, 9)}
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for id in answers:
                    nursery.start_soon(sequence, id)
        for got in answers.values():
            assert got == [100 + value * (value + 1) / 2 for value in range(20)]
        assert engine.model("m").statistics.execution_count < 160, "none shared a batch"


async def test_a_state_grows(tmp_path):
    """Goal: of an open dimension there is one at first, and what the model says later."""
    outputs = ' output [{ name: "NEW" data_type: TYPE_FP32 dims: [-1] }]'
    write_stateful_model(tmp_path, STATES % ("", "-1", "") + TENSORS + outputs, grows=True)
    async with despina.open_engine(tmp_path) as engine:
        for value, expected in ((1, [0, 101]), (2, [0, 101, 103]), (3, [0, 101, 103, 207])):
            array = np.full((1, 1), value, np.float32)
            result = await engine.infer("m", {"INPUT": array}, sequence_id=1, sequence_start=value == 1)
            assert result["NEW"].tolist() == [expected]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("OLD", "WHAT", "unexpected inference output 'WHAT'"),
        ("WHAT", "NEW", "unexpected inference input 'WHAT'"),
    ],
)
async def test_a_state_that_the_model_does_not_have(tmp_path, old, new, text):
    """Goal: refused at load, as another tensor would be."""
    config = (STATES % ("", "1", "")).replace('"OLD"', f'"{old}"').replace('"NEW"', f'"{new}"')
    write_stateful_model(tmp_path, config + TENSORS)
    async with despina.open_engine(tmp_path, exit_on_error=False) as engine:
        assert text in engine.health().problems[0]


async def test_warm_up_of_a_model_with_states(tmp_path):
    """Goal: samples need name neither controls nor states, and leave nothing behind."""
    sample = """model_warmup [{ name: "w" batch_size: 2 inputs { key: "INPUT" value { data_type: TYPE_FP32 dims: [1]
      random_data: true } } }]"""
    write_stateful_model(tmp_path, STATES % ("", "1", "") + TENSORS + sample)
    async with despina.open_engine(tmp_path) as engine:
        result = await engine.infer("m", {"INPUT": np.ones((1, 1), np.float32)}, sequence_id=1, sequence_start=True)
        assert result["OUTPUT"].tolist() == [[101]]
