"""Ragged batches: what models are told of them and how outputs are cut, against numpy, and with real ONNX models."""

from __future__ import annotations

from types import SimpleNamespace

import despina
import numpy as np
import onnx
import pytest
import trio
from despina.backends.gather import InputGatherer, OutputScatterer
from despina.backends.onnxruntime import OnnxRuntimeBackend
from despina.backends.ragged import BatchTensors, Cut, faults
from despina.engine.request.job import Job
from despina.schema.fault import InvalidArgument, ModelFailure
from despina.schema.inference import InferenceRequest
from despina.schema.pbtxt import parse_config
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import BatchInputKind as Kind
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper as h

value = h.make_tensor_value_info
KINDS = [kind.name for kind in Kind]
INPUT = 'input { name: "IN" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }'


def configuration(text, max_batch_size=8):
    return parse_config(f'name: "m" backend: "onnxruntime" max_batch_size: {max_batch_size} {text}'.encode())


def told(kind, target="TOLD", source="IN", datatype="INT32"):
    return f'batch_input {{ kind: {kind} target_name: "{target}" data_type: TYPE_{datatype} source_input: "{source}" }}'


def scattered(target="OUT", source="IN"):
    return f'batch_output {{ target_name: "{target}" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "{source}" }}'


def ragged_job(array, name="IN", **request):
    tensor = Tensor.of(name, array)
    wire = Tensor(name, tensor.datatype, tensor.shape, memory=bytes(tensor.memory()))
    made = Job(InferenceRequest("m", {name: wire}, **request), None)
    made.ledger = SimpleNamespace(version_text="1")
    made.batch_size = array.shape[0]
    return made


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BATCH_ELEMENT_COUNT", [3, 5]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [3, 8]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 3, 8]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0, 0, 0, 0, 0]),
        ("BATCH_ITEM_SHAPE", [[3], [5]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [3, 5]),
    ],
)
@pytest.mark.parametrize("datatype", ["INT32", "FP32"])
def test_the_worked_example(kind, expected, datatype):
    """Goal: two requests of shapes [1,3] and [1,5], every kind, both datatypes."""
    gatherer = InputGatherer(configuration(INPUT + told(kind, datatype=datatype)))
    jobs = [ragged_job(np.arange(size, dtype=np.float32).reshape(1, size)) for size in (3, 5)]
    arrays = gatherer.gather(jobs, 2)
    np.testing.assert_array_equal(arrays["TOLD"], np.array(expected))
    assert arrays["TOLD"].dtype == {"INT32": np.int32, "FP32": np.float32}[datatype]
    np.testing.assert_array_equal(arrays["IN"], [0, 1, 2, 0, 1, 2, 3, 4])


def oracle(kind, shapes):
    """The contract's table, read aloud."""
    counts = [int(np.prod(shape)) for shape in shapes]
    items = [list(shape[1:]) for shape in shapes for _ in range(shape[0])]
    return {
        "BATCH_ELEMENT_COUNT": counts,
        "BATCH_ACCUMULATED_ELEMENT_COUNT": np.cumsum(counts),
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": [0, *np.cumsum(counts)],
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE": np.zeros(max(counts)),
        "BATCH_ITEM_SHAPE": np.array(items).reshape(len(items), len(shapes[0]) - 1),
        "BATCH_ITEM_SHAPE_FLATTEN": [size for item in items for size in item],
    }[kind]


def shapes_of(rank):
    return st.lists(st.tuples(*[st.integers(0, 4)] * rank), min_size=1, max_size=5)


@given(st.sampled_from(KINDS), st.integers(1, 4).flatmap(shapes_of))
def test_every_kind_agrees_with_the_oracle(kind, shapes):
    """Goal: any shapes of one rank, empty ones and several rows too."""
    made = BatchTensors(("TOLD",), Kind[kind], "IN", np.dtype(np.int32)).array(shapes)
    expected = np.asarray(oracle(kind, shapes))
    assert made.shape == expected.shape
    np.testing.assert_array_equal(made, expected)


