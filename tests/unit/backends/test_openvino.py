"""OpenVINO models, written by OpenVINO itself and by onnx: completion, faults, batches of every kind, options."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from despina.backends.onnxruntime import OnnxRuntimeBackend
from despina.backends.openvino import OpenVINOBackend
from despina.backends.openvino.signature import Signature
from despina.schema.datatype import BY_NAME
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, Unavailable
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelOutput,
    ModelParameter,
    ModelSequenceBatching,
    ModelSequenceBatchingControl,
    ModelSequenceBatchingControlInput,
    ModelSequenceBatchingControlKind,
    ModelSequenceBatchingState,
    ModelTensorReshape,
)
from onnx import TensorProto as T
from onnx import helper as h
from openvino import opset13 as op

from tests.unit.backends import tensorflow_models as models

ADD_SUB = ("SUM", "DIFFERENCE")
X = np.arange(4, dtype=np.float32).reshape(1, 4)
Y = np.full((1, 4), 10, np.float32)


def parameter(name, shape, kind=np.float32):
    made = op.parameter(shape, kind, name=name)
    made.output(0).set_names({name})
    return made


def named(node, name):
    node.output(0).set_names({name})
    return op.result(node)


def saved(bench, results, parameters, layout=""):
    """model.xml and model.bin of this graph."""
    model = ov.Model(results, parameters, "m")
    if layout:
        for node in (*model.get_parameters(), *model.get_results()):
            node.set_layout(ov.Layout(layout))
    (bench.path / "1").mkdir(parents=True, exist_ok=True)
    ov.save_model(model, bench.path / "1" / "model.xml", compress_to_fp16=False)


def add_sub(bench, first=-1, layout=""):
    a, b = parameter("a", [first, 4]), parameter("b", [first, 4])
    saved(bench, [named(op.add(a, b), "SUM"), named(op.subtract(a, b), "DIFFERENCE")], [a, b], layout)


def config(inputs=("a", "b"), outputs=ADD_SUB, dims=(4,), kind=DataType.TYPE_FP32, **fields):
    parameters = {name: ModelParameter(string_value=text) for name, text in fields.pop("parameters", {}).items()}
    given = {
        "max_batch_size": 8,
        "input": [ModelInput(name=name, data_type=kind, dims=list(dims)) for name in inputs],
        "output": [ModelOutput(name=name, data_type=kind, dims=list(dims)) for name in outputs],
        **fields,
    }
    return ModelConfig(name="m", backend="openvino", parameters=parameters, **given)


def opened(bench, given, **context):
    model = OpenVINOBackend().open_model(bench.context(given, **context))
    return model, model.open_instance(bench.instance())


def executed(bench, given, *jobs):
    opened(bench, given)[1].execute(bench.batch(*jobs))
    return jobs


def refused(bench, given, fault=InvalidArgument, **context):
    with pytest.raises(fault) as caught:
        opened(bench, given, **context)
    return caught.value.message


# Batches


@pytest.mark.parametrize("first", [-1, 1, 8])
def test_batches_of_any_size(bench, first):
    """Whatever batch the file was exported with."""
    add_sub(bench, first)
    jobs = [bench.job({"a": np.repeat(X, rows, 0) + rows, "b": np.repeat(Y, rows, 0)}) for rows in (1, 3, 2)]
    executed(bench, config(), *jobs)
    for job in jobs:
        a, b = (job.request.inputs[name].numpy() for name in ("a", "b"))
        np.testing.assert_array_equal(bench.outputs(job)["SUM"], a + b)
        np.testing.assert_array_equal(bench.outputs(job)["DIFFERENCE"], a - b)


def test_large_batches(bench):
    """Joined into memory that OpenVINO then reads, not copies."""
    a = parameter("a", [-1, 50000])
    saved(bench, [named(op.negative(a), "y")], [a])
    jobs = [bench.job({"a": np.full((rows, 50000), rows, np.float32)}) for rows in (1, 2, 3)]
    executed(bench, config(("a",), ("y",), (50000,)), *jobs)
    for rows, job in zip((1, 2, 3), jobs, strict=True):
        np.testing.assert_array_equal(bench.outputs(job)["y"], np.full((rows, 50000), -rows, np.float32))


def test_answers_keep_when_the_next_batch_is_executed(bench):
    add_sub(bench)
    _, instance = opened(bench, config())
    first, second = bench.job({"a": X, "b": Y}), bench.job({"a": X + 100, "b": Y})
    instance.execute(bench.batch(first))
    instance.execute(bench.batch(second))
    np.testing.assert_array_equal(bench.outputs(first)["SUM"], X + Y)
    np.testing.assert_array_equal(bench.outputs(second)["SUM"], X + Y + 100)


def test_no_rows_and_only_what_is_asked_for(bench):
    add_sub(bench)
    job = bench.job({"a": X[:0], "b": Y[:0]}, outputs=("DIFFERENCE",))
    executed(bench, config(), job)
    assert {name: array.shape for name, array in bench.outputs(job).items()} == {"DIFFERENCE": (0, 4)}


def test_a_request_with_a_size_that_the_model_does_not_take_fails_alone(bench):
    """The configuration leaves the size open, the model does not."""
    add_sub(bench)
    good, bad = bench.job({"a": X, "b": Y}), bench.job({"a": X[:, :3], "b": Y[:, :3]})
    _, instance = opened(bench, config(dims=(-1,)))
    instance.execute(bench.batch(bad))
    instance.execute(bench.batch(good))
    assert isinstance(bad.fault, ModelFailure)
    assert bad.fault.message.startswith("openvino error in running inference : ")
    assert "(shape=[?,4])" in bad.fault.message
    assert "src/inference/src/cpp" not in bad.fault.message.split("failed at")[0]
    np.testing.assert_array_equal(bench.outputs(good)["SUM"], X + Y)


def test_fixed_batches(bench):
    """Smaller ones are refused, or padded where the model asks for that."""
    add_sub(bench)
    fixed = {"SKIP_OV_DYNAMIC_BATCHSIZE": "YES"}
    _, instance = opened(bench, config(parameters=fixed))
    with pytest.raises(
        Internal, match=r"expected requests with batch size '8', got '2'\.\.\. this error can be avoided"
    ):
        instance.execute(bench.batch(bench.job({"a": np.repeat(X, 2, 0), "b": np.repeat(Y, 2, 0)})))
    whole = bench.job({"a": np.repeat(X, 8, 0), "b": np.repeat(Y, 8, 0)})
    instance.execute(bench.batch(whole))
    assert bench.outputs(whole)["SUM"].shape == (8, 4)
    jobs = [bench.job({"a": np.repeat(X, rows, 0) + rows, "b": np.repeat(Y, rows, 0)}) for rows in (1, 2)]
    executed(bench, config(parameters={**fixed, "ENABLE_BATCH_PADDING": "yes"}), *jobs)
    for rows, job in zip((1, 2), jobs, strict=True):
        np.testing.assert_array_equal(bench.outputs(job)["SUM"], np.repeat(X + Y, rows, 0) + rows)


def test_models_with_their_batch_in_the_graph(bench):
    """They cannot have another one: theirs is the only one, if it is max_batch_size."""
    a = parameter("a", [8, 4])
    saved(bench, [named(op.reshape(a, [8, 2, 2], special_zero=False), "y")], [a])
    given = config(("a",), (), parameters={"ENABLE_BATCH_PADDING": "YES"})
    given.output = [ModelOutput(name="y", data_type=DataType.TYPE_FP32, dims=[2, 2])]
    job = bench.job({"a": X})
    executed(bench, given, job)
    np.testing.assert_array_equal(bench.outputs(job)["y"], X.reshape(1, 2, 2))
    given.max_batch_size = 4
    assert "openvino error in reshaping the inputs of model 'm' : " in refused(bench, given)


def test_datatypes_are_converted(bench):
    """The configuration's hold at the doors."""
    add_sub(bench)
    job = bench.job({"a": X.astype(np.int32), "b": Y.astype(np.int32)})
    executed(bench, config(kind=DataType.TYPE_INT32), job)
    found = bench.outputs(job)["SUM"]
    np.testing.assert_array_equal(found, (X + Y).astype(np.int32))
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    "kind",
    ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"],
)
def test_every_datatype(bench, kind):
    """Each comes back as it was."""
    dtype = BY_NAME[kind].dtype
    a = parameter("a", [-1, 4], dtype.type)
    saved(bench, [named(op.concat([a, a], 1), "y")], [a])
    model, instance = opened(bench, config((), (), max_batch_size=0))
    assert [item.data_type for item in (*model.config.input, *model.config.output)] == [DataType[f"TYPE_{kind}"]] * 2
    values = np.array([[0, 1, 1, 0]], dtype)
    job = bench.job({"a": values}, batching=False)
    instance.execute(bench.batch(job))
    np.testing.assert_array_equal(bench.outputs(job)["y"], np.concatenate([values, values], 1))


