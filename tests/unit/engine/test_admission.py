"""What a model takes and what it refuses, word for word."""

import numpy as np
import pytest
from despina.engine.request.admission import BATCH_NOTE, Admission
from despina.engine.request.job import Job
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest, Template
from despina.schema.model_config import parse_config
from despina.schema.shared_memory import SharedTensor
from despina.schema.tensor import Tensor, encode_bytes
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import tensor_text

P = "[request id: <id_unknown>] "


def admission(*inputs, max_batch_size=4):
    """Each input is (name, datatype, dims[, more text])."""
    text = f'name: "m" max_batch_size: {max_batch_size}\n'
    for name, datatype, dims, *more in inputs:
        text += tensor_text("input", name, f"TYPE_{datatype}", dims, " ".join(more))
    return Admission(parse_config((text + tensor_text("output", "OUT")).encode()))


def wire(name, datatype, shape, memory=b""):
    return Tensor(name, datatype, shape, memory)


def int32(name="A", shape=(1, 2), size=None):
    return wire(name, "INT32", list(shape), bytes(4 * int(np.prod(shape)) if size is None else size))


def admit(rules, *tensors, **options):
    job = Job(InferenceRequest("m", {tensor.name: tensor for tensor in tensors}, **options), None)
    rules.admit(job)
    return job


def refusal(rules, *tensors, **options):
    with pytest.raises(InvalidArgument) as caught:
        admit(rules, *tensors, **options)
    return caught.value.message


A, B = ("A", "INT32", [2]), ("B", "INT32", [2])


@pytest.mark.parametrize("max_batch_size", [0, 4])
def test_a_model_without_inputs(max_batch_size):
    """Goal: a request of nothing is one row."""
    assert admit(admission(max_batch_size=max_batch_size)).batch_size == 1


def test_rows_are_the_first_dimension():
    """Goal: batch size of models that batch and of those that do not; no key where any two may meet."""
    assert admit(admission(A), int32(shape=(3, 2))).batch_size == 3
    job = admit(admission(A, max_batch_size=0), int32(shape=(2,)))
    assert (job.batch_size, job.key) == (1, None)


def test_unknown_output():
    """Goal: the first check, without the request's id."""
    message = refusal(admission(A), outputs=["OUT", "X"], id="7")
    assert message == "unexpected inference output 'X' for model 'm'"


@pytest.mark.parametrize(
    ("given_names", "text"),
    [
        (
            "",
            "expected 2 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing "
            "required input(s) ['A','B'].",
        ),
        (
            "A",
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but missing "
            "required input(s) ['B'].",
        ),
        (
            "X",
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['X'], but missing "
            "required input(s) ['A','B'].",
        ),
        (
            "ABX",
            "expected 2 inputs but got 3 inputs for model 'm'. Got input(s) ['A','B','X'], but missing required "
            "input(s) ].",
        ),
    ],
)
def test_input_count(given_names, text):
    """Goal: too few, too many, none, in order; with none missing the protocol's odd bracket."""
    message = refusal(admission(A, B), *[int32(name) for name in given_names])
    assert message == f"{P}{text} Please provide all required input(s)."


def test_input_count_with_optional_inputs():
    """Goal: another text, by counts only; in between anything goes."""
    rules = admission(A, B, ("C", "INT32", [2], "optional: true"))
    assert refusal(rules, int32("A")) == (
        f"{P}expected number of inputs between 2 and 3 but got 1 inputs for model 'm'. Got input(s) ['A'], but missing "
        "required input(s) ['B']. Please provide all required input(s)."
    )
    assert refusal(rules, *[int32(name) for name in "ABCD"]).endswith(
        "missing required input(s) ]. Please provide all required input(s)."
    )
    two, three = admit(rules, int32("A"), int32("B")), admit(rules, *[int32(name) for name in "CAB"])
    assert two.key != three.key
    assert three.key == admit(rules, *[int32(name) for name in "ABC"]).key


