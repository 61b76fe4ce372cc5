"""TensorFlow models of every kind of file, made by TensorFlow itself: signatures, completion, faults, sessions."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import despina
import ml_dtypes
import numpy as np
import pytest
import trio
from despina.backends.tensorflow import TensorFlowBackend
from despina.backends.tensorflow.instance import CALLABLES_MAX
from despina.backends.tensorflow.options import Options
from despina.schema.datatype import BY_NAME
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, Unavailable
from despina.schema.wire.generated.inference import (
    BatchInput,
    BatchInputKind,
    DataType,
    ModelConfig,
    ModelInput,
    ModelOperations,
    ModelOptimizationPolicy,
    ModelOptimizationPolicyExecutionAccelerators,
    ModelOptimizationPolicyExecutionAcceleratorsAccelerator,
    ModelOptimizationPolicyGraph,
    ModelOutput,
    ModelParameter,
    ModelSequenceBatching,
    ModelSequenceBatchingControl,
    ModelSequenceBatchingControlInput,
    ModelSequenceBatchingControlKind,
    ModelSequenceBatchingState,
    ModelTensorReshape,
)

from tests.unit.backends import tensorflow_models as models

FP32 = DataType.TYPE_FP32
X = np.array([[1.0, 2.0]], np.float32)
Y = np.array([[10.0, 20.0]], np.float32)
SAVED, GRAPH = "tensorflow_savedmodel", "tensorflow_graphdef"


def config(inputs=("a", "b"), outputs=("SUM", "DIFFERENCE"), dims=(2,), kind=FP32, platform=SAVED, **fields):
    parameters = {name: ModelParameter(string_value=text) for name, text in fields.pop("parameters", {}).items()}
    given = {
        "max_batch_size": 8,
        "input": [ModelInput(name=name, data_type=kind, dims=list(dims)) for name in inputs],
        "output": [ModelOutput(name=name, data_type=kind, dims=list(dims)) for name in outputs],
        **fields,
    }
    return ModelConfig(name="m", backend="tensorflow", platform=platform, parameters=parameters, **given)


def bare(**fields):
    """Nothing but what the name of the file says."""
    return config((), (), **{"max_batch_size": 0, **fields})


def add_sub(v1):
    a, b = (v1.placeholder("float32", [None, 2], name=name) for name in "ab")
    return {"serving_default": ({"a": a, "b": b}, {"SUM": v1.add(a, b, name="SUM"), "DIFFERENCE": a - b})}


def saved(bench, build=add_sub, **how):
    (bench.path / "1").mkdir(exist_ok=True, parents=True)
    models.saved_by_version_1(bench.path / "1" / "model.savedmodel", build, **how)


def graph(bench, build, **how):
    (bench.path / "1").mkdir(exist_ok=True, parents=True)
    models.graph(bench.path / "1" / "model.graphdef", build, **how)


def opened(bench, given, **context):
    model = TensorFlowBackend().open_model(bench.context(given, **context))
    return model, model.open_instance(bench.instance())


def executed(bench, given, *jobs):
    opened(bench, given)[1].execute(bench.batch(*jobs))
    return jobs


def refused(bench, given, fault=InvalidArgument, **context):
    with pytest.raises(fault) as caught:
        opened(bench, given, **context)
    return caught.value.message


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Trained once."""
    folder = tmp_path_factory.mktemp("trained") / "model.savedmodel"
    models.trained(folder)
    return folder


@pytest.fixture
def lined(bench, line):
    (bench.path / "1").mkdir(parents=True)
    shutil.copytree(line, bench.path / "1" / "model.savedmodel")
    return bench


# Files and signatures


def test_a_trained_model_of_version_2(lined):
    """It is completed from its signature, batches, and has learnt."""
    model, instance = opened(lined, bare())
    done = model.config
    assert (done.max_batch_size, list(done.dynamic_batching.preferred_batch_size)) == (4, [4])
    assert [(item.name, item.data_type, list(item.dims)) for item in (*done.input, *done.output)] == [
        ("x", FP32, [2]),
        ("y", FP32, [1]),
    ]
    jobs = [lined.job({"x": np.array(rows, np.float32)}) for rows in ([[1, 1]], [[0, 0], [2, 1]])]
    instance.execute(lined.batch(*jobs))
    np.testing.assert_allclose(lined.outputs(jobs[0])["y"], [[0]], atol=0.05)
    np.testing.assert_allclose(lined.outputs(jobs[1])["y"], [[1], [2]], atol=0.05)


def test_its_other_signature(lined):
    """With strings; its one output has no dimension but the batch's."""
    model, instance = opened(lined, bare(parameters={"TF_SIGNATURE_DEF": "word"}))
    (output,) = model.config.output
    assert (output.name, output.data_type, list(output.dims), list(output.reshape.shape)) == (
        "word",
        DataType.TYPE_STRING,
        [1],
        [],
    )
    job = lined.job({"x": np.array([[1, 0], [0, 1]], np.float32)})
    instance.execute(lined.batch(job))
    assert lined.outputs(job)["word"].tolist() == [[b"above"], [b"below"]]


