from types import SimpleNamespace

import numpy as np
import pytest
from despina.backends.gather import JOIN_BYTES_MAX, InputGatherer, OutputScatterer, Reshape
from despina.engine.request.job import Job
from despina.schema.datatype import TABLE
from despina.schema.fault import InvalidArgument, ModelFailure
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelOutput,
    ModelTensorReshape,
)
from hypothesis import given
from hypothesis import strategies as st


def config(kind="TYPE_INT32", dims=(4,), *, max_batch_size=8, reshape=None, outputs=("OUT",)):
    shape = None if reshape is None else ModelTensorReshape(shape=list(reshape))
    return ModelConfig(
        name="m",
        max_batch_size=max_batch_size,
        input=[ModelInput(name="IN", data_type=DataType[kind], dims=list(dims), reshape=shape)],
        output=[ModelOutput(name=n, data_type=DataType[kind], dims=list(dims), reshape=shape) for n in outputs],
    )


def job(tensor, outputs=(), rows=None):
    made = Job(InferenceRequest("m", {tensor.name: tensor}, outputs=outputs), None)
    made.ledger = SimpleNamespace(version_text="1")
    made.batch_size = tensor.shape[0] if rows is None else rows
    return made


def wire(array, datatype="INT32"):
    return Tensor("IN", datatype, array.shape, memory=Tensor.of("IN", array, datatype).memory())


def test_batch_of_one_is_a_view():
    """A lone request's bytes are not copied: the array aliases the received buffer."""
    memory = bytearray(np.arange(4, dtype="<i4").tobytes())
    array = InputGatherer(config()).gather([job(Tensor("IN", "INT32", [1, 4], memory=memory))], 1)["IN"]
    assert np.shares_memory(array, np.frombuffer(memory, "u1"))
    np.testing.assert_array_equal(array, [[0, 1, 2, 3]])


def test_misaligned_bytes_are_copied():
    """A tensor that starts at an odd address reaches the framework aligned, with its values."""
    body = bytearray(b"x" + np.arange(4, dtype="<i4").tobytes())
    array = InputGatherer(config()).gather([job(Tensor("IN", "INT32", [1, 4], memory=memoryview(body)[1:]))], 1)["IN"]
    assert array.flags.aligned
    assert array.tolist() == [[0, 1, 2, 3]]


@given(
    st.sampled_from([row for row in TABLE if row.byte_size]),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(1, 4), max_size=2),
)
def test_gather_equals_concatenate(row, sizes, dims):
    """Any datatype, any mix of row counts (zero too): the same elements as numpy's concatenate, checked against it."""
    parts = [np.random.default_rng(i).integers(0, 2, (n, *dims)).astype(row.dtype) for i, n in enumerate(sizes)]
    gatherer = InputGatherer(config(row.config_name, dims))
    array = gatherer.gather([job(wire(part, row.name)) for part in parts], sum(sizes))["IN"]
    np.testing.assert_array_equal(array, np.concatenate(parts))
    assert array.dtype == row.dtype


def test_large_inputs_are_copied_once_into_a_fresh_array():
    """Above the join limit the values are right and two batches never share memory."""
    rows = JOIN_BYTES_MAX // 4
    parts = [np.full((1, rows), i, dtype="<i4") for i in range(3)]
    gatherer = InputGatherer(config(dims=(rows,)))
    first = gatherer.gather([job(wire(part)) for part in parts], 3)["IN"]
    second = gatherer.gather([job(wire(part)) for part in parts], 3)["IN"]
    np.testing.assert_array_equal(first, np.concatenate(parts))
    assert not np.shares_memory(first, second)


def test_bytes_are_gathered_as_objects():
    """BYTES of two requests become one object array of bytes, decoded from the wire form."""
    parts = [np.array([[b"a", b""]], object), np.array([[b"\xff", b"dd"], [b"e", b"f"]], object)]
    gatherer = InputGatherer(config("TYPE_STRING", (2,)))
    array = gatherer.gather([job(wire(part, "BYTES")) for part in parts], 3)["IN"]
    assert array.tolist() == [[b"a", b""], [b"\xff", b"dd"], [b"e", b"f"]]


def test_optional_input_left_out():
    """An input that the request does not have is not in the arrays."""
    made = job(wire(np.zeros((1, 4), "<i4")))
    made.request.inputs = {}
    assert InputGatherer(config()).gather([made], 1) == {}


def test_wrong_sizes_name_the_input():
    """Bytes that do not fill the shape are refused by the input's name, alone and in a batch, small and large."""
    short = job(Tensor("IN", "INT32", [1, 4], memory=b"1234"))
    sound = job(wire(np.zeros((1, 4), "<i4")))
    gatherer = InputGatherer(config())
    with pytest.raises(InvalidArgument, match=r"'IN': shape \[1, 4\] needs 4 elements, got 1"):
        gatherer.gather([short], 1)
    with pytest.raises(InvalidArgument, match=r"'IN': shape \[2, 4\] needs 32 bytes, got 20"):
        gatherer.gather([sound, short], 2)
    ragged = job(Tensor("IN", "INT32", [1, 4], memory=b"123"))
    with pytest.raises(InvalidArgument, match="'IN'"):
        gatherer.gather([ragged], 1)
    with pytest.raises(InvalidArgument, match="needs 32 bytes, got 19"):
        gatherer.gather([sound, ragged], 2)
    wide = [job(wire(np.zeros((1, n), "<i4"))) for n in (40_000, 39_999)]
    with pytest.raises(InvalidArgument, match="does not fit a batch"):
        gatherer.gather(wide, 2)
    with pytest.raises(InvalidArgument, match="a batch of 3 rows got 2"):
        gatherer.gather([wide[0], wide[0]], 3)