@given(st.integers(1, 3).flatmap(shapes_of))
def test_a_cut_is_the_inverse_of_joining(shapes):
    """Goal: requests' own arrays come back from their elements in one dimension, as views."""
    arrays = [np.random.default_rng(1).integers(0, 99, shape) for shape in shapes]
    flat = np.concatenate([array.ravel() for array in arrays])
    cut = Cut("OUT", "IN", (-1,) * len(shapes[0]))
    for given_as in (flat, flat.reshape(1, -1)):
        parts = cut.parts("m", given_as, shapes)
        assert len(parts) == len(arrays)
        for part, array in zip(parts, arrays, strict=True):
            np.testing.assert_array_equal(part, array)
            assert part.shape == array.shape
            assert part.size == 0 or np.shares_memory(part, given_as)


def test_counts_beyond_the_datatype_fail_by_name():
    """Goal: no count wraps around. Method: shapes alone, no such memory exists."""
    made = BatchTensors(("TOLD",), Kind.BATCH_ACCUMULATED_ELEMENT_COUNT, "IN", np.dtype(np.int32))
    assert made.array([(1, 2**31 - 1)]).tolist() == [2**31 - 1]
    with pytest.raises(InvalidArgument, match="batch input 'TOLD': INT32 does not hold 2147483648"):
        made.array([(1, 2**31 - 1), (1, 1)])


def test_reshapes_come_first():
    """Goal: counts and cuts are of the shapes that the model sees, answers of those that the client does."""
    text = (
        'input { name: "IN" data_type: TYPE_FP32 dims: [ -1, 2, 3 ] reshape { shape: [ -1, 6 ] } } '
        'output { name: "OUT" data_type: TYPE_FP32 dims: [ -1, 3, 2 ] reshape { shape: [ -1, 6 ] } } '
    )
    config = configuration(text + told("BATCH_ITEM_SHAPE") + scattered())
    jobs = [ragged_job(np.full((1, size, 2, 3), size, np.float32)) for size in (2, 2)]
    arrays = InputGatherer(config).gather(jobs, 2)
    assert arrays["TOLD"].tolist() == [[2, 6], [2, 6]]
    assert arrays["IN"].shape == (2, 2, 6)
    OutputScatterer(config).scatter(jobs, 2, {"OUT": np.arange(24, dtype=np.float32)})
    assert [job.response.outputs[0].shape for job in jobs] == [(1, 2, 3, 2)] * 2
    assert jobs[1].response.outputs[0].numpy().ravel().tolist() == list(range(12, 24))


def test_a_shape_tensor_reaches_the_model_once():
    """Goal: all requests of a batch have the same one, and it has no rows."""
    shape = 'input { name: "S" data_type: TYPE_INT32 dims: 2 is_shape_tensor: true }'
    jobs = [ragged_job(np.zeros((1, size), np.float32)) for size in (3, 5)]
    for each in jobs:
        each.request.inputs["S"] = Tensor.of("S", np.array([4, 5], np.int32))
    assert InputGatherer(configuration(INPUT + shape)).gather(jobs, 2)["S"].tolist() == [4, 5]


def test_an_output_of_other_elements_answers_nobody():
    """Goal: the model's fault, named, with what was expected."""
    config = configuration(INPUT + 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }' + scattered())
    jobs = [ragged_job(np.zeros((1, size), np.float32)) for size in (3, 5)]
    with pytest.raises(ModelFailure) as caught:
        OutputScatterer(config).scatter(jobs, 2, {"OUT": np.zeros(9, np.float32)})
    assert caught.value.message == (
        "model 'm', output 'OUT': expected 8 elements for requests of shapes [1, 3], [1, 5], got shape [9]"
    )
    assert jobs[0].response is None


def test_who_does_not_ask_for_a_cut_output_gets_none():
    """Goal: the others' parts stay where they are."""
    config = configuration(INPUT + 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }' + scattered())
    jobs = [ragged_job(np.zeros((1, 2), np.float32)), ragged_job(np.zeros((1, 3), np.float32), outputs=("OUT",))]
    jobs[0].request.outputs = ("OTHER",)
    OutputScatterer(config).scatter(jobs, 2, {"OUT": np.arange(5, dtype=np.float32)})
    assert jobs[0].response.outputs == []
    assert jobs[1].response.outputs[0].numpy().tolist() == [[2, 3, 4]]