def test_a_signature_or_tag_that_is_not_there(lined):
    found = refused(lined, bare(parameters={"TF_SIGNATURE_DEF": "figure"}))
    assert found == "unable to load model 'm', expected 'figure' signature, the model has: serving_default, word"
    found = refused(lined, bare(parameters={"TF_GRAPH_TAG": "train"}))
    assert found == "unable to load model 'm', expected 'train' tag, the model has: serve"


def test_a_model_of_version_1(bench):
    """With a variable, and a graph for each tag."""

    def build(v1):
        x = v1.placeholder("float32", [None, 2])
        factor = v1.get_variable("factor", initializer=3.0, use_resource=False)
        return {"other": ({"x": x}, {"y": x * factor})}

    saved(bench, build, tags=(("serve",), ("serve", "fast")))
    for parameters in ({}, {"TF_GRAPH_TAG": "fast,serve"}):
        job = bench.job({"x": X})
        executed(bench, bare(parameters=parameters), job)
        np.testing.assert_array_equal(bench.outputs(job)["y"], 3 * X)


def test_a_signature_of_another_name_is_said(bench, caplog):
    saved(bench, lambda v1: {"b": add_sub(v1)["serving_default"], "a": add_sub(v1)["serving_default"]})
    with caplog.at_level(logging.WARNING):
        opened(bench, bare())
    assert "unable to find default serving signature 'serving_default', using signature 'a'" in caplog.text


def test_a_frozen_graph(bench):
    """By the names of its nodes, and the other results of one by their number."""

    def build(v1):
        x = v1.placeholder("float32", [None, 4], name="x")
        weights = v1.get_variable("weights", initializer=np.eye(4, dtype=np.float32) * 2)
        v1.math.top_k(v1.matmul(x, weights), 2, name="top")

    graph(bench, build, frozen=("top",))
    given = config(("x",), ("top",), platform=GRAPH)
    given.input[0].dims = [4]
    given.output.append(ModelOutput(name="top:1", data_type=DataType.TYPE_INT32, dims=[2]))
    job = bench.job({"x": np.array([[1, 4, 2, 3], [9, 8, 7, 6]], np.float32)})
    executed(bench, given, job)
    assert bench.outputs(job)["top"].tolist() == [[8, 6], [18, 16]]
    assert bench.outputs(job)["top:1"].tolist() == [[1, 3], [0, 1]]


def variables(v1):
    x = v1.placeholder("float32", [None, 2], name="x")
    v1.add(x, v1.get_variable("v", initializer=5.0), name="y")
    v1.global_variables_initializer()


@pytest.mark.parametrize("place", ["1", "."])
def test_operations_that_come_first(bench, place):
    """A graph's variables have values from an operation of its own, which a file beside it names."""
    graph(bench, variables)
    (bench.path / place / "first.json").write_text(json.dumps({"init_ops": ["init"]}))
    job = bench.job({"x": X})
    executed(bench, config(("x",), ("y",), platform=GRAPH, parameters={"TF_INIT_OPS_FILE": "first.json"}), job)
    np.testing.assert_array_equal(bench.outputs(job)["y"], X + 5)


@pytest.mark.parametrize(
    ("content", "fault", "expected"),
    [
        (None, Unavailable, "unable to find '{}/1/first.json', TF_INIT_OPS_FILE of model 'm'"),
        ("[]", InvalidArgument, "must be a JSON object with a list of names 'init_ops'"),
        ('{"init_ops": ["nothing"]}', InvalidArgument, "names operation 'nothing', which is not in the graph"),
        ("{", InvalidArgument, "must be a JSON object with a list of names 'init_ops'"),
    ],
)
def test_operations_that_are_not_there(bench, content, fault, expected):
    graph(bench, variables)
    if content is not None:
        (bench.path / "1" / "first.json").write_text(content)
    given = config(("x",), ("y",), platform=GRAPH, parameters={"TF_INIT_OPS_FILE": "first.json"})
    assert expected.format(bench.path) in refused(bench, given, fault)


def test_files_that_are_not_there_or_are_none(bench):
    path = bench.path / "1"
    assert refused(bench, config(), Unavailable) == f"unable to find '{path}/model.savedmodel' for model instance 'm'"
    (path / "model.savedmodel").mkdir()
    assert refused(bench, config(), Internal).startswith("failed to load model 'm': SavedModel file does not exist")
    (path / "model.graphdef").write_bytes(b"junk")
    assert f"'{path}/model.graphdef' is no GraphDef" in refused(bench, config(platform=GRAPH), Internal)
    (path / "model.graphdef").write_bytes(b"")
    assert refused(bench, config(platform=GRAPH), Internal) == "model m has an empty network"
    found = refused(bench, config(platform="tensorflow_lite"))
    assert found == "platform tensorflow_lite not supported for TensorFlow model 'm'"


