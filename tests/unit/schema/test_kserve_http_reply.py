"""Writing the body of an HTTP inference answer."""

import json
import math

import numpy as np
import pytest
import tritonclient.http as client
from despina.schema import kserve_http_reply
from despina.schema.fault import Internal, InvalidArgument
from despina.schema.infer_head import ReplyFormat
from despina.schema.inference import FixedParameters, InferenceResponse
from despina.schema.kserve_http_reply import encode_error, encode_infer, number_text
from despina.schema.tensor import Tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def reply_to(*outputs, **fields):
    return InferenceResponse("m", "1", list(outputs), **fields)


def data_of(tensor):
    """The text between the brackets of an output's data."""
    head, buffers, has_bytes = encode_infer(reply_to(tensor), ReplyFormat())
    assert (buffers, has_bytes) == ([], False)
    return head.split(b'"data":[')[1].removesuffix(b"]}]}")


def test_json_reply_word_for_word():
    """Member order and compactness are the reference server's."""
    total = Tensor("OUTPUT0", "INT32", [1, 2], memoryview(np.array([2, -4], "<i4").tobytes()))
    assert encode_infer(reply_to(total, id="abc"), ReplyFormat()) == (
        b'{"id":"abc","model_name":"m","model_version":"1","outputs":'
        b'[{"name":"OUTPUT0","datatype":"INT32","shape":[1,2],"data":[2,-4]}]}',
        [],
        False,
    )


def test_binary_reply_word_for_word():
    """Buffers are the tensors' own memory, in the order of the outputs; JSON outputs have none."""
    memory = memoryview(bytes(8))
    outputs = [Tensor(name, "FP32", (1, 2), memory) for name in ("A", "B", "C")]
    head, buffers, has_bytes = encode_infer(reply_to(*outputs), ReplyFormat(True, {"B": False}))
    assert head == (
        b'{"model_name":"m","model_version":"1","outputs":['
        b'{"name":"A","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},'
        b'{"name":"B","datatype":"FP32","shape":[1,2],"data":[0.0,0.0]},'
        b'{"name":"C","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    )
    assert has_bytes
    assert len(buffers) == 2
    assert all(buffer is memory for buffer in buffers)


def test_empty_binary_outputs_are_no_binary_reply():
    """Their size is told, but the answer is plain JSON."""
    head, buffers, has_bytes = encode_infer(reply_to(Tensor("A", "FP32", [1, 0], b"")), ReplyFormat(True))
    assert json.loads(head)["outputs"] == [
        {"name": "A", "datatype": "FP32", "shape": [1, 0], "parameters": {"binary_data_size": 0}}
    ]
    assert (buffers, has_bytes) == ([], False)


def test_no_outputs():
    """A model may answer nothing."""
    assert encode_infer(reply_to(), ReplyFormat())[0] == b'{"model_name":"m","model_version":"1","outputs":[]}'


def test_response_parameters():
    """Only when the model set any, after the version."""
    parameters = {"s": 'a"', "b": True, "f": False, "i": 2**63, "d": 0.5, "n": math.nan}
    head, _, _ = encode_infer(reply_to(parameters=parameters), ReplyFormat())
    assert head == (
        b'{"model_name":"m","model_version":"1",'
        b'"parameters":{"s":"a\\"","b":true,"f":false,"i":9223372036854775808,"d":0.5,"n":NaN},"outputs":[]}'
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, 2.5, 1e30], b"1.0,2.5,1.0000000150474662e30"),
        ([0.1, math.nan, math.inf, -math.inf], b"0.10000000149011612,NaN,Infinity,-Infinity"),
        ([1e16, 1e-5], b"10000000272564224.0,0.000009999999747378752"),
        ([1e20, 123456789012], b"100000002004087730000.0,123456790528.0"),
        ([1.5e-6, 1e-45, -0.0], b"0.000001500000053056283,1.401298464324817e-45,-0.0"),
        ([1e-7], b"1.0000000116860974e-7"),
    ],
)
def test_fp32_text(values, text):
    """Printed as the double that the element is, in the reference server's notation."""
    assert data_of(Tensor.of("A", np.array(values, np.float32))) == text


@given(st.floats())
def test_number_text_round_trips(value):
    """Every double reads back as itself."""
    text = number_text(value)
    read = json.loads(text)
    assert isinstance(read, float)
    assert read == value or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e15, "1000000000000000.0"),
        (-1e20, "-100000000000000000000.0"),
        (1e21, "1e21"),
        (-1.5e300, "-1.5e300"),
        (1e-6, "0.000001"),
        (-1.25e-6, "-0.00000125"),
        (1e-7, "1e-7"),
        (1, "1.0"),
    ],
)
def test_number_notation(value, text):
    """Plain from 1e-6 up to 1e21."""
    assert number_text(value) == text


def test_booleans():
    """Any byte but 0 is true."""
    assert data_of(Tensor("A", "BOOL", [3], b"\0\1\2")) == b"false,true,true"
    assert data_of(Tensor.of("A", np.array([[True], [False]]))) == b"true,false"


def test_strings():
    """Bytes go out as they are; quotes, backslashes and control characters are escaped, slashes are not."""
    items = np.array([b"a\xff\x01", b'/\x1f\x7f\n\b"\\', "é", b""], dtype=object)
    assert data_of(Tensor.of("A", items)) == (b'"a\xff\\u0001","/\\u001F\x7f\\n\\b\\"\\\\","' + "é".encode() + b'",""')
    assert data_of(Tensor("A", "BYTES", [1], b"\2\0\0\0ab")) == b'"ab"'
    assert data_of(Tensor("A", "BYTES", [0], b"")) == b""