def test_unknown_input():
    """Goal: the right number but a wrong name."""
    assert refusal(admission(A, B), int32("A"), int32("X")) == "unexpected inference input 'X' for model 'm'"


def test_batch_dimension():
    """Goal: none, unequal, too large."""
    rules = admission(A, B)
    assert refusal(admission(A), wire("A", "INT32", [])) == (
        f"{P}input 'A' has no shape but model requires batch dimension for 'm'"
    )
    assert (
        refusal(rules, int32("A"), int32("B", (2, 2))) == f"{P}input 'B' batch size does not match other inputs for 'm'"
    )
    assert refusal(rules, int32("A", (5, 2)), int32("B", (5, 2)), id="x") == (
        "[request id: x] inference request batch-size must be <= 4 for 'm'"
    )


def test_datatype():
    """Goal: protocol names, before shapes."""
    assert refusal(admission(A), wire("A", "FP32", [1, 3], bytes(12))) == (
        f"{P}inference input 'A' data-type is 'FP32', but model 'm' expects 'INT32'"
    )


@pytest.mark.parametrize("shape", [(1, 3), (1,), (1, 2, 1), (1, 2, 2)])
def test_shape(shape):
    """Goal: expected and given, batch dimension as -1, with the note for models that batch."""
    got = "[" + ",".join(map(str, shape)) + "]"
    assert refusal(admission(A), int32(shape=shape)) == (
        f"{P}unexpected shape for input 'A' for model 'm'. Expected [-1,2], got {got}. {BATCH_NOTE}"
    )


def test_shape_without_batching():
    """Goal: no note; a scalar's shape reads []."""
    rules = admission(A, max_batch_size=0)
    assert (
        refusal(rules, int32(shape=(3,))) == f"{P}unexpected shape for input 'A' for model 'm'. Expected [2], got [3]. "
    )
    assert refusal(rules, wire("A", "INT32", [], bytes(4))).endswith("Expected [2], got []. ")


@pytest.mark.parametrize("datatype", ["INT32", "STRING"])
@pytest.mark.parametrize(
    ("dims", "shape"), [([2], [-1, 2]), ([2], [1, -1]), ([-1], [1, -1]), ([-1], [-1, 1]), ([-1, -1], [1, -1, -1])]
)
def test_negative_sizes(datatype, dims, shape):
    """Goal: no negative dimension passes, not even where the configuration has -1 too or the batch is meant."""
    rules = admission(("A", datatype, dims))
    tensor = wire("A", "BYTES" if datatype == "STRING" else datatype, shape)
    assert refusal(rules, tensor) == (
        f"{P}All input dimensions should be specified for input 'A' for model 'm', got [{','.join(map(str, shape))}]"
    )
    if shape[0] > 0:
        assert "All input dimensions" in refusal(
            admission(("A", datatype, dims), max_batch_size=0), wire("A", tensor.datatype, shape[1:])
        )


def test_byte_size():
    """Goal: of fixed and of variable shapes."""
    mismatch = f"{P}input byte size mismatch for input 'A' for model 'm'. Expected {{}}, got {{}}"
    assert refusal(admission(A), int32(size=7)) == mismatch.format(8, 7)
    assert refusal(admission(A), int32(shape=(3, 2), size=25)) == mismatch.format(24, 25)
    assert refusal(admission(("A", "INT32", [-1])), int32(shape=(1, 5), size=0)) == mismatch.format(20, 0)


def test_huge_shapes():
    """Goal: sizes past 64 bits are compared exactly, and nothing is allocated for them."""
    rules = admission(("A", "INT32", [-1, -1]))
    for shape in ([1, 2**62, 4], [1, 2**63, 2**63], [1, 10**30, 10**30]):
        expected = shape[1] * shape[2] * 4
        assert refusal(rules, wire("A", "INT32", shape)).endswith(f"Expected {expected}, got 0")
    assert "expected " in refusal(admission(("A", "STRING", [-1])), wire("A", "BYTES", [1, 2**70]))