TENSORRT = """
node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } }
node { name: "y" op: "%s" input: "x" }
"""


@pytest.mark.parametrize(
    ("operation", "hint"),
    [
        ("TRTEngineOp", "a model that TF-TRT has converted needs a TensorFlow built with TensorRT"),
        ("MyOwn", "give the library that has it as model_operations.op_library_filename"),
    ],
)
def test_operations_that_tensorflow_lacks(bench, operation, hint):
    from google.protobuf import text_format
    from tensorflow.core.framework.graph_pb2 import GraphDef

    (bench.path / "1").mkdir(parents=True)
    content = text_format.Parse(TENSORRT % operation, GraphDef()).SerializeToString()
    (bench.path / "1" / "model.graphdef").write_bytes(content)
    found = refused(bench, config(("x",), ("y",), platform=GRAPH), Unavailable)
    assert found.startswith(f"unable to load model 'm': its graph has operation '{operation}', which TensorFlow 2.")
    assert found.endswith(hint)


def test_libraries_of_operators(bench):
    """Those that are not there, and those that are none."""
    saved(bench)
    given = config(model_operations=ModelOperations(op_library_filename=["lib.so"]))
    assert refused(bench, given, Unavailable).startswith(f"unable to find '{bench.path}/lib.so', a library")
    (bench.path / "lib.so").write_text("junk")
    assert refused(bench, given, Internal).startswith("failed to load model 'm': ")


def test_what_tensorflow_cannot_compute_is_refused(bench):
    """An output that is none: when the model is loaded, not when it is asked for."""

    def build(v1):
        x = v1.placeholder("float32", [])
        output = v1.saved_model.build_tensor_info(v1.identity(x, name="y"))
        output.name = "y:7"
        return {"serving_default": ({"x": x}, {"y": output})}

    saved(bench, build)
    found = refused(bench, bare(), Internal)
    assert found.startswith("failed to load model 'm': Node 'y' (type: 'Identity', num of outputs: 1) does not have")


# Batches


def test_batches_of_any_size(bench):
    saved(bench)
    jobs = [bench.job({"a": np.repeat(X, rows, 0) + rows, "b": np.repeat(Y, rows, 0)}) for rows in (1, 3, 0, 2)]
    executed(bench, config(), *jobs)
    for job in jobs:
        a, b = (job.request.inputs[name].numpy() for name in ("a", "b"))
        np.testing.assert_array_equal(bench.outputs(job)["SUM"], a + b)
        np.testing.assert_array_equal(bench.outputs(job)["DIFFERENCE"], a - b)


def test_large_batches(bench):
    """Joined into memory that TensorFlow reads, not copies."""

    def build(v1):
        a = v1.placeholder("float32", [None, 50000])
        return {"serving_default": ({"a": a}, {"y": -a})}

    saved(bench, build)
    jobs = [bench.job({"a": np.full((rows, 50000), rows, np.float32)}) for rows in (1, 2, 3)]
    executed(bench, config(("a",), ("y",), (50000,)), *jobs)
    for rows, job in zip((1, 2, 3), jobs, strict=True):
        np.testing.assert_array_equal(bench.outputs(job)["y"], np.full((rows, 50000), -rows, np.float32))


@pytest.mark.parametrize("kind", sorted(set(BY_NAME) - {"BYTES", "BF16"}))
def test_every_datatype(bench, kind):
    """Each comes back as it was, in memory of its own: a model that hands its input through is none that shares it."""

    def build(v1):
        x = v1.placeholder(BY_NAME[kind].dtype, [None, 16])
        return {"serving_default": ({"x": x}, {"y": v1.identity(x)})}

    saved(bench, build)
    model, instance = opened(bench, bare())
    assert [item.data_type for item in (*model.config.input, *model.config.output)] == [DataType[f"TYPE_{kind}"]] * 2
    memory = np.zeros(1024, np.uint8)
    start = -memory.ctypes.data % 64  # as aligned as TensorFlow wants what it does not copy
    values = memory[start : start + 16 * BY_NAME[kind].dtype.itemsize].view(BY_NAME[kind].dtype).reshape(1, 16)
    values[0, :3] = [0, 1, 1]
    job = bench.job({"x": values})
    job.request.inputs["x"].wire, job.request.inputs["x"].array = None, values
    instance.execute(bench.batch(job))
    found = bench.outputs(job)["y"]
    np.testing.assert_array_equal(found, values)
    assert not np.may_share_memory(found, values)