def test_scalars(bench):
    """1s stand for them."""
    a, by = parameter("a", [4]), parameter("by", [])
    total = op.reduce_sum(op.multiply(a, by), [0])
    saved(bench, [named(total, "total")], [a, by])
    model, instance = opened(bench, config((), (), max_batch_size=0))
    assert [list(item.dims) for item in (*model.config.input, *model.config.output)] == [[4], [1], [1]]
    job = bench.job({"a": X[0], "by": np.array([3], np.float32)}, batching=False)
    instance.execute(bench.batch(job))
    np.testing.assert_array_equal(bench.outputs(job)["total"], [18])


def test_reshapes_of_the_configuration(bench):
    add_sub(bench)
    given = config()
    for item in (*given.input, *given.output):
        item.dims = [2, 2]
        item.reshape = ModelTensorReshape(shape=[4])
    job = bench.job({"a": X.reshape(1, 2, 2), "b": Y.reshape(1, 2, 2)})
    executed(bench, given, job)
    np.testing.assert_array_equal(bench.outputs(job)["SUM"], (X + Y).reshape(1, 2, 2))


def test_layers_are_reshaped_where_asked(bench):
    """To sizes that the file does not have."""
    add_sub(bench)
    job = bench.job({"a": X[:, :3], "b": Y[:, :3]})
    executed(bench, config(dims=(3,), parameters={"RESHAPE_IO_LAYERS": "YES"}), job)
    np.testing.assert_array_equal(bench.outputs(job)["SUM"], (X + Y)[:, :3])
    assert "the model expects 2 dimensions (shape [-1,4])" in refused(bench, config(dims=(3,)))


