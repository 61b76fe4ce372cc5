"""The generate extension's mapping, both ways; over the door it is compared in tests/unit/http."""

import json

import numpy as np
import pytest
from despina.schema.fault import Fault
from despina.schema.generate import read_generate, write_generate
from despina.schema.inference import InferenceResponse
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import DataType, ModelConfig, ModelInput
from hypothesis import given
from hypothesis import strategies as st


def config(max_batch_size=0, **inputs):
    """`name=(DataType, dims)`."""
    described = [ModelInput(name=name, data_type=kind, dims=list(dims)) for name, (kind, dims) in inputs.items()]
    return ModelConfig(name="m", max_batch_size=max_batch_size, input=described)


CONFIG = config(
    N=(DataType.TYPE_INT32, [-1, 2, -1, 3]),
    F=(DataType.TYPE_FP32, [-1]),
    T=(DataType.TYPE_STRING, [1]),
    B=(DataType.TYPE_BOOL, [2]),
    H=(DataType.TYPE_FP16, [-1]),
)


def read(document, described=CONFIG, limit=10_000):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_generate(body, described, "m", -1, limit)


@pytest.mark.parametrize(
    ("value", "shape"),
    [(list(range(6)), (1, 2, 1, 3)), (list(range(12)), (1, 2, 2, 3)), ([], None), ([1, 2, 3], None), (1, None)],
)
def test_the_last_variable_dimension_takes_what_is_left(value, shape):
    """Fixed dims are divided out first; what does not divide is refused."""
    if shape is None and value != []:
        with pytest.raises(Fault, match="The schema can not convert input 'N' to tensor with proper shape") as caught:
            read({"N": value})
        assert caught.value.http_status == 400
    elif value == []:
        assert read({"N": value}).inputs["N"].shape == (1, 2, 0, 3)
    else:
        tensor = read({"N": value}).inputs["N"]
        assert tensor.shape == shape
        assert tensor.numpy().ravel().tolist() == value


def test_members_are_inputs_or_parameters():
    """By name, at both levels; the id is both the request's and a parameter; nothing is reserved."""
    request = read(
        {
            "F": 5,
            "T": "é",
            "x": 1,
            "id": "q",
            "triton_x": True,
            "parameters": {"B": [True, False], "y": 2.5},
            "z": 2**63,
        }
    )
    assert request.id == "q"
    assert list(request.inputs) == ["F", "T", "B"]
    assert request.inputs["F"].shape == (1,)
    assert request.inputs["T"].memory() == b"\x02\0\0\0\xc3\xa9"
    assert request.parameters == {"x": 1, "id": "q", "triton_x": True, "y": 2.5, "z": float(2**63)}
    assert read({}).parameters is None