def test_bf16(bench):
    """In numbers of 16 bits here, in its own there."""

    def build(v1):
        x = v1.placeholder("bfloat16", [None, 2])
        return {"serving_default": ({"x": x}, {"y": x + x})}

    saved(bench, build)
    model, instance = opened(bench, bare())
    assert model.config.input[0].data_type == DataType.TYPE_BF16
    from despina.schema.tensor import Tensor

    bits = X.astype(ml_dtypes.bfloat16).view(np.uint16)
    job = bench.job({"x": Tensor("x", "BF16", (1, 2), bits.tobytes())})
    instance.execute(bench.batch(job))
    (output,) = job.response.outputs
    assert output.datatype == "BF16"
    np.testing.assert_array_equal(output.numpy().view(ml_dtypes.bfloat16).astype(np.float32), 2 * X)


def test_strings_of_any_bytes(bench):
    def build(v1):
        x = v1.placeholder("string", [None, None])
        return {"serving_default": ({"x": x}, {"y": v1.strings.join([x, x]), "length": v1.strings.length(x)})}

    saved(bench, build)
    jobs = [bench.job({"x": np.array(rows, object)}) for rows in ([[b"\xff\0", b""]], [[b"a", b"bc"], [b"d", b"e"]])]
    executed(bench, bare(), *jobs)
    assert bench.outputs(jobs[0])["y"].tolist() == [[b"\xff\0\xff\0", b""]]
    assert bench.outputs(jobs[1])["y"].tolist() == [[b"aa", b"bcbc"], [b"dd", b"ee"]]
    assert bench.outputs(jobs[1])["length"].tolist() == [[1, 2], [1, 1]]


def test_scalars(bench):
    """1s stand for them, strings too."""

    def build(v1):
        x, by = v1.placeholder("float32", [4]), v1.placeholder("float32", [])
        total = v1.reduce_sum(x * by)
        return {"serving_default": ({"x": x, "by": by}, {"total": total, "text": v1.as_string(total)})}

    saved(bench, build)
    model, instance = opened(bench, bare())
    assert {item.name: list(item.dims) for item in (*model.config.input, *model.config.output)} == {
        "x": [4],
        "by": [1],
        "total": [1],
        "text": [1],
    }
    arrays = {"x": np.arange(4, dtype=np.float32), "by": np.array([3], np.float32)}
    job = bench.job(arrays, batching=False)
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["total"].tolist() == [18]
    assert bench.outputs(job)["text"].tolist() == [b"18.000000"]


def test_reshapes_of_the_configuration(bench):
    saved(bench)
    given = config()
    for item in (*given.input, *given.output):
        item.dims = [1, 2]
        item.reshape = ModelTensorReshape(shape=[2])
    job = bench.job({"a": X[:, None], "b": Y[:, None]})
    executed(bench, given, job)
    np.testing.assert_array_equal(bench.outputs(job)["SUM"], (X + Y)[:, None])


def test_only_what_is_asked_for_is_computed(bench):
    """Up to a number of different wishes; then everything is, and the answers are the same."""
    names = [f"y{index}" for index in range(6)]

    def build(v1):
        x = v1.placeholder("float32", [None, 2])
        outputs = {name: x + index for index, name in enumerate(names)}
        outputs["broken"] = v1.debugging.check_numerics(x / 0, "broken")
        return {"serving_default": ({"x": x}, outputs)}

    saved(bench, build)
    _, instance = opened(bench, bare(max_batch_size=8))
    job = bench.job({"x": X}, outputs=("y3",))
    instance.execute(bench.batch(job))
    assert bench.outputs(job).keys() == {"y3"}
    assert bench.outputs(job)["y3"].tolist() == (X + 3).tolist()
    job = bench.job({"x": X})
    instance.execute(bench.batch(job))
    assert "broken" in job.fault.message
    wishes = [(first, second) for first in names for second in names if first < second] + [(name,) for name in names]
    assert len(wishes) > CALLABLES_MAX
    answered = 0
    for wish in wishes:
        job = bench.job({"x": X}, outputs=wish)
        instance.execute(bench.batch(job))
        answered += job.fault is None
    assert answered == CALLABLES_MAX - 1
    assert len(instance._callables) <= CALLABLES_MAX


def test_answers_keep_when_the_next_batch_is_executed(bench):
    """Where the model changes a variable in its place, too, and gives that out."""

    def build(v1):
        x = v1.placeholder("float32", [None, 2])
        total = v1.get_variable("total", [1, 2], initializer=v1.zeros_initializer(), use_resource=False)
        return {"serving_default": ({"x": x}, {"y": v1.assign_add(total, x, use_locking=True)})}

    saved(bench, build)
    _, instance = opened(bench, config(("x",), ("y",), (1, 2), max_batch_size=0), auto_complete=False)
    jobs = [bench.job({"x": X}, batching=False) for _ in range(2)]
    for job in jobs:
        instance.execute(bench.batch(job))
    np.testing.assert_array_equal(bench.outputs(jobs[0])["y"], X)
    np.testing.assert_array_equal(bench.outputs(jobs[1])["y"], 2 * X)