def test_sizes_beyond_any_array_are_refused():
    """No elements, and another dimension that no array has: the client's fault, also in a batch."""
    many = [job(Tensor("IN", "INT32", [1, 0, 2**62], memory=b"")) for _ in range(2)]
    with pytest.raises(InvalidArgument, match="'IN': no array has the shape"):
        InputGatherer(config(dims=(-1, -1))).gather(many, 2)


@pytest.mark.parametrize(
    ("source", "target", "dims", "expected"),
    [
        ([2, 4, -1, 6], [8, -1, 1, 6], [2, 4, 5, 6], (8, 5, 1, 6)),
        ([1], [], [1], ()),
        ([-1, 2, -1], [-1, -1, 2], [3, 2, 7], (3, 7, 2)),
    ],
)
def test_reshape_fills_variable_sizes_in_order(source, target, dims, expected):
    """The n-th -1 of the target is the n-th variable size of the source."""
    assert Reshape.between(source, target).apply(dims) == expected


def test_reshape_goes_both_ways():
    """Inputs take the model's shape, outputs the configured one back, batch dimension untouched."""
    settings = config(dims=(-1, 2), reshape=(2, -1))
    jobs = [job(wire(np.arange(12, dtype="<i4").reshape(1, 6, 2))), job(wire(np.zeros((1, 6, 2), "<i4")))]
    array = InputGatherer(settings).gather(jobs, 2)["IN"]
    assert array.shape == (2, 2, 6)
    OutputScatterer(settings).scatter(jobs, 2, {"OUT": array})
    assert jobs[0].response.outputs[0].shape == (1, 6, 2)
    assert jobs[0].response.outputs[0].numpy().ravel().tolist() == list(range(12))


def test_reshape_without_batching():
    """A model that does not batch has the whole shape reshaped."""
    settings = config(dims=(4,), max_batch_size=0, reshape=(2, 2))
    lone = job(wire(np.arange(4, dtype="<i4")), rows=1)
    array = InputGatherer(settings).gather([lone], 1)["IN"]
    assert array.shape == (2, 2)
    OutputScatterer(settings).scatter([lone], 1, {"OUT": array})
    assert lone.response.outputs[0].shape == (4,)


def test_scatter_gives_views_of_own_rows():
    """Each job sees its rows, in order, without a copy."""
    jobs = [job(wire(np.zeros((n, 4), "<i4"))) for n in (1, 3, 0, 2)]
    array = np.arange(24, dtype="<i4").reshape(6, 4)
    OutputScatterer(config()).scatter(jobs, 6, {"OUT": array})
    assert [made.response.outputs[0].shape for made in jobs] == [(1, 4), (3, 4), (0, 4), (2, 4)]
    assert jobs[1].response.outputs[0].numpy()[0, 0] == 4
    assert np.shares_memory(jobs[3].response.outputs[0].numpy(), array)
    assert jobs[3].response.outputs[0].memory() == array[4:].tobytes()


def test_only_requested_outputs():
    """The union of what the jobs ask for is computed; each gets its own choice, in its own order."""
    scatterer = OutputScatterer(config(outputs=("A", "B", "C")))
    data = np.zeros((1, 4), "<i4")
    some = job(wire(data), outputs=["C"])
    others = job(wire(data), outputs=["B", "C"])
    everything = job(wire(data))
    assert scatterer.wanted([some]) == ["C"]
    assert scatterer.wanted([some, others]) == ["B", "C"]
    assert scatterer.wanted([some, everything]) == ["A", "B", "C"]
    assert scatterer.wanted([everything]) == ["A", "B", "C"]
    scatterer.scatter([some, others], 2, {"B": np.zeros((2, 4), "<i4"), "C": np.zeros((2, 4), "<i4")})
    assert [t.name for t in some.response.outputs] == ["C"]
    assert [t.name for t in others.response.outputs] == ["B", "C"]


def test_cache_of_requested_outputs_is_bounded():
    """Callers choose the names, so the cache of choices stops growing."""
    scatterer = OutputScatterer(config(outputs=tuple(f"O{i}" for i in range(12))))
    for i in range(2000):
        scatterer.wanted([job(wire(np.zeros((1, 4), "<i4")), outputs=[f"O{b}" for b in range(12) if i >> b & 1])])
    assert len(scatterer._wanted) <= 256


@pytest.mark.parametrize("shape", [(), (1, 4), (3, 4)])
def test_wrong_number_of_output_rows(shape):
    """An output that does not have the batch's rows is the model's fault, named, and nobody is half answered."""
    jobs = [job(wire(np.zeros((1, 4), "<i4"))) for _ in range(2)]
    with pytest.raises(ModelFailure, match="model 'm', output 'OUT': expected 2 rows"):
        OutputScatterer(config()).scatter(jobs, 2, {"OUT": np.zeros(shape, "<i4")})
    assert jobs[0].response is None


def test_impossible_output_reshape():
    """An output that cannot take the configured dims is the model's fault."""
    lone = job(wire(np.zeros((1, 4), "<i4")))
    with pytest.raises(ModelFailure, match=r"output 'OUT': cannot reshape \[1, 5\]"):
        OutputScatterer(config(reshape=(2, 2))).scatter([lone], 1, {"OUT": np.zeros((1, 5), "<i4")})