def test_no_rows():
    """Goal: a first dimension of 0 passes only with no bytes, and where the other inputs have it too."""
    assert admit(admission(A), int32(shape=(0, 2))).batch_size == 0
    assert "Expected 0, got 8" in refusal(admission(A), int32(shape=(0, 2), size=8))
    for first, second in ((0, 1), (1, 0)):
        assert refusal(admission(A, B), int32("A", (first, 2)), int32("B", (second, 2))) == (
            f"{P}input 'B' batch size does not match other inputs for 'm'"
        )


@pytest.mark.parametrize("specs", [(A,), (("A", "INT32", [-1]),), (("A", "INT32", [2], "optional: true"),)])
def test_no_rows_have_no_company(specs):
    """Goal: such a request never shares a batch, the second time neither, nor with another of its kind."""
    rules = admission(*specs)
    none, again, some = (admit(rules, int32(shape=(rows, 2))) for rows in (0, 0, 1))
    assert [job.batch_size for job in (none, again, some)] == [0, 0, 1]
    assert len({none.key, again.key, some.key}) == 3


@pytest.mark.parametrize("first", [0, 3, -1, -3])
def test_rows_below_zero(first):
    """Goal: no input has a negative number of rows, wherever it stands."""
    text = refusal(admission(A, B), int32("A", (-3, 2), size=24), int32("B", (first, 2), size=24))
    assert "batch size does not match" in text or "All input dimensions should be specified" in text


def test_no_elements():
    """Goal: zero-size tensors are legal through a variable dimension."""
    assert admit(admission(("A", "INT32", [-1])), int32(shape=(1, 0))).key == ((0,),)


def about(text):
    return text.replace("@", "for inference input 'S' for model 'm'")


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (encode_bytes([b"a"]), "expected 2 string elements @, got 1"),
        (b"", "expected 2 string elements @, got 0"),
        (encode_bytes([b"a", b"", b"c"]), "unexpected number of string elements 3 @, expecting 2"),
        (
            encode_bytes([b"a"]) + b"\1\0",
            "incomplete string length indicator @, expecting 4 bytes but only 2 bytes available. Please make sure the "
            "string length indicator is in one buffer.",
        ),
        (
            encode_bytes([b"a"]) + b"\5\0\0\0abcd",
            "incomplete string data @, expecting string of length 5 but only 4 bytes available",
        ),
        (
            b"\xff\xff\xff\xff",
            "incomplete string data @, expecting string of length 4294967295 but only 0 bytes available",
        ),
    ],
)
def test_string_lengths(memory, text):
    """Goal: too few, too many, cut in the length, cut in the data."""
    rules = admission(("S", "STRING", [2]))
    assert refusal(rules, wire("S", "BYTES", [1, 2], memory)) == P + about(text)
    assert admit(rules, wire("S", "BYTES", [1, 2], encode_bytes([b"", b"x" * 999]))).batch_size == 1


def test_keys_follow_variable_shapes():
    """Goal: only variable inputs count, ragged ones do not, the batch dimension never does."""
    rules = admission(("A", "INT32", [-1, 2]), ("B", "INT32", [2]), ("R", "INT32", [-1], "allow_ragged_batch: true"))

    def key(rows, width, ragged):
        return admit(rules, int32("A", (rows, width, 2)), int32("B", (rows, 2)), int32("R", (rows, ragged))).key

    assert key(1, 3, 1) == key(2, 3, 9)
    assert key(1, 3, 1) != key(1, 4, 1)


SHAPE = ("S", "INT32", [2], "is_shape_tensor: true")


def values(*numbers, shape=None):
    return wire("S", "INT32", shape or [len(numbers)], np.array(numbers, np.int32).tobytes())