def test_a_request_that_the_model_does_not_take_fails_alone(bench, caplog):
    def build(v1):
        a, b = (v1.placeholder("float32", [None, None]) for _ in "ab")
        return {"serving_default": ({"a": a, "b": b}, {"y": a + b})}

    saved(bench, build)
    _, instance = opened(bench, config(outputs=("y",), dims=(-1,)))
    bad = bench.job({"a": X, "b": np.ones((1, 3), np.float32)})
    with caplog.at_level(logging.ERROR):
        instance.execute(bench.batch(bad))
    assert isinstance(bad.fault, ModelFailure)
    assert bad.fault.message.startswith("Incompatible shapes: [1,2] vs. [1,3]")
    assert "Original stack trace" not in bad.fault.message
    assert "Incompatible shapes" in caplog.text
    good = bench.job({"a": X, "b": Y})
    instance.execute(bench.batch(good))
    np.testing.assert_array_equal(bench.outputs(good)["y"], X + Y)


def test_ragged_batches(bench):
    """All elements in one row, and where each request's end."""

    def build(v1):
        x, ends = v1.placeholder("float32", [None]), v1.placeholder("float32", [None])
        sums = v1.gather(v1.concat([[0.0], v1.cumsum(x)], 0), v1.cast(ends, "int32"))
        return {"serving_default": ({"x": x, "ends": ends}, {"sums": v1.expand_dims(sums, 1)})}

    saved(bench, build)
    given = config(("x",), ("sums",), (-1,))
    given.input[0].allow_ragged_batch = True
    given.output[0].dims = [1]
    given.batch_input = [
        BatchInput(
            kind=BatchInputKind.BATCH_ACCUMULATED_ELEMENT_COUNT,
            target_name=["ends"],
            data_type=FP32,
            source_input=["x"],
        )
    ]
    jobs = [bench.job({"x": np.ones((1, size), np.float32)}) for size in (2, 3)]
    executed(bench, given, *jobs)
    assert [bench.outputs(job)["sums"].tolist() for job in jobs] == [[[2.0]], [[5.0]]]


@pytest.mark.interpreted
def test_states_of_sequences(bench):
    """What the model answers for a state is what its sequence is given to keep."""

    def build(v1):
        x, old, start = (v1.placeholder("float32", [None, 1]) for _ in range(3))
        new = old * (1 - start) + x
        return {"serving_default": ({"x": x, "old": old, "start": start}, {"new": new, "y": new * 2})}

    saved(bench, build)
    control = ModelSequenceBatchingControl(
        kind=ModelSequenceBatchingControlKind.CONTROL_SEQUENCE_START, fp32_false_true=[0.0, 1.0]
    )
    sequences = ModelSequenceBatching(
        control_input=[ModelSequenceBatchingControlInput(name="start", control=[control])],
        state=[ModelSequenceBatchingState(input_name="old", output_name="new", data_type=FP32, dims=[1])],
    )
    model, instance = opened(bench, bare(max_batch_size=4, sequence_batching=sequences))
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


# Completion


def test_completion_of_what_is_missing(lined):
    """Of the tensors that are named, and only of those."""
    given = bare()
    given.input = [ModelInput(name="x")]
    given.output = [ModelOutput(name="y", dims=[1])]
    model, _ = opened(lined, given)
    assert model.config.input == [ModelInput(name="x", data_type=FP32, dims=[2])]
    assert model.config.output == [ModelOutput(name="y", data_type=FP32, dims=[1])]
    assert model.config.max_batch_size == 4


def test_dims_say_whether_the_model_batches(lined):
    given = bare()
    given.input = [ModelInput(name="x", data_type=FP32, dims=[-1, 2])]
    model, _ = opened(lined, given)
    assert (model.config.max_batch_size, list(model.config.output[0].dims)) == (0, [-1, 1])
    assert model.config.dynamic_batching is None
    given.output = [ModelOutput(name="y", data_type=FP32, dims=[1])]
    assert refused(lined, given) == (
        "unable to autofill for 'm', model tensor configurations are contradicting each other in terms of whether "
        "batching is supported"
    )