@pytest.mark.interpreted
def test_states_of_sequences(bench):
    """What the model answers for a state is what its sequence is given to keep."""
    x, old, start = (parameter(name, [-1, 1]) for name in ("x", "old", "start"))
    new = op.add(op.multiply(old, op.subtract(op.constant(np.float32(1)), start)), x)
    saved(bench, [named(new, "new"), named(op.multiply(new, op.constant(np.float32(2))), "y")], [x, old, start])
    control = ModelSequenceBatchingControl(
        kind=ModelSequenceBatchingControlKind.CONTROL_SEQUENCE_START, fp32_false_true=[0.0, 1.0]
    )
    sequences = ModelSequenceBatching(
        control_input=[ModelSequenceBatchingControlInput(name="start", control=[control])],
        state=[ModelSequenceBatchingState(input_name="old", output_name="new", data_type=DataType.TYPE_FP32, dims=[1])],
    )
    model, instance = opened(bench, config((), (), max_batch_size=4, sequence_batching=sequences))
    assert [[item.name for item in items] for items in (model.config.input, model.config.output)] == [["x"], ["y"]]
    kept = {}
    jobs = []
    for value in (1.0, 5.0):
        arrays = {"x": [[value]], "old": [[10.0]], "start": [[0.0]]}
        job = bench.job({name: np.array(rows, np.float32) for name, rows in arrays.items()})
        job.set_state = lambda name, tensor, value=value: kept.setdefault((value, name), tensor.numpy())
        jobs.append(job)
    instance.execute(bench.batch(*jobs))
    assert {key: array.tolist() for key, array in kept.items()} == {(1.0, "new"): [[11.0]], (5.0, "new"): [[15.0]]}
    assert bench.outputs(jobs[1])["y"].tolist() == [[30.0]]