def test_shape_tensors_have_no_batch_dimension():
    """Goal: rows are the other inputs' first dimension; shape and size of a shape tensor are its own, with a value
    more than configured, the first: how many rows there are."""
    rules = admission(A, SHAPE)
    assert admit(rules, int32("A", (3, 2)), values(3, 4, 5)).batch_size == 3
    assert admit(rules, values(2, 3, 4), int32("A", (2, 2))).batch_size == 2
    assert admit(admission(SHAPE), values(1, 3, 4)).batch_size == 1
    text = refusal(rules, int32("A", (3, 2)), values(3, 4, 5, 6, 7, 8, shape=[3, 2]))
    assert text == f"{P}unexpected shape for input 'S' for model 'm'. Expected [3], got [3,2]. "
    text = refusal(rules, int32("A", (3, 2)), wire("S", "INT32", [3], bytes(24)))
    assert text == f"{P}input byte size mismatch for input 'S' for model 'm'. Expected 12, got 24"


def test_shape_tensors_join_equal_values_only():
    """Goal: shape and bytes; rows do not matter; one in shared memory, which has not been read, meets nobody."""
    rules = admission(A, ("S", "INT32", [-1], "is_shape_tensor: true"))

    def key(tensor, rows=1):
        return admit(rules, int32("A", (rows, 2)), tensor).key

    assert key(values(3, 4)) == key(values(3, 4), rows=3)
    assert key(values(3, 4)) != key(values(3, 5))
    assert key(values(3, 4)) != key(values(3, 4, 5))

    class Extent:
        byte_size = 8

    shared = [SharedTensor("S", "INT32", (2,), Extent()) for _ in range(2)]
    assert key(shared[0]) != key(shared[1])
    hash(key(shared[0]))


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from("BCS")), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1)
        ),
        min_size=2,
        max_size=2,
    )
)
def test_who_may_share_a_batch_agrees_with_the_oracle(two):
    """Goal: the rules, read aloud: equal inputs; equal row shapes where a dimension is variable, unless ragged; shape
    tensors equal in shape and bytes; rows and fixed inputs never matter."""
    rules = admission(
        A,
        ("B", "INT32", [-1], "optional: true"),
        ("C", "INT32", [-1], "optional: true allow_ragged_batch: true"),
        ("S", "INT32", [-1], "optional: true is_shape_tensor: true"),
    )
    jobs, facts = [], []
    for names, rows, width, ragged, number in two:
        tensors = {
            "B": int32("B", (rows, width)),
            "C": int32("C", (rows, ragged)),
            "S": values(*[number] * width),
        }
        jobs.append(admit(rules, int32("A", (rows, 2)), *[tensors[name] for name in sorted(names)]))
        facts.append((names, width if "B" in names else 0, (number, width) if "S" in names else 0))
    assert (jobs[0].key == jobs[1].key) == (facts[0] == facts[1])


def test_arrays_need_no_byte_check():
    """Goal: tensors over arrays are checked by datatype and shape."""
    rules = admission(A)
    tensor = Tensor.of("A", np.zeros((2, 2), np.int32))
    assert admit(rules, tensor).batch_size == 2
    assert tensor.wire is None
    assert "data-type" in refusal(rules, Tensor.of("A", np.zeros((2, 2), np.int64)))


def raw(memory):
    return Tensor("", "UINT8", [len(memory)], memory)


@pytest.mark.parametrize(
    ("spec", "batch", "memory", "shape", "content"),
    [
        (("A", "INT32", [2]), 4, bytes(8), [1, 2], bytes(8)),
        (("A", "INT32", [2]), 0, bytes(8), [2], bytes(8)),
        (("A", "INT32", [-1]), 4, bytes(20), [1, 5], bytes(20)),
        (("A", "INT16", [2, -1]), 0, bytes(12), [2, 3], bytes(12)),
        (("A", "STRING", [1]), 4, b"text", [1, 1], b"\4\0\0\0text"),
    ],
)
def test_raw_requests(spec, batch, memory, shape, content):
    """Goal: name, datatype and shape follow from the model and the size."""
    job = admit(admission(spec, max_batch_size=batch), raw(memory), raw=True, id="i", timeout_us=5, priority=2)
    (tensor,) = job.request.inputs.values()
    assert (tensor.name, list(tensor.shape), bytes(tensor.memory())) == ("A", shape, content)
    assert (job.request.id, job.request.timeout_us, job.request.priority, job.request.raw) == ("i", 5, 2, False)