def test_models_that_do_not_batch(bench):
    def build(v1):
        x, free = v1.placeholder("float32", [4]), v1.placeholder("float32")
        return {"serving_default": ({"x": x, "free": free}, {"y": x + 1})}

    saved(bench, build)
    given = bare(max_batch_size=3)
    found = (
        "unable to autofill for 'm', configuration specified max-batch 3 but model signature does not support batching"
    )
    assert refused(bench, given) == found
    found = "Unable to autofill for 'm': the rank of model tensor 'free' is 0 and dimensions are not defined"
    assert refused(bench, bare()) == found
    given = bare()
    given.input = [ModelInput(name="x"), ModelInput(name="free", dims=[2, 2])]
    model, _ = opened(bench, given)
    assert [list(item.dims) for item in model.config.input] == [[4], [2, 2]]
    given.input[0].name = ""
    assert refused(bench, given) == "'name' is a required field for all inputs/outputs."


def test_default_batch_size(lined):
    model, _ = opened(lined, bare(), backend_config={"default-max-batch-size": "1"})
    assert (model.config.max_batch_size, model.config.dynamic_batching) == (1, None)


def test_graphs_say_nothing_to_complete(bench):
    graph(bench, add_sub)
    assert opened(bench, config(outputs=("SUM",), platform=GRAPH))[0].config.dynamic_batching is None


# What does not fit


@pytest.mark.parametrize("platform", [SAVED, GRAPH])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"inputs": ("a", "z")}, "unexpected inference input 'z', allowed inputs are: a, b"),
        ({"outputs": ("z",)}, "unexpected inference output 'z', allowed outputs are: "),
        ({"dims": (2, 1)}, "model 'm', tensor 'a': the model expects 2 dimensions (shape [-1,2]) but the model"),
        ({"dims": (3,)}, "model 'm', tensor 'b': the model expects 2 dimensions (shape [-1,2]) but the model"),
        (
            {"kind": DataType.TYPE_INT32},
            "unable to load model 'm', configuration expects datatype TYPE_INT32 for input 'a', model provides TYPE_FP",
        ),
    ],
)
def test_configurations_that_do_not_fit(bench, platform, fields, expected):
    (saved if platform == SAVED else graph)(bench, add_sub)
    assert expected in refused(bench, config(**{"outputs": ("SUM",), "platform": platform, **fields}))


def test_inputs_that_are_not_as_many(bench):
    saved(bench)
    found = refused(bench, config(("a",)))
    assert found == "unable to load model 'm', configuration expects 1 inputs, model provides 2"
    graph(bench, add_sub)
    found = refused(bench, config("abc", ("SUM",), platform=GRAPH))
    assert found == "unable to load model 'm', configuration expects 3 inputs, model provides at most 2"


def test_graphs_with_their_batch_in_them(bench):
    """Of one row, which is what they are asked for; of others they cannot."""

    def build(v1):
        v1.identity(v1.placeholder("float32", [1, 2], name="x"), name="y")

    graph(bench, build)
    given = config(("x",), ("y",), platform=GRAPH, max_batch_size=1)
    job = bench.job({"x": X})
    executed(bench, given, job)
    np.testing.assert_array_equal(bench.outputs(job)["y"], X)
    given.max_batch_size = 2
    assert "for the model to support batching the shape should have at least 1 dimension" in refused(bench, given)


def test_a_graph_of_many_nodes_does_not_name_them_all(bench):
    def build(v1):
        node = v1.placeholder("float32", [None, 2], name="x")
        for _ in range(200):
            node = v1.identity(node)

    graph(bench, build)
    found = refused(bench, config(("x",), ("z",), platform=GRAPH))
    assert found.startswith("unexpected inference output 'z', allowed outputs are: Identity, Identity_1, ")
    assert found.endswith(" and 100 more")


def test_what_cannot_be_carried_is_refused(bench):
    def build(v1):
        sparse = v1.sparse_placeholder("float32", [None, 2])
        return {
            "serving_default": ({"x": v1.placeholder("complex64", [None])}, {}),
            "sparse": ({"x": sparse}, {}),
        }

    saved(bench, build)
    assert refused(bench, bare()) == "unable to process input 'x' for 'm', unsupported datatype 'DT_COMPLEX64'"
    found = refused(bench, bare(parameters={"TF_SIGNATURE_DEF": "sparse"}))
    assert found == "unable to process input 'x' for 'm', it is no tensor but a coo_sparse"


def test_optional_inputs(bench):
    saved(bench)
    given = config()
    given.input[0].optional = True
    assert refused(bench, given) == "optional input 'a' is not supported by the tensorflow backend"


# Sessions and options