# What no batch could give


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INPUT + told("BATCH_ELEMENT_COUNT", target="IN"), ["batch input 'IN' is specified more than once, or is an"]),
        (INPUT + told("BATCH_ELEMENT_COUNT") * 2, ["batch input 'TOLD' is specified more than once, or is an"]),
        (
            INPUT + 'batch_input { data_type: TYPE_INT32 source_input: "IN" }',
            ["batch input of source input 'IN' must specify 'target_name'"],
        ),
        (
            'input { name: "IN" data_type: TYPE_FP32 dims: -1 optional: true } '
            'output { name: "OUT" data_type: TYPE_FP32 dims: [ -1, -1 ] }' + told("BATCH_ELEMENT_COUNT") + scattered(),
            [
                "source input 'IN' must not be optional: 'TOLD' needs it",
                "source input 'IN' must not be optional: 'OUT' needs it",
                "batch output 'OUT': source input 'IN' has no dimension 1, which would say the output's",
            ],
        ),
    ],
)
def test_faults_are_told_at_once(text, expected):
    """Goal: each by name, all of them."""
    found = list(faults(configuration(text)))
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True))


# Real ONNX models


def write(bench, nodes, inputs, outputs, initializers=()):
    graph = h.make_graph(nodes, "g", inputs, outputs, list(initializers))
    path = bench.path / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)


def opened(bench, config):
    model = OnnxRuntimeBackend().open_model(bench.context(config))
    return model.open_instance(bench.instance())


def refused(bench, config):
    with pytest.raises(InvalidArgument) as caught:
        OnnxRuntimeBackend().open_model(bench.context(config))
    return caught.value.message


def write_told(bench, kind, *, dims=None):
    """Doubles a ragged input, and shows what the model is told as it came."""
    dims = dims or (["total", 1] if kind == "BATCH_ITEM_SHAPE" else ["told"])
    two = h.make_tensor("two", T.FLOAT, [1], [2.0])
    nodes = [
        h.make_node("Mul", ["IN", "two"], ["OUT"]),
        h.make_node("Shape", ["TOLD"], ["SHAPE"]),
        h.make_node("Identity", ["TOLD"], ["SHOWN"]),
    ]
    write(
        bench,
        nodes,
        [value("IN", T.FLOAT, ["n"]), value("TOLD", T.INT32, dims)],
        [value("OUT", T.FLOAT, ["n"]), value("SHOWN", T.INT32, dims), value("SHAPE", T.INT64, ["rank"])],
        [two],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[(1, 3), (1, 5)], [(1, 4)], [(2, 3), (1, 1), (3, 2)]])
def test_onnx_is_told_and_its_output_cut(bench, kind, sizes):
    """Goal: a real model gets each kind in its shape, and every request its own elements back in its own shape."""
    write_told(bench, kind)
    outputs = 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }'
    instance = opened(bench, configuration(INPUT + outputs + told(kind) + scattered()))
    arrays = [np.random.default_rng(2).random(size, np.float32) for size in sizes]
    jobs = [bench.job({"IN": array}) for array in arrays]
    instance.execute(bench.batch(*jobs))
    for job, array in zip(jobs, arrays, strict=True):
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], array * 2)
        assert bench.outputs(job)["OUT"].shape == array.shape