# Files


def test_an_onnx_file_answers_as_onnx_runtime_does(bench):
    """The same file through both."""
    rng = np.random.default_rng(7)
    weights = [
        h.make_tensor("w", T.FLOAT, [3, 2, 3, 3], rng.standard_normal(54).astype(np.float32)),
        h.make_tensor("v", T.FLOAT, [3, 5], rng.standard_normal(15).astype(np.float32)),
    ]
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["c"], ["r"]),
        h.make_node("GlobalAveragePool", ["r"], ["p"]),
        h.make_node("Flatten", ["p"], ["f"]),
        h.make_node("MatMul", ["f", "v"], ["l"]),
        h.make_node("Softmax", ["l"], ["y"]),
    ]
    inputs = [h.make_tensor_value_info("x", T.FLOAT, ["N", 2, 8, 8])]
    graph = h.make_graph(nodes, "g", inputs, [h.make_tensor_value_info("y", T.FLOAT, ["N", 5])], weights)
    (bench.path / "1").mkdir(parents=True)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, bench.path / "1" / "model.onnx")
    image = rng.standard_normal((3, 2, 8, 8)).astype(np.float32)
    answers = []
    for backend in (OpenVINOBackend(), OnnxRuntimeBackend()):
        exact = {"HINT_BF16": "NO"}
        given = config((), (), max_batch_size=4, default_model_filename="model.onnx", parameters=exact)
        instance = backend.open_model(bench.context(given)).open_instance(bench.instance())
        job = bench.job({"x": image})
        instance.execute(bench.batch(job))
        answers.append(bench.outputs(job)["y"])
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-5)


GRAPH = """
node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } }
  attr { key: "shape" value { shape { dim { size: -1 } dim { size: 4 } } } } }
node { name: "two" op: "Const" attr { key: "dtype" value { type: DT_FLOAT } }
  attr { key: "value" value { tensor { dtype: DT_FLOAT tensor_shape { } float_val: 2 } } } }
node { name: "y" op: "Mul" input: "x" input: "two" attr { key: "T" value { type: DT_FLOAT } } }
"""


def test_a_graph_of_tensorflow(bench):
    """Frozen, as text. Its tensors have TensorFlow's names."""
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / "model.pbtxt").write_text(GRAPH)
    job = bench.job({"x:0": X})
    executed(bench, config(("x:0",), ("y:0",), default_model_filename="model.pbtxt"), job)
    np.testing.assert_array_equal(bench.outputs(job)["y:0"], 2 * X)


def test_a_saved_model_of_tensorflow(bench):
    """The folder, read without TensorFlow; by the names of its default signature."""
    models.trained(bench.path / "1" / "model.savedmodel")
    job = bench.job({"x": np.array([[2, 1], [0, 0]], np.float32)})
    exact = {"HINT_BF16": "NO"}
    executed(bench, config(("x",), ("y",), (-1,), default_model_filename="model.savedmodel", parameters=exact), job)
    np.testing.assert_allclose(bench.outputs(job)["y"], [[2], [1]], atol=0.05)


class Halves(torch.nn.Module):
    def forward(self, a):
        return a[:, :2], a[:, 2:] * 2


@pytest.mark.parametrize("name", ["model.pt", "model.pt2"])
def test_files_of_pytorch(bench, name):
    """Converted with PyTorch. Results without a name are called by their place."""
    file = bench.path / "1" / name
    file.parent.mkdir(parents=True)
    if name == "model.pt":
        torch.jit.trace(Halves(), (torch.zeros(2, 4),)).save(str(file))
    else:
        shapes = {"a": {0: torch.export.Dim("batch", max=8)}}
        torch.export.save(torch.export.export(Halves(), (torch.zeros(2, 4),), dynamic_shapes=shapes), str(file))
    given = config(("a",), (), max_batch_size=3, default_model_filename=name)
    model, instance = opened(bench, given)
    answered = [item.name for item in model.config.output]
    if name == "model.pt":
        assert answered == ["OUTPUT__0", "OUTPUT__1"]
    job = bench.job({"a": X})
    instance.execute(bench.batch(job))
    found = bench.outputs(job)
    np.testing.assert_array_equal(found[answered[0]], X[:, :2])
    np.testing.assert_array_equal(found[answered[1]], X[:, 2:] * 2)