def test_instances_and_their_sessions(bench):
    """Each has its own variables, unless the configuration lets them share."""

    def build(v1):
        count = v1.get_variable("count", initializer=0.0)
        x = v1.placeholder("float32", [])
        with v1.control_dependencies([count.assign_add(x)]):
            return {"serving_default": ({"x": x}, {"y": count.read_value()})}

    saved(bench, build)
    for share, expected in (("1", [1, 1, 1]), ("2", [1, 2, 1])):
        model = TensorFlowBackend().open_model(bench.context(bare(parameters={"MAX_SESSION_SHARE_COUNT": share})))
        instances = [model.open_instance(bench.instance(f"m_0_{index}")) for index in range(3)]
        jobs = [bench.job({"x": np.ones(1, np.float32)}, batching=False) for _ in instances]
        for instance, job in zip(instances, jobs, strict=True):
            instance.execute(bench.batch(job))
        assert [bench.outputs(job)["y"].item() for job in jobs] == expected
        instances[0].close()
        if share == "2":  # the second one has it still, and a new one takes the first one's place
            fresh, job = model.open_instance(bench.instance()), bench.job({"x": np.ones(1, np.float32)}, batching=False)
            fresh.execute(bench.batch(job))
            assert bench.outputs(job)["y"].item() == 3
            fresh.close()
        for instance in instances[1:]:
            instance.close()
        assert not any(model._sessions._open.values())
        model.close()


def test_instances_side_by_side(bench):
    """On one session, from threads of their own."""
    saved(bench)
    model, _ = opened(bench, config(parameters={"MAX_SESSION_SHARE_COUNT": "3", "TF_NUM_INTER_THREADS": "1"}))
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


def test_other_threads_run_while_a_model_executes(bench):
    """The interpreter is not held."""

    def build(v1):
        x = v1.placeholder("float32", [None, 1200])
        product = x
        for _ in range(6):
            product = v1.matmul(product, x)
        return {"serving_default": ({"x": x}, {"y": product})}

    saved(bench, build)
    _, instance = opened(bench, config(("x",), ("y",), (1200,), max_batch_size=1200))
    job = bench.job({"x": np.zeros((1200, 1200), np.float32)})
    done = threading.Event()
    thread = threading.Thread(target=lambda: (instance.execute(bench.batch(job)), done.set()))
    turns = 0
    thread.start()
    while not done.is_set():
        turns += 1
    thread.join()
    assert job.fault is None
    assert turns > 1000


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {"intra_threads": 0, "inter_threads": 0, "own_threads": False, "instances_per_session": 1}),
        ({"TF_NUM_INTRA_THREADS": "3", "TF_NUM_INTER_THREADS": "2"}, {"intra_threads": 3, "inter_threads": 2}),
        ({"TF_NUM_INTER_THREADS": "1"}, {"inter_threads": -1}),
        ({"TF_USE_PER_SESSION_THREADS": "On"}, {"own_threads": True}),
        ({"TF_USE_PER_SESSION_THREADS": "yes"}, {"own_threads": True}),
        ({"TF_GRAPH_TAG": "serve,gpu"}, {"graph_tags": {"serve", "gpu"}}),
        ({"MAX_SESSION_SHARE_COUNT": "5"}, {"instances_per_session": 5}),
    ],
)
def test_options(parameters, expected):
    found = Options.of(bare(parameters=parameters), {})
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TF_NUM_INTRA_THREADS", "-1", "parameter 'TF_NUM_INTRA_THREADS' must be non-negative number for TensorFlow"),
        ("TF_NUM_INTER_THREADS", "-1", "parameter 'TF_NUM_INTER_THREADS' must be non-negative number for TensorFlow"),
        ("TF_NUM_INTER_THREADS", "99999", "parameter 'TF_NUM_INTER_THREADS' must be at most 1024"),
        ("TF_NUM_INTRA_THREADS", "x", "failed to convert 'x' to integral number for parameter TF_NUM_INTRA_THREADS"),
        ("TF_USE_PER_SESSION_THREADS", "x", "failed to convert 'x' to boolean for parameter TF_USE_PER_SESSION"),
        ("MAX_SESSION_SHARE_COUNT", "0", "parameter 'MAX_SESSION_SHARE_COUNT' must be positive number for TensorFlow"),
    ],
)
def test_options_that_cannot_be(name, value, expected):
    with pytest.raises(InvalidArgument) as caught:
        Options.of(bare(parameters={name: value}), {})
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize("value", ["x", "1.5", "-0.1", "nan"])
def test_fractions_that_cannot_be(value):
    with pytest.raises(InvalidArgument, match=r"gpu-memory-fraction must be a number from 0\.0 to 1\.0"):
        Options.of(bare(), {"gpu-memory-fraction": value})


def accelerated(gpu=(), cpu=(), level=0):
    made = [
        [ModelOptimizationPolicyExecutionAcceleratorsAccelerator(name=name) for name in names] for names in (gpu, cpu)
    ]
    accelerators = ModelOptimizationPolicyExecutionAccelerators(
        gpu_execution_accelerator=made[0], cpu_execution_accelerator=made[1]
    )
    return bare(
        optimization=ModelOptimizationPolicy(
            graph=ModelOptimizationPolicyGraph(level=level), execution_accelerators=accelerators
        )
    )