def test_onnx_segment_sums(bench):
    """Goal: a model that needs to be told: the sum of each request's elements, an ordinary output of one row each.
    Method: a difference of running sums at the accumulated counts, in ONNX; numpy says what is right."""
    zero, one = h.make_tensor("zero", T.INT64, [1], [0]), h.make_tensor("one", T.INT64, [1], [1])
    axis, start = h.make_tensor("axis", T.INT64, [], [0]), h.make_tensor("start", T.FLOAT, [1], [0.0])
    last, minus = h.make_tensor("last", T.INT64, [1], [2**31]), h.make_tensor("minus", T.INT64, [1], [-1])
    nodes = [
        h.make_node("CumSum", ["IN", "axis"], ["running"]),
        h.make_node("Concat", ["start", "running"], ["padded"], axis=0),
        h.make_node("Slice", ["ENDS", "one", "last", "zero"], ["after"]),
        h.make_node("Slice", ["ENDS", "zero", "minus", "zero"], ["before"]),
        h.make_node("Gather", ["padded", "after"], ["high"]),
        h.make_node("Gather", ["padded", "before"], ["low"]),
        h.make_node("Sub", ["high", "low"], ["sums"]),
        h.make_node("Unsqueeze", ["sums", "one"], ["SUM"]),
    ]
    inputs = [value("IN", T.FLOAT, ["n"]), value("ENDS", T.INT32, ["ends"])]
    write(bench, nodes, inputs, [value("SUM", T.FLOAT, ["b", 1])], [zero, one, axis, start, last, minus])
    text = INPUT + 'output { name: "SUM" data_type: TYPE_FP32 dims: 1 }'
    config = configuration(text + told("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", target="ENDS"))
    instance = opened(bench, config)
    arrays = [np.arange(size, dtype=np.float32).reshape(1, size) + size for size in (3, 5, 1, 7)]
    jobs = [bench.job({"IN": array}) for array in arrays]
    instance.execute(bench.batch(*jobs))
    assert [bench.outputs(job)["SUM"].tolist() for job in jobs] == [[[float(array.sum())]] for array in arrays]


def test_onnx_strings_are_ragged_too(bench):
    """Goal: elements of any length, in one dimension, and back."""
    write(
        bench,
        [h.make_node("Identity", ["IN"], ["OUT"])],
        [value("IN", T.STRING, ["n"])],
        [value("OUT", T.STRING, ["n"])],
    )
    text = (
        'input { name: "IN" data_type: TYPE_STRING dims: -1 allow_ragged_batch: true } '
        'output { name: "OUT" data_type: TYPE_STRING dims: -1 }'
    )
    instance = opened(bench, configuration(text + scattered()))
    arrays = [np.array([[b"a", b"bcd"]], object), np.array([["ö".encode()], [b""]], object)]
    jobs = [bench.job({"IN": array}) for array in arrays]
    instance.execute(bench.batch(*jobs))
    for job, array in zip(jobs, arrays, strict=True):
        assert bench.outputs(job)["OUT"].tolist() == array.tolist()


def test_one_ragged_request_that_fails_fails_alone(bench):
    """Goal: neighbours are answered with their own parts. Method: the file adds a vector of 8 to what is ragged, so the
    whole batch has to have 8 elements: neither the batch nor the request of 3 has."""
    eight = h.make_tensor("eight", T.FLOAT, [8], [1.0] * 8)
    write(
        bench,
        [h.make_node("Add", ["IN", "eight"], ["OUT"])],
        [value("IN", T.FLOAT, ["n"])],
        [value("OUT", T.FLOAT, ["n"])],
        [eight],
    )
    outputs = 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }'
    instance = opened(bench, configuration(INPUT + outputs + scattered()))
    jobs = [bench.job({"IN": np.zeros((1, size), np.float32)}) for size in (8, 3)]
    instance.execute(bench.batch(*jobs))
    assert bench.outputs(jobs[0])["OUT"].tolist() == [[1.0] * 8]
    assert isinstance(jobs[1].fault, ModelFailure)