def test_files_of_pytorch_without_pytorch(bench, monkeypatch):
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / "model.pt2").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    found = refused(bench, config(default_model_filename="model.pt2"), Unavailable)
    assert found.startswith(
        "unable to load model 'm': OpenVINO converts 'model.pt2' with torch, which cannot be imported"
    )


def test_instances_share_a_compiled_model_and_no_request(bench):
    """Side by side, from threads of their own."""
    add_sub(bench)
    model, _ = opened(bench, config(parameters={"NUM_STREAMS": "2"}))
    instances = [model.open_instance(bench.instance(f"m_0_{index}")) for index in range(2)]
    jobs = [[bench.job({"a": X + 100 * index + turn, "b": Y}) for turn in range(50)] for index in range(2)]

    def execute(instance, mine):
        for job in mine:
            instance.execute(bench.batch(job))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(execute, instances, jobs))
    for index, mine in enumerate(jobs):
        for turn, job in enumerate(mine):
            np.testing.assert_array_equal(bench.outputs(job)["SUM"], X + Y + 100 * index + turn)


def test_files_that_are_not_there(bench):
    found = refused(bench, config(), Unavailable)
    assert found == f"unable to find '{bench.path}/1/model.xml' for model 'm'"


def test_files_that_are_none(bench):
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / "model.xml").write_text("junk")
    assert refused(bench, config(), Internal).startswith("openvino error in reading model : ")


def test_without_the_framework(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert refused(bench, config(), Unavailable).endswith("to get it: pip install 'despina[openvino]'")


# Completion


@pytest.mark.parametrize("first", [-1, 2])
def test_completion_with_a_batch_layout(bench, first):
    """The default batch size, batches of it, and no sizes where one is open."""
    add_sub(bench, first, "NC")
    model, _ = opened(bench, config((), (), max_batch_size=0))
    done = model.config
    assert done.max_batch_size == 4
    assert list(done.dynamic_batching.preferred_batch_size) == [4]
    assert [item.name for item in (*done.input, *done.output)] == ["a", "b", "SUM", "DIFFERENCE"]
    assert {tuple(item.dims) for item in (*done.input, *done.output)} == {(-1,) if first == -1 else (4,)}


def test_completion_without_a_layout(bench, caplog):
    """Such a model does not batch, unless its configuration says so."""
    add_sub(bench)
    model, _ = opened(bench, config((), (), max_batch_size=0))
    assert model.config.max_batch_size == 0
    assert model.config.dynamic_batching is None
    assert {tuple(item.dims) for item in model.config.input} == {(-1, -1)}
    with caplog.at_level(logging.WARNING):
        model, _ = opened(bench, config((), (), max_batch_size=3))
    assert "the layouts in its file do not say that it batches" in caplog.text
    assert list(model.config.dynamic_batching.preferred_batch_size) == [3]


def test_default_batch_size_is_at_least_one(bench):
    add_sub(bench, layout="NC")
    model, _ = opened(bench, config((), (), max_batch_size=0), backend_config={"default-max-batch-size": "0"})
    assert model.config.max_batch_size == 1
    assert model.config.dynamic_batching is None


# What does not fit


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (config(("a",)), "unable to load model 'm', configuration expects 1 inputs, model provides 2"),
        (config(("a", "z")), "unexpected inference input 'z', allowed inputs are: a, b"),
        (config(outputs=("z",)), "unexpected inference output 'z', allowed outputs are: DIFFERENCE, SUM"),
        (config(dims=(4, 1)), "model 'm', tensor 'a': the model expects 2 dimensions (shape [-1,4]) but the model"),
        (config(dims=(5,)), "model 'm', tensor 'a': the model expects 2 dimensions (shape [-1,4]) but the model"),
        (config(kind=DataType.TYPE_STRING), "unsupported datatype TYPE_STRING for input 'a' for model 'm'"),
        (config(kind=DataType.TYPE_BF16), "unsupported datatype TYPE_BF16 for input 'a' for model 'm'"),
    ],
)
def test_configurations_that_do_not_fit(bench, given, expected):
    add_sub(bench)
    assert expected in refused(bench, given)