@pytest.mark.parametrize(
    ("gpu", "cpu", "expected"),
    [
        ((), ("openvino",), "CPU Execution Accelerator is not supported in TensorFlow backend"),
        (("rocket",), (), "unknown Execution Accelerator 'rocket' is requested"),
        (("tensorrt",), (), "Execution Accelerator 'tensorrt' is not available"),
    ],
)
def test_accelerators_that_are_not_there(gpu, cpu, expected):
    with pytest.raises(InvalidArgument, match=expected):
        Options.of(accelerated(gpu, cpu), {})


def test_what_sessions_are_asked_for():
    import tensorflow as tf

    settings = {"allow-soft-placement": "false", "gpu-memory-fraction": "0.5"}
    options = Options.of(accelerated(("auto_mixed_precision",), level=7), settings)
    found = options.session_config(tf, "GPU")
    assert not found.allow_soft_placement
    assert (found.gpu_options.per_process_gpu_memory_fraction, found.gpu_options.allow_growth) == (0.5, False)
    assert found.graph_options.optimizer_options.global_jit_level == 2
    assert found.graph_options.rewrite_options.auto_mixed_precision == 1
    assert Options.of(bare(), {}).session_config(tf, "GPU").gpu_options.allow_growth
    assert dict(options.session_config(tf, "CPU").device_count) == {"GPU": 0}


PROGRAM = """
    import gc, os, sys
    from pathlib import Path
    import numpy as np
    import psutil
    from tests.unit.backends.conftest import Bench
    from tests.unit.backends.test_tensorflow import GRAPH, TensorFlowBackend, config

    bench = Bench(Path(sys.argv[1]))
    given = config(("x",), ("y",), platform=GRAPH)
    given.input[0].dims, given.output[0].dims = [2048], [8192]
    gc.collect()
    gc.disable()
    found = []
    for _ in range(3):
        model = TensorFlowBackend().open_model(bench.context(given))
        instance = model.open_instance(bench.instance())
        job = bench.job({"x": np.ones((1, 2048), np.float32)})
        instance.execute(bench.batch(job))
        assert bench.outputs(job)["y"][0, 0] == 2048
        loaded = psutil.Process().memory_info().rss
        instance.close()
        model.close()
        del instance, model, job
        found.append((loaded >> 20, psutil.Process().memory_info().rss >> 20))
    weights = 64
    assert found[-1][0] - found[-1][1] >= weights, found
    assert found[-1][1] - found[0][1] < weights // 2, found
    sys.stderr.flush()
    os._exit(0)  # how long an interpreter with TensorFlow takes to end is not the question
"""


def test_memory_comes_back(bench, checkout):
    """Without the collector's help: what a model of 64 MiB took is there for the next one. What TensorFlow says while
    all this goes on is what it says when it is imported, for which it has no switch."""

    def build(v1):
        x = v1.placeholder("float32", [None, 2048], name="x")
        v1.matmul(x, v1.constant(np.ones((2048, 8192), np.float32)), name="y")

    graph(bench, build)
    environment = {name: text for name, text in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(bench.path)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [
        text for text in done.stderr.splitlines() if "absl::InitializeLog" not in text and "oneDNN custom" not in text
    ]
    assert said == []


GRAPH_CONFIG = """
backend: "tensorflow"
max_batch_size: 4
input [{ name: "a" data_type: TYPE_FP32 dims: [2] }, { name: "b" data_type: TYPE_FP32 dims: [2] }]
output [{ name: "SUM" data_type: TYPE_FP32 dims: [2] }]
"""


async def test_models_of_a_repository(line, tmp_path):
    """The names of the files say what they are; a SavedModel needs no configuration. One that does not fit says why."""
    for name in ("line", "sum", "wrong"):
        (tmp_path / name / "1").mkdir(parents=True)
    shutil.copytree(line, tmp_path / "line" / "1" / "model.savedmodel")
    models.graph(tmp_path / "sum" / "1" / "model.graphdef", add_sub)
    shutil.copytree(tmp_path / "sum" / "1", tmp_path / "wrong" / "1", dirs_exist_ok=True)
    (tmp_path / "sum" / "config.pbtxt").write_text(GRAPH_CONFIG)
    (tmp_path / "wrong" / "config.pbtxt").write_text(GRAPH_CONFIG.replace('"b"', '"c"'))
    async with despina.open_engine(tmp_path, exit_on_error=False) as engine:
        with trio.fail_after(60):
            found = await engine.infer("line", {"x": np.array([[1, 1]], np.float32)})
            np.testing.assert_allclose(found["y"], [[0]], atol=0.05)
            found = await engine.infer("sum", {"a": X, "b": Y})
            np.testing.assert_array_equal(found["SUM"], X + Y)
        reasons = {entry.name: entry.reason for entry in await engine.index()}
        assert reasons["wrong"] == "Invalid argument: unexpected inference input 'c', allowed inputs are: a, b"