@pytest.mark.parametrize(
    ("specs", "memory", "text"),
    [
        (
            [A, B],
            b"",
            "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'm' model configuration",
        ),
        (
            [("A", "INT32", [-1, -1])],
            b"",
            "The shape of the raw input 'A' can not be deduced because there are more than one variable-sized "
            "dimension",
        ),
        ([("A", "STRING", [-1])], b"", "For BYTE datatype raw input 'A', the model must have input shape [1]"),
        ([("A", "STRING", [2])], b"", "For BYTE datatype raw input 'A', the model must have input shape [1]"),
        ([A], bytes(7), "input byte size mismatch for input 'A' for model 'm'. Expected 8, got 7"),
        ([("A", "INT32", [-1])], bytes(7), "input byte size mismatch for input 'A' for model 'm'. Expected 4, got 7"),
    ],
)
def test_raw_refusals(specs, memory, text):
    """Goal: what cannot be deduced, or does not fit when deduced."""
    assert refusal(admission(*specs), raw(memory), raw=True) == P + text


def test_what_is_alike_is_admitted_alike():
    """Goal: requests of one template get the rows and the key that the first of them got."""
    rules = admission(("A", "INT32", [-1]), ("B", "FP32", [2], "optional: true"))
    template = Template()
    jobs = []
    for _ in range(3):
        job = Job(InferenceRequest("m", {"A": int32(shape=(3, 5))}), None)
        job.request.template = template
        rules.admit(job)
        jobs.append(job)
    other = admit(rules, int32(shape=(3, 4)))
    assert [(job.batch_size, job.key) for job in jobs] == [(3, jobs[0].key)] * 3
    assert other.key != jobs[0].key


def test_texts_of_what_is_alike_are_counted_each_time():
    """Goal: a template knows sizes, and no elements: the second request's lengths do not add up, and it is told so."""
    rules = admission(("S", "STRING", [-1]))
    template = Template()
    sound = encode_bytes([b"ab", b"cd"])
    for memory in (sound, b"\xff" + sound[1:], sound):
        job = Job(InferenceRequest("m", {"S": wire("S", "BYTES", (1, 2), memory)}), None)
        job.request.template = template
        if memory == sound:
            rules.admit(job)
            assert job.batch_size == 1
            continue
        with pytest.raises(InvalidArgument) as caught:
            rules.admit(job)
        assert caught.value.message == P + (
            "incomplete string data for inference input 'S' for model 'm', expecting string of length 255 but only 8 "
            "bytes available"
        )


TYPES = ["INT32", "FP16", "BYTES", "BOOL", "NONE"]
TENSORS = st.tuples(
    st.sampled_from("ABSX"),
    st.sampled_from(TYPES),
    st.lists(st.one_of(st.integers(-2, 6), st.sampled_from([2**31, 2**63, 2**64])), max_size=4),
    st.binary(max_size=40),
)


@given(
    st.integers(0, 4), st.lists(TENSORS, max_size=4), st.lists(st.sampled_from(["OUT", "X"]), max_size=2), st.booleans()
)
def test_anything_is_admitted_whole_or_refused(batch, tensors, outputs, is_raw):
    """Goal: whatever comes, a fault of the client's or a job whose every tensor can be read as its shape says."""
    rules = admission(
        ("A", "INT32", [2]), ("B", "FP16", [-1], "optional: true"), ("S", "STRING", [-1, 2], "optional: true"),
        max_batch_size=batch,
    )  # fmt: skip
    if is_raw and not tensors:
        return
    try:
        job = admit(rules, *[wire(*each) for each in tensors], outputs=outputs, raw=is_raw)
    except InvalidArgument:
        return
    assert (job.batch_size == 0) == any(tensor.shape[0] == 0 for tensor in job.request.inputs.values() if batch)
    assert job.batch_size <= max(1, batch)
    hash(job.key)
    for tensor in job.request.inputs.values():
        assert tensor.numpy().shape == tuple(tensor.shape)