def test_strided_scalar_and_empty_arrays():
    """Whatever view the model made."""
    assert data_of(Tensor.of("A", np.arange(6, dtype=np.int8).reshape(2, 3).T)) == b"0,3,1,4,2,5"
    assert data_of(Tensor.of("A", np.array(5, np.uint64))) == b"5"
    assert data_of(Tensor("A", "FP64", [2, 0], b"")) == b""
    assert data_of(Tensor.of("A", np.array([True, False, True])[::2])) == b"true,true"


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_have_no_json(datatype):
    """Refused with the protocol's text; binary they pass."""
    tensor = Tensor("A", datatype, [1], b"\0\0")
    with pytest.raises(InvalidArgument) as caught:
        encode_infer(reply_to(tensor), ReplyFormat())
    assert caught.value.message == (
        f"sending {datatype} data via JSON is not supported. Please use the binary data format for output"
    )
    assert encode_infer(reply_to(tensor), ReplyFormat(True))[1] == [b"\0\0"]


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("A", "FP32", [3], b"\0" * 8),
        Tensor("A", "FP32", [2], b"\0" * 7),
        Tensor("A", "BYTES", [1], b"\2\0\0\0a"),
        Tensor("A", "BYTES", [2], b"\1\0\0\0a"),
        Tensor("A", "BAD", [2], b"\1\0\0\0a"),
    ],
)
def test_output_that_lies_about_its_size(tensor):
    """The model's fault, said in the protocol's words."""
    with pytest.raises(Internal) as caught:
        encode_infer(reply_to(tensor), ReplyFormat())
    assert caught.value.message == (
        "Failed to write 'data' field: output tensor shape does not match size of output for 'A'"
    )


@pytest.mark.parametrize("binary", [False, True])
def test_classification(binary):
    """The output is replaced by its ranking, in either form, with the model's labels."""
    scores = Tensor.of("A", np.array([[1, 5, 3]], np.int32))
    reply = ReplyFormat(False, {"A": binary}, {"A": 2})
    head, buffers, has_bytes = encode_infer(reply_to(scores), reply, {"A": ["x", "y"]}, 8)
    output = json.loads(head)["outputs"][0]
    assert (output["datatype"], output["shape"], has_bytes) == ("BYTES", [1, 2], binary)
    if binary:
        assert bytes(buffers[0]) == b"\5\0\0\x005:1:y\3\0\0\x003:2"
    else:
        assert output["data"] == ["5:1:y", "3:2"]


def test_error_body():
    """Compact, escaped, and never an exception of its own."""
    assert encode_error("a 'b' \"c\"\n/é") == b'{"error":"a \'b\' \\"c\\"\\n/' + "é".encode() + b'"}'
    assert encode_error("\udcff").decode() == '{"error":"\ufffd"}'
    assert encode_error("\ud800").decode() == '{"error":"\ufffd"}'
    assert encode_error("") == b'{"error":""}'


def test_memory_is_bounded():
    """Shapes without end do not fill it."""
    for size in range(3000):
        encode_infer(reply_to(Tensor("A", "INT8", [size], b"")), ReplyFormat(True))
    assert 0 < len(kserve_http_reply._openings) <= 1024


ARRAYS = st.one_of(
    [
        hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        for dtype in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), st.tuples(ARRAYS, st.booleans()), max_size=3),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
def test_what_the_real_client_reads(outputs, request_id):
    """tritonclient's own decoder finds the same arrays."""
    outputs = {name.encode("utf-8", "replace").decode(): value for name, value in outputs.items()}
    response = reply_to(*[Tensor.of(name, array) for name, (array, _) in outputs.items()], id=request_id)
    reply = ReplyFormat(False, {name: binary for name, (_, binary) in outputs.items()})
    head, buffers, has_bytes = encode_infer(response, reply)
    json.loads(head)
    parsed = client.InferenceServerClient.parse_response_body(
        b"".join([head, *buffers]), header_length=len(head) if has_bytes else None
    )
    assert parsed.get_response().get("id", "") == request_id
    for name, (array, binary) in outputs.items():
        if array.size or not binary:
            np.testing.assert_array_equal(parsed.as_numpy(name), array)


def test_parameters_that_many_answers_share():
    """Goal: what is kept of one answer is used for others with the very same parameters, and for no equal ones: 0 and
    false are equal, but read differently."""
    memory = memoryview(bytes(8))
    fixed = FixedParameters({"s": 0, "b": False})
    reply = ReplyFormat(True)

    def head_with(parameters):
        return encode_infer(reply_to(Tensor("A", "FP32", (1, 2), memory), parameters=parameters), reply)[0]

    rest = b'"outputs":[{"name":"A","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    names = b'{"model_name":"m","model_version":"1",'
    for _ in range(3):
        assert head_with(fixed) == names + b'"parameters":{"s":0,"b":false},' + rest
    assert head_with({"s": False, "b": 0}) == names + b'"parameters":{"s":false,"b":0},' + rest
    assert head_with(None) == names + rest
    assert head_with(FixedParameters({"s": 1})) == names + b'"parameters":{"s":1},' + rest
    assert head_with(fixed) == names + b'"parameters":{"s":0,"b":false},' + rest