def test_what_is_not_there_yet_is_refused(bench):
    add_sub(bench)
    given = config()
    given.input[0].allow_ragged_batch = True
    assert "has no ragged batches" in refused(bench, given)
    given = config()
    given.input[0].optional = True
    assert "optional input 'a' is not supported" in refused(bench, given)


def test_tensors_without_names():
    """Files give names to all, mostly; a graph need not."""
    a = parameter("a", [-1, 4])
    model = ov.Model([op.result(op.relu(a))], [a], "m")
    model.inputs[0].set_names(set())
    with pytest.raises(InvalidArgument, match="the model's input 0 has no name, so no request can have it"):
        Signature.of(ov, model)


def test_instances_on_gpus(bench):
    add_sub(bench)
    model, _ = opened(bench, config())
    with pytest.raises(InvalidArgument, match="unable to load model 'm', openVINO backend supports only CPU device"):
        model.open_instance(bench.instance(kind="GPU"))


# Options


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("INFERENCE_NUM_THREADS", "1", 1),
        ("NUM_STREAMS", "2", 2),
        ("PERFORMANCE_HINT", "throughput", "THROUGHPUT"),
        ("PERFORMANCE_HINT", "LATENCY", "LATENCY"),
    ],
)
def test_options_reach_the_compiled_model(bench, name, value, expected):
    add_sub(bench)
    model, _ = opened(bench, config(parameters={"INFERENCE_NUM_THREADS": "2", name: value}))
    assert model._compiled.get_property(name) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("NUM_STREAMS", "auto"), ("NUM_STREAMS", "NUMA"), ("COMPILATION_NUM_THREADS", "1"), ("HINT_BF16", "yes")],
)
def test_options_that_are_taken(bench, name, value):
    """Whether this machine has an effect for them or not; the answers are the same."""
    add_sub(bench)
    job = bench.job({"a": X, "b": Y})
    executed(bench, config(parameters={name: value}), job)
    np.testing.assert_array_equal(bench.outputs(job)["SUM"], X + Y)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("INFERENCE_NUM_THREADS", "-1", "a non-negative number"),
        ("INFERENCE_NUM_THREADS", "99999", "at most 1024"),
        ("COMPILATION_NUM_THREADS", "x", "a non-negative number"),
        ("NUM_STREAMS", "many", "a non-negative number or AUTO/NUMA"),
        ("PERFORMANCE_HINT", "x", "LATENCY or THROUGHPUT"),
        ("HINT_BF16", "maybe", "either YES or NO"),
        ("ENABLE_BATCH_PADDING", "true", "either YES or NO"),
    ],
)
def test_options_that_cannot_be(bench, name, value, expected):
    add_sub(bench)
    found = refused(bench, config(parameters={name: value}))
    assert found == f"expected the parameter '{name}' to be {expected}, got {value}"


@pytest.mark.parametrize(
    ("name", "value", "doing"),
    [
        ("CPU_EXTENSION_PATH", "/nowhere/lib.so", "loading custom CPU extensions"),
        ("TARGET_DEVICE", "NOTHING", "configuring device"),
    ],
)
def test_what_the_machine_does_not_have(bench, name, value, doing):
    add_sub(bench)
    assert refused(bench, config(parameters={name: value}), Internal).startswith(f"openvino error in {doing} : ")


def test_openvino_tells_nobody(bench):
    """In a fresh process, its converter has the sender that sends nothing."""
    program = """
import sys
from despina.backends.telemetry import without_openvino_telemetry
with without_openvino_telemetry():
    import openvino
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", telemetry_utils.tm
assert "openvino_telemetry" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