@pytest.mark.parametrize(
    ("kind", "dims", "text", "expected"),
    [
        (
            "BATCH_ELEMENT_COUNT",
            None,
            INPUT,
            "unable to load model 'm', configuration expects 1 inputs, model provides 2",
        ),
        (
            "BATCH_ELEMENT_COUNT",
            None,
            INPUT + told("BATCH_ELEMENT_COUNT", target="OTHER"),
            "unexpected inference input 'OTHER', allowed inputs are: IN, TOLD",
        ),
        (
            "BATCH_ELEMENT_COUNT",
            None,
            INPUT + told("BATCH_ELEMENT_COUNT", datatype="FP32"),
            "unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'TOLD', model provides "
            "TYPE_INT32",
        ),
        (
            "BATCH_ELEMENT_COUNT",
            None,
            INPUT + told("BATCH_ITEM_SHAPE"),
            "model 'm', tensor 'TOLD': the model expects 1 dimensions (shape [-1]) but its batch input has the shape "
            "[-1,1]",
        ),
        (
            "BATCH_ITEM_SHAPE",
            ["total", 2],
            INPUT + told("BATCH_ITEM_SHAPE"),
            "model 'm', tensor 'TOLD': the model expects 2 dimensions (shape [-1,2]) but its batch input has the shape "
            "[-1,1]",
        ),
        (
            "BATCH_ELEMENT_COUNT",
            None,
            INPUT + told("BATCH_ELEMENT_COUNT", source="X") + told("BATCH_ELEMENT_COUNT", datatype="INT8"),
            "unknown source input name 'X' for m; batch input data type must be TYPE_INT32 or TYPE_FP32 for m",
        ),
        (
            "BATCH_ELEMENT_COUNT",
            None,
            INPUT.replace("FP32", "INT32") + told("BATCH_ELEMENT_COUNT", datatype="FP32"),
            "unable to load model 'm', configuration expects datatype TYPE_INT32 for input 'IN', model provides "
            "TYPE_FP32; unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'TOLD', model "
            "provides TYPE_INT32",
        ),
    ],
)
def test_what_a_file_cannot_be_told_is_refused_at_load(bench, kind, dims, text, expected):
    """Goal: by name, in the protocol's words where it has some, all at once."""
    write_told(bench, kind, dims=dims)
    outputs = 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }'
    assert refused(bench, configuration(text + outputs + scattered())) == expected


def test_ragged_inputs_need_a_flat_input_of_the_model(bench):
    """Goal: the reference server's texts."""
    write(
        bench,
        [h.make_node("Identity", ["IN"], ["OUT"])],
        [value("IN", T.FLOAT, ["b", "n"])],
        [value("OUT", T.FLOAT, ["b", "n"])],
    )
    outputs = 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }'
    expected = "unable to load model 'm', configuration expects model provides input with shape [-1]"
    text = refused(bench, configuration(INPUT + outputs))
    assert text == f"{expected}  for ragged input 'IN', model provides [-1,-1]"
    optional = INPUT.replace("allow", "optional: true allow")
    text = refused(bench, configuration(optional + outputs.replace("-1", "[ -1, -1 ]"), max_batch_size=0))
    assert text == f"{expected} for ragged input 'IN', which is not supported for optional input"


async def test_an_engine_joins_ragged_requests(bench):
    """Goal: requests of unlike shapes share one execution of a real model, and are counted as such."""
    write_told(bench, "BATCH_ACCUMULATED_ELEMENT_COUNT")
    outputs = 'output { name: "OUT" data_type: TYPE_FP32 dims: -1 }'
    batching = "dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 2000000 }"
    text = f"{INPUT} {outputs} {told('BATCH_ACCUMULATED_ELEMENT_COUNT')} {scattered()} {batching}"
    (bench.path / "config.pbtxt").write_text(f'backend: "onnxruntime" max_batch_size: 8 {text}')
    arrays = [np.full((1, size), size, np.float32) for size in (3, 1, 5, 2)]
    answers: dict[int, np.ndarray] = {}

    async def ask(engine, index):
        response = await engine.infer_request(InferenceRequest("m", {"IN": Tensor.of("IN", arrays[index])}))
        answers[index] = response.outputs[0].numpy()

    with trio.fail_after(20):
        async with despina.open_engine(bench.path.parent) as engine:
            async with trio.open_nursery() as nursery:
                for index in range(4):
                    nursery.start_soon(ask, engine, index)
            (counted,) = engine.statistics("m")
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(answers[index], array * 2)
    assert (counted.execution_count, counted.inference_count) == (1, 4)