def test_a_batching_model_gets_a_batch_of_one():
    """The batch dimension is a variable one to the left of all."""
    described = config(8, F=(DataType.TYPE_FP32, [2]), V=(DataType.TYPE_FP32, [-1]))
    request = read({"F": [1, 2], "V": [1, 2, 3]}, described)
    assert [tensor.shape for tensor in request.inputs.values()] == [(1, 2), (1, 3)]
    assert read({"F": [1, 2, 3, 4]}, described).inputs["F"].shape == (2, 2)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"[1]", 500, "attempt to get members for non-object"),
        (b"", 500, "failed to parse the request JSON buffer: The document is empty. at 0"),
        ({"id": 5}, 500, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ({"F": [[1, 2], [3]]}, 500, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
        ({"F": {"a": 1}}, 500, "Unable to parse 'data': attempt to access JSON non-number as double"),
        ({"F": None}, 500, "Unable to parse 'data': attempt to access JSON non-number as double"),
        ({"T": 5}, 500, "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
        ({"H": 1}, 400, "receiving FP16 data via JSON is not supported. Please use the binary data format for input H"),
        ({"x": [1]}, 400, "parameter 'x' has invalid type. It should be either 'int', 'bool', or 'string'."),
        (
            {"parameters": 5},
            500,
            "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object",
        ),
        (
            {"parameters": {"x": None}},
            400,
            "Converting keyword: 'parameters': parameter 'x' has invalid type. It should be either 'int', 'bool', or "
            "'string'.",
        ),
        (
            {"F": 1, "parameters": {"F": 2}},
            400,
            "Converting keyword: 'parameters': [request id: <id_unknown>] input 'F' already exists in request",
        ),
        (
            b" " * 10_001,
            400,
            "request JSON size of 10001 bytes exceeds the maximum allowed input size of 10000 bytes. ",
        ),
    ],
)
def test_refusals(body, status, text):
    """Each in the protocol's words and with its status."""
    with pytest.raises(Fault) as caught:
        read(body)
    assert caught.value.http_status == status
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b'{"F":1,"F":2}', 400, "[request id: <id_unknown>] input 'F' already exists in request"),
        (b'{"F":1,"x":1,"F":"a","id":"q"}', 400, "[request id: q] input 'F' already exists in request"),
        (b'{"F":"a","F":1}', 500, "Unable to parse 'data': attempt to access JSON non-number as double"),
        (b'{"F":1,"F":2,"x":null}', 400, "[request id: <id_unknown>] input 'F' already exists in request"),
        (b'{"x":null,"F":1,"F":2}', 400, "parameter 'x' has invalid type."),
        (
            b'{"parameters":{"F":NaN,"F":2}}',
            400,
            "Converting keyword: 'parameters': [request id: <id_unknown>] input 'F' already exists in request",
        ),
    ],
)
def test_an_input_that_is_repeated(body, status, text):
    """The first fault in the order of the members is told; each member has the value that its name has first."""
    with pytest.raises(Fault) as caught:
        read(body)
    assert caught.value.http_status == status
    assert caught.value.message.startswith(text)


def test_other_members_that_are_repeated():
    """Of parameters, the id and the keyword for nested ones the first counts."""
    request = read(b'{"id":"a","x":1,"T":"q:\\":","x":[],"id":5,"parameters":{"y":1,"y":2},"parameters":7}')
    assert request.id == "a"
    assert request.parameters == {"id": "a", "x": 1, "y": 1}
    assert request.inputs["T"].memory() == b'\4\0\0\0q:":'


def test_an_input_named_like_the_keyword():
    """Such a model cannot be told what is meant."""
    with pytest.raises(Fault, match="Keyword 'parameters' for nested schema also given as input tensor name"):
        read({"parameters": 1}, config(parameters=(DataType.TYPE_FP32, [1])))


def test_responses_are_flat_and_sorted_by_byte():
    """One element stands bare, others in a list; parameters stand among the outputs."""
    response = InferenceResponse(
        "m",
        "3",
        [
            Tensor.of("b", np.array([[1, 2], [3, 4]], np.int32)),
            Tensor.of("Z", np.array([[0.5]], np.float32)),
            Tensor.of("text", np.array([b'a"\n'], object)),
            Tensor.of("none", np.zeros((0, 2), np.int32)),
        ],
        id="q",
        parameters={"a": True, "n": 2, "s": "x"},
    )
    assert write_generate(response) == (
        b'{"Z":0.5,"a":true,"b":[1,2,3,4],"id":"q","model_name":"m","model_version":"3","n":2,"none":[],"s":"x",'
        b'"text":"a\\"\\n"}'
    )


def test_an_output_that_json_cannot_carry():
    """FP16 is refused in the protocol's words."""
    response = InferenceResponse("m", "1", [Tensor.of("h", np.zeros(1, np.float16))])
    with pytest.raises(Fault, match="sending FP16 data via JSON is not supported"):
        write_generate(response)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["N", "F", "T", "B", "H", "parameters", "id", "x"])


@given(st.dictionaries(NAMES, JSON, max_size=5))
def test_any_document_is_read_or_refused(document):
    """Nothing but a fault comes out of odd documents, and what is read has as many elements as its shape says."""
    try:
        request = read(document)
    except Fault:
        return
    for tensor in request.inputs.values():
        assert tensor.numpy().shape == tuple(tensor.shape)
