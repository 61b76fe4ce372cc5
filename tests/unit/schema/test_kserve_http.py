"""Reading the body of an HTTP inference request."""

# ruff: noqa: UP031 (percent formats, because JSON is full of braces)

import contextlib
import json
import math

import numpy as np
import orjson
import pytest
import tritonclient.http as client
from despina.schema import infer_head, kserve_http
from despina.schema.fault import Fault, Internal, InvalidArgument, MalformedRequest, NotFound
from despina.schema.kserve_http import DecodeLimits, decode_infer, parse_header_length
from despina.schema.tensor import decode_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.utils import np_to_triton_dtype

ONE_SOURCE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)
TOO_SMALL = "Unable to parse 'data': Shape does not match true shape of 'data' field"
TOO_BIG = "Unable to parse 'data': Shape does not match true shape of 'data' field"
NOT_UNSIGNED = "attempt to access JSON non-unsigned-integer as unsigned-integer"
NOT_BOOLEAN = "attempt to access JSON non-boolean as boolean"
NOT_STRING = "attempt to access JSON non-string as string"
TENSOR = '{"name":"X","shape":[1,2],"datatype":"FP32","data":[1,2]}'
BINARY = '{"name":"X","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}'


@pytest.fixture(autouse=True)
def _forget():
    kserve_http._frames.clear()


def decode(head, tail=b"", **limits):
    text = head.encode() if isinstance(head, str) else head
    return decode_infer(text + tail, len(text), "m", -1, DecodeLimits(**limits))


def tensor_of(fields, tail=b""):
    """The input that an entry with these members becomes."""
    return decode('{"inputs":[{"name":"X",%s}]}' % fields, tail)[0].inputs["X"]


def refused(head, tail=b"", **limits):
    """The fault, the same from a first and a second reading."""
    with pytest.raises(Fault) as first:
        decode(head, tail, **limits)
    with pytest.raises(Fault) as second:
        decode(head, tail, **limits)
    assert (type(first.value), first.value.message) == (type(second.value), second.value.message)
    return first.value


def test_the_whole_request():
    """Every member has its slot."""
    request, reply = decode(
        '{"id":"7","parameters":{"sequence_id":5,"sequence_start":true,"sequence_end":true,"priority":3,"timeout":9,'
        '"binary_data_output":true,"a":"b","c":1.5,"d":true,"headers":-1},"inputs":[%s],'
        '"outputs":[{"name":"Y"},{"name":"Z","parameters":{"binary_data":true}},'
        '{"name":"C","parameters":{"classification":2}}]}' % BINARY,
        np.array([1, 2], "<f4").tobytes(),
    )
    assert (request.model_name, request.model_version, request.id) == ("m", -1, "7")
    assert (request.correlation_id, request.sequence_start, request.sequence_end) == (5, True, True)
    assert (request.priority, request.timeout_us) == (3, 9)
    assert request.parameters == {"a": "b", "c": 1.5, "d": True, "headers": -1}
    assert request.outputs == ("Y", "Z", "C")
    assert not request.raw
    assert request.inputs["X"].numpy().tolist() == [[1, 2]]
    assert reply.binary_default
    assert reply.binary == {"Y": False, "Z": True, "C": False}
    assert reply.classification == {"C": 2}
    assert "True" in repr(reply)


def test_the_least_request():
    """No inputs is legal here; unknown members are ignored; all else has its default."""
    request, reply = decode('{"inputs":[],"what":[1]}')
    assert (request.id, request.inputs, request.outputs, request.parameters) == ("", {}, (), None)
    assert (request.correlation_id, request.priority, request.timeout_us) == (0, 0, 0)
    assert (reply.binary_default, reply.binary, reply.classification) == (False, {}, {})


def test_string_sequence_id():
    """A correlation id may be text."""
    assert decode('{"parameters":{"sequence_id":"s"},"inputs":[]}')[0].correlation_id == "s"


def test_binary_inputs_are_views():
    """No byte of a tensor is copied, on the first reading and on the remembered one."""
    head = ('{"inputs":[%s]}' % BINARY).encode()
    body = bytearray(head + bytes(8))
    for _ in range(2):
        request, _ = decode_infer(body, len(head), "m", 3)
        memory = request.inputs["X"].memory()
        assert isinstance(memory, memoryview)
        assert memory.obj is body
        assert request.model_version == 3


@pytest.mark.parametrize(
    ("text", "size", "length"), [("0", 5, 0), ("5", 5, 5), ("+4", 5, 4), (" 4 ", 5, 4), ("-0", 0, 0)]
)
def test_header_length(text, size, length):
    """Plain integers in the range of the body."""
    assert parse_header_length(text.encode(), size) == length


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "inference header size should be in range (0, 212), got: -1"),
        ("9999", "inference header size should be in range (0, 212), got: 9999"),
        ("abc", "Unable to parse Inference-Header-Content-Length, got: abc"),
        ("", "Unable to parse Inference-Header-Content-Length, got: "),
        ("1.5", "Unable to parse Inference-Header-Content-Length, got: 1.5"),
        ("\xb2", "Unable to parse Inference-Header-Content-Length, got: \xb2"),
        *(
            (
                digits,
                "Unable to parse Inference-Header-Content-Length, value is out of range "
                f"[ -2147483648, 2147483647 ], got: {digits}",
            )
            for digits in ("2147483648", "-2147483649", "9" * 5000)
        ),
    ],
)
def test_bad_header_length(text, message):
    """Each kind of nonsense has its text."""
    with pytest.raises(InvalidArgument) as caught:
        parse_header_length(text.encode("latin-1"), 212)
    assert caught.value.message == message


@pytest.mark.parametrize(("body", "length"), [(b"abcd", 0), (b"", None), (b"", 0)])
def test_raw_request(body, length):
    """The whole body is one input without a name; everything comes back binary."""
    request, reply = decode_infer(body, length, "m", 2)
    assert request.raw
    assert request.inputs[""].memory() == body
    assert (request.inputs[""].datatype, request.inputs[""].shape) == ("UINT8", (len(body),))
    assert (request.id, request.model_version) == ("", 2)
    assert reply.binary_default


def test_size_limits():
    """The JSON part, JSON tensors and raw bodies are limited; binary tensors are not."""
    use = "Use --http-max-input-size to increase the limit."
    assert refused('{"inputs":[]}', json_byte_size_max=12).message == (
        f"request JSON size of 13 bytes exceeds the maximum allowed input size of 12 bytes. {use}"
    )
    with pytest.raises(InvalidArgument) as caught:
        decode_infer(b"abcd", 0, "m", -1, DecodeLimits(3))
    assert caught.value.message == (
        f"Raw input has a byte_size (4 bytes) that exceeds the maximum allowed value of 3 bytes. {use}"
    )
    numbers = '{"inputs":[{"name":"X","shape":[999999999],"datatype":"FP64","data":[]}]}'
    assert refused(numbers).message == (
        "JSON input 'X' has a byte_size (7999999992 bytes) that exceeds the maximum allowed value of 67108864 bytes. "
        + use
    )
    many = '{"inputs":[{"name":"X","shape":[200],"datatype":"BYTES","data":[%s]}]}' % ",".join(['""'] * 200)
    assert refused(many, json_byte_size_max=len(many)).message.startswith("JSON input 'X' has a byte_size (800 bytes)")
    big = '{"inputs":[{"name":"X","shape":[999],"datatype":"UINT8","parameters":{"binary_data_size":999}}]}'
    assert len(decode(big, bytes(999), json_byte_size_max=200)[0].inputs["X"].memory()) == 999


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("{}", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ("[]", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ("1", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ("null", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ('{"inputs":1}', "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ('{"inputs":null}', "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ('{"id":1,"inputs":[]}', f"Unable to parse 'id': {NOT_STRING}"),
        ('{"id":null,"inputs":[]}', f"Unable to parse 'id': {NOT_STRING}"),
        ('{"parameters":1,"inputs":[]}', "failed to get request params.: attempt to get members for non-object"),
        ('{"parameters":null,"inputs":[]}', "failed to get request params.: attempt to get members for non-object"),
        ('{"inputs":[],"outputs":1}', "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        ('{"inputs":[],"outputs":null}', "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        ('{"inputs":[],"outputs":[1]}', "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        ('{"inputs":[],"outputs":[{}]}', "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        ('{"inputs":[],"outputs":[{"name":1}]}', f"Unable to parse 'name': {NOT_STRING}"),
    ],
)
def test_malformed_members(head, message):
    """Wrong types are 500 by protocol, with the accessor's text."""
    fault = refused(head)
    assert isinstance(fault, MalformedRequest)
    assert fault.message == message


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ('"sequence_id":-1', f"Unable to parse 'sequence_id': {NOT_STRING}"),
        ('"sequence_id":1.0', f"Unable to parse 'sequence_id': {NOT_STRING}"),
        ('"sequence_id":true', f"Unable to parse 'sequence_id': {NOT_STRING}"),
        ('"sequence_id":18446744073709551616', f"Unable to parse 'sequence_id': {NOT_STRING}"),
        ('"sequence_start":1', f"Unable to parse 'sequence_start': {NOT_BOOLEAN}"),
        ('"sequence_end":null', f"Unable to parse 'sequence_end': {NOT_BOOLEAN}"),
        ('"priority":-1', f"Unable to parse 'priority': {NOT_UNSIGNED}"),
        ('"priority":18446744073709551616', f"Unable to parse 'priority': {NOT_UNSIGNED}"),
        ('"timeout":1.5', f"Unable to parse 'timeout': {NOT_UNSIGNED}"),
        ('"timeout":true', f"Unable to parse 'timeout': {NOT_UNSIGNED}"),
        ('"binary_data_output":1', f"Unable to parse 'binary_data_output': {NOT_BOOLEAN}"),
        *(
            (
                f'"{key}":true',
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
            )
            for key in ("triton_x", "triton_", "triton_enable_empty_final_response")
        ),
        *(
            (f'"a":{value}', "parameter 'a' has invalid type. It should be either 'int', 'bool', or 'string'.")
            for value in ("{}", "[]", "null")
        ),
    ],
)
def test_bad_request_parameters(parameter, message):
    """Each parameter wants its own type; the status tells type errors from forbidden values."""
    fault = refused('{"parameters":{%s},"inputs":[%s]}' % (parameter, TENSOR))
    assert fault.message == message
    assert fault.http_status == (500 if message.startswith("Unable") else 400)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("1", f"{ONE_SOURCE}no field is set"),
        ("{}", f"{ONE_SOURCE}no field is set"),
        ('{"name":"X","parameters":1}', f"{ONE_SOURCE}no field is set"),
        ('{"name":"X","parameters":{"foo":1}}', f"{ONE_SOURCE}no field is set"),
        ('{"data":[],"parameters":{"binary_data_size":-1}}', f"{ONE_SOURCE}set 'data' 'binary_data_size'"),
        ('{"data":[],"parameters":{"shared_memory_region":1}}', f"{ONE_SOURCE}set 'data' 'shared_memory_region'"),
        (
            '{"data":[],"parameters":{"shared_memory_region":1,"binary_data_size":1}}',
            f"{ONE_SOURCE}set 'data' 'binary_data_size' 'shared_memory_region'",
        ),
        ('{"data":[1]}', "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        ('{"data":[1],"name":1}', f"Unable to parse 'name': {NOT_STRING}"),
        (
            '{"data":[1],"name":"X"}',
            "Unable to parse 'datatype': attempt to access non-existing object member 'datatype'",
        ),
        ('{"data":[1],"name":"X","datatype":1,"shape":1}', f"Unable to parse 'datatype': {NOT_STRING}"),
        (
            '{"data":[1],"name":"X","datatype":"FP32"}',
            "Unable to parse 'shape': attempt to access non-existing object member 'shape'",
        ),
        (
            '{"data":[1],"name":"X","datatype":"FP32","shape":1}',
            "Unable to parse 'shape': attempt to access JSON non-array as array",
        ),
        *(
            (
                f'{{"data":[1],"name":"X","datatype":"FP32","shape":[2,{size}]}}',
                f"Unable to parse 'shape': {NOT_UNSIGNED}",
            )
            for size in ("-16", "1.0", '"a"', "true", "null", "18446744073709551616")
        ),
        *(
            (
                f'{{"{source},"name":"X","datatype":"FP32","shape":[{shape}]}}',
                f"invalid shape for input 'X': shape [{shape}] causes total element count to exceed maximum size of "
                "9223372036854775807",
            )
            for source in ('data":[1]', 'parameters":{"binary_data_size":0}')
            for shape in (
                "9223372036854775807,4",
                "4294967296,4294967296",
                "18446744073709551615",
                "0,9223372036854775808",
            )
        ),
        *(
            (
                f'{{"name":"X","datatype":"FP32","shape":[1],"parameters":{{"binary_data_size":{size}}}}}',
                f"Unable to parse 'binary_data_size': {NOT_UNSIGNED}",
            )
            for size in ("-1", "1.5", '"4"', "18446744073709551616")
        ),
        *(
            (
                f'{{"name":"X","datatype":"FP32","shape":[1],"parameters":{{"binary_data_size":{size}}}}}',
                f"unexpected size for input 'X', expecting {size} additional bytes for model 'm'",
            )
            for size in ("4", "18446744073709551615")
        ),
        *(
            (
                '{"name":"X","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":%s}}' % rest,
                f"Unable to parse '{text}",
            )
            for rest, text in [
                ("1", f"shared_memory_region': {NOT_STRING}"),
                ('"r","shared_memory_offset":-1', f"shared_memory_offset': {NOT_UNSIGNED}"),
                ('"r","shared_memory_byte_size":"x"', f"shared_memory_byte_size': {NOT_UNSIGNED}"),
            ]
        ),
    ],
)
def test_bad_inputs(entry, message):
    """The source of the data is checked first, then name, datatype, shape, data."""
    fault = refused('{"inputs":[%s]}' % entry)
    assert fault.message == message
    assert isinstance(fault, MalformedRequest if message.startswith("Unable") else InvalidArgument)


def test_duplicate_input():
    """Named with the request's id, before the second one's data is read."""
    twice = TENSOR + "," + TENSOR.replace("[1,2]}", "[]}")
    assert refused('{"inputs":[%s]}' % twice).message == (
        "[request id: <id_unknown>] input 'X' already exists in request"
    )
    fault = refused('{"id":"q","inputs":[%s]}' % twice)
    assert isinstance(fault, InvalidArgument)
    assert fault.message == "[request id: q] input 'X' already exists in request"


def test_binary_sizes():
    """Blocks are taken in order, JSON inputs take none, and every byte must be claimed, before outputs are read."""
    two = BINARY.replace('"X"', '"A"') + "," + TENSOR + "," + BINARY.replace('"X"', '"B"')
    request, _ = decode('{"inputs":[%s]}' % two, b"a" * 8 + b"b" * 8)
    assert [bytes(tensor.memory()[:1]) for tensor in request.inputs.values()] == [b"a", b"\0", b"b"]
    head = '{"inputs":[%s]}' % BINARY
    for _ in range(2):
        assert refused(head, bytes(5)).message == (
            "unexpected size for input 'X', expecting 3 additional bytes for model 'm'"
        )
        assert refused(head, bytes(9)).message == "unexpected additional input data for model 'm'"
        decode(head, bytes(8))
    assert refused('{"inputs":[],"outputs":1}', b"x").message == "unexpected additional input data for model 'm'"
    empty = BINARY.replace("8}", "0}")
    assert decode('{"inputs":[%s]}' % empty)[0].inputs["X"].memory() == b""


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('"binary_data":1', f"Unable to parse 'binary_data': {NOT_BOOLEAN}"),
        ('"classification":-1', f"Unable to set 'classification': {NOT_UNSIGNED}"),
        ('"classification":true', f"Unable to set 'classification': {NOT_UNSIGNED}"),
        ('"shared_memory_region":1', f"Unable to parse 'shared_memory_region': {NOT_STRING}"),
        ('"shared_memory_region":"r","binary_data":1', f"Unable to set 'binary_data': {NOT_BOOLEAN}"),
        (
            '"shared_memory_region":"r","classification":1',
            "Output can't set both 'shared_memory_region' and 'classification'",
        ),
        (
            '"shared_memory_region":"r","binary_data":true',
            "Output can't set both 'shared_memory_region' and 'binary_data'",
        ),
    ],
)
def test_bad_output_parameters(parameters, message):
    """Forms that do not go together, and wrong types."""
    assert refused('{"inputs":[],"outputs":[{"name":"Y","parameters":{%s}}]}' % parameters).message == message


def test_output_forms():
    """Parameters that are no object are ignored, and 0 classes means none."""
    request, reply = decode(
        '{"inputs":[],"outputs":[{"name":"A","parameters":null},{"name":"B","parameters":{"classification":0}},'
        '{"name":"C","parameters":{"binary_data":true}}]}'
    )
    assert request.outputs == ("A", "B", "C")
    assert reply.binary == {"A": False, "B": False, "C": True}
    assert reply.classification == {}


def test_duplicate_output():
    """Refused in the words of the newest release, before the second entry's parameters are looked at."""
    twice = '"inputs":[],"outputs":[{"name":"C"},{"name":"C","parameters":{"classification":"x"}}]'
    fault = refused("{%s}" % twice)
    assert isinstance(fault, InvalidArgument)
    assert fault.message == "[request id: <id_unknown>] output 'C' already exists in request"
    assert refused('{"id":"q",%s}' % twice).message == "[request id: q] output 'C' already exists in request"


@pytest.mark.parametrize("pad", [0, 4000])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"id":"a"', '"id":"b"'),
        ('"id":"a"', '"id" : 5'),
        ('"outputs":[{"name":"A"}]', '"outputs":[]'),
        ('"parameters":{"x":1}', '"parameters":{"x":2}'),
        ('"parameters":{"x":1,"y":"a:b","x":[]}', '"z":{"x":1}'),
        ('"parameters":{"priority":3,"priority":"no"}', '"z":0'),
        ('"outputs":[{"name":"A","name":"B"}]', '"z":0'),
        ('"outputs":[{"name":"A","parameters":{"binary_data":true,"binary_data":false}}]', '"z":0'),
    ],
)
def test_the_first_of_repeated_members_counts(first, second, pad):
    """As in the reference server, whether the last would be a fault or not, in small heads and large ones, and when
    the same text comes again."""
    text = '{%s,"inputs":[%s],%s%s}'  # blanks make the head large
    input_ = '{"name":"X","datatype":"INT32","shape":[1],"shape":[2],"data":[7],"data":[8,9]}'
    alone = '{"name":"X","datatype":"INT32","shape":[1],"data":[7]}'
    first_alone = first.replace(',"x":[]', "").replace(',"priority":"no"', "")
    first_alone = first_alone.replace(',"name":"B"', "").replace(',"binary_data":false', "")
    expected, expected_reply = decode(text % (first_alone, alone, '"z":0', " " * pad))
    for _ in range(2):
        request, reply = decode(text % (first, input_, second, " " * pad))
        assert bytes(request.inputs["X"].memory()) == b"\7\0\0\0"
        for name in ("id", "outputs", "parameters", "priority"):
            assert getattr(request, name) == getattr(expected, name)
        assert reply.binary == expected_reply.binary


def test_a_fault_of_the_first_member_is_told():
    """Though the last one would be right."""
    fault = refused('{"inputs":[],"id":5,"id":"a"}')
    assert fault.message == "Unable to parse 'id': attempt to access JSON non-string as string"


@pytest.mark.parametrize(
    "head",
    [
        '{"inputs":[{"name":"X","datatype":"FP32","shape":[1],"parameters":'
        '{"shared_memory_region":"r","shared_memory_byte_size":4}}]}',
        '{"inputs":[],"outputs":[{"name":"Y","parameters":'
        '{"binary_data":false,"shared_memory_region":"r","shared_memory_byte_size":4}}]}',
    ],
)
def test_unknown_regions_are_refused_by_name(head):
    """Without a registry every region of shared memory is unknown, which is said and not ignored."""
    fault = refused(head)
    assert isinstance(fault, NotFound)
    assert fault.message == "Unable to find shared memory region: 'r'"


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("BOOL", "[true,false]", [True, False]),
        ("UINT8", "[300,18446744073709551615]", [44, 255]),
        ("INT8", "[300,-300]", [44, -44]),
        ("INT32", "[1099511627776,-9223372036854775808]", [0, 0]),
        ("UINT64", "[18446744073709551615,0]", [2**64 - 1, 0]),
        ("INT64", "[9223372036854775807,-9223372036854775808]", [2**63 - 1, -(2**63)]),
        ("FP32", "[1,1e300]", [1.0, math.inf]),
        ("FP32", "[-Inf,18446744073709551615]", [-math.inf, 2.0**64]),
        ("FP64", "[[1],[[],0.1]]", [1.0, 0.1]),
        ("FP32", "[1,[],[[2]]]", [1.0, 2.0]),
        ("FP32", "[[],[[1,2]]]", [1.0, 2.0]),
        ("BYTES", '["a\\u0000\\u00e9",["",[]]]', ["a\0é".encode(), b""]),
        ("INT16", "[" * 100 + "1,2" + "]" * 100, [1, 2]),
    ],
)
def test_json_data(datatype, data, expected):
    """Nesting is flattened, integers wrap to their width, doubles overflow to infinity."""
    tensor = tensor_of(f'"shape":[2],"datatype":"{datatype}","data":{data}')
    assert tensor.numpy().tolist() == expected
    assert tensor.datatype == datatype


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        *(
            ("FP32", data, "Unable to parse 'data': attempt to access JSON non-array as array")
            for data in ("1", "null")
        ),
        *(
            ("BYTES", data, "Unable to parse 'data': attempt to access JSON non-array as array")
            for data in ('"a"', "{}")
        ),
        *(("FP32", data, TOO_BIG) for data in ("[]", "[1]", "[[[]],[]]")),
        *(("FP32", data, TOO_SMALL) for data in ("[1,2,3]", '[1,2,"a"]', "[[1,2],[3]]")),
        *(
            ("FP64", data, "Unable to parse 'data': attempt to access JSON non-number as double")
            for data in ("[true,1]", "[null]", '[1,"a",3]', "[{},1]")
        ),
        *(("BOOL", data, f"Unable to parse 'data': {NOT_BOOLEAN}") for data in ("[1,true]", "[0,0]", '["true"]')),
        *(
            ("UINT8", data, f"Unable to parse 'data': {NOT_UNSIGNED}")
            for data in ("[-1,1]", "[1.0,1]", "[true,1]", "[18446744073709551616,1]")
        ),
        *(
            (
                datatype,
                data,
                "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
            )
            for datatype in ("INT8", "INT64")
            for data in ("[9223372036854775808,1]", "[1.5,1]", "[-9223372036854775809,1]", '["a"]', "[false,1]")
        ),
        *(
            (
                datatype,
                data,
                f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input X",
            )
            for datatype in ("FP16", "BF16")
            for data in ("[1,2]", "[]")
        ),
        *((datatype, "[]", "invalid datatype for input X") for datatype in ("", "INT33", "bytes", "TYPE_FP32")),
        ("BYTES", '["a",null]', f"Unable to parse JSON bytes array: {NOT_STRING}"),
        ("INT16", "[" * 101 + "1,2" + "]" * 101, "JSON nesting depth exceeds maximum allowed limit (100)"),
        ("INT16", "[1," * 101 + "2" + "]" * 101, "JSON nesting depth exceeds maximum allowed limit (100)"),
        ("INT16", "[" * 1100 + "2" + "]" * 1100, "JSON nesting depth exceeds maximum allowed limit (100)"),
    ],
)
def test_bad_json_data(datatype, data, message):
    """The first bad element wins over a wrong count, unless the surplus comes first."""
    fault = refused('{"inputs":[{"name":"X","shape":[1,2],"datatype":"%s","data":%s}]}' % (datatype, data))
    assert fault.message == message
    internal = "parse" in message
    assert isinstance(fault, Internal if internal else InvalidArgument)


def test_ragged_nesting_to_the_limit():
    """Mixed levels count their depth the same way."""
    data = "[1," * 99 + "[2]" + "]" * 99
    assert tensor_of('"shape":[100],"datatype":"INT8","data":' + data).numpy().sum() == 101


def test_no_elements():
    """A shape without elements leaves the data unread; what JSON cannot carry passes then."""
    for datatype, data in [("FP32", '["x"]'), ("FP16", "5"), ("BYTES", '["x"]')]:
        tensor = tensor_of(f'"shape":[1,0],"datatype":"{datatype}","data":{data}')
        assert (tensor.memory(), tensor.shape, tensor.datatype) == (b"", (1, 0), datatype)


def test_unknown_datatype_without_json_data():
    """It is left to the engine to refuse, in its own words."""
    assert tensor_of('"shape":[0],"datatype":"ZZ","data":[]').datatype == "<invalid>"
    assert tensor_of('"shape":[1],"datatype":"ZZ","parameters":{"binary_data_size":1}', b"x").datatype == "<invalid>"


def test_strings_that_are_not_utf8():
    """BYTES elements are bytes, however they come."""
    head = b'{"inputs":[{"name":"X","shape":[1],"datatype":"BYTES","data":["a\xffb"]}]}'
    assert decode(head)[0].inputs["X"].numpy().tolist() == [b"a\xffb"]
    named = b'{"inputs":[{"name":"X\xff","shape":[1],"datatype":"BYTES","data":["a"]}]}'
    assert refused(named).message.startswith("failed to parse the request JSON buffer: Invalid encoding in string.")


def test_heads_are_remembered_apart_from_ids():
    """One memory serves all ids; what it hands out is not shared where a caller might write."""
    rest = ',"parameters":{"a":1},"inputs":[%s]}' % BINARY
    seen = []
    for request_id in ("", "1", "a b-c", "1"):
        request, _ = decode('{"id":"%s"%s' % (request_id, rest), bytes(8))
        assert request.id == request_id
        seen.append(request)
    assert len(kserve_http._frames) == 1
    assert seen[0].parameters is not seen[1].parameters
    assert seen[0].inputs["X"] is not seen[1].inputs["X"]
    plain = '{"inputs":[%s],"id":"z"}' % BINARY
    assert [decode(plain, bytes(8))[0].id for _ in range(2)] == ["z", "z"]


@pytest.mark.parametrize(
    "head",
    [
        '{"id":"a","id":"b","inputs":[]}',
        '{"parameters":{"a":1},"inputs":[],"parameters":{"b":1}}',
        '{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":[1],"data":[2]}]}',
        '{"inputs":[],"pad":"%s"}' % ("x" * 3000),
        '{"inputs":[],"z":{"a":1}}',
    ],
)
def test_heads_that_are_not_remembered(head):
    """Those with members that are given twice, or unknown within others, and large ones."""
    assert decode(head)[0].id == decode(head)[0].id
    assert not kserve_http._frames


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
ARRAYS = st.one_of(
    [
        hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
        for dtype in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(NAMES, st.tuples(ARRAYS, st.booleans()), max_size=3),
    st.dictionaries(NAMES, st.tuples(st.booleans(), st.integers(0, 3)), max_size=3),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.integers(0, 2**63),
)
def test_what_the_real_client_sends(inputs, outputs, request_id, priority):
    """tritonclient's own encoder, read back."""
    wanted = []
    for name, (array, binary) in inputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        wanted.append(client.InferInput(name, array.shape, datatype).set_data_from_numpy(array, binary_data=binary))
    asked = [
        client.InferRequestedOutput(name, binary_data=binary, class_count=count)
        for name, (binary, count) in outputs.items()
    ]
    body, json_size = client.InferenceServerClient.generate_request_body(
        wanted, outputs=asked or None, request_id=request_id, priority=priority, parameters={"p": "q"}
    )
    for _ in range(2):
        request, reply = decode_infer(body, json_size, "m", -1)
        assert request.id == request_id
        assert request.priority == priority
        assert request.parameters == {"p": "q"}
        assert list(request.inputs) == list(inputs)
        for name, (array, _) in inputs.items():
            np.testing.assert_array_equal(request.inputs[name].numpy(), array)
        assert list(request.outputs) == list(outputs)
        assert reply.binary_default is (not outputs)
        assert reply.classification == {name: count for name, (_, count) in outputs.items() if count}


def test_what_the_real_client_sends_as_bytes():
    """Strings, both ways."""
    array = np.array([["a", "é"], ["", "x" * 300]], dtype=object)
    for binary in (False, True):
        tensor = client.InferInput("X", [2, 2], "BYTES").set_data_from_numpy(array, binary_data=binary)
        body, json_size = client.InferenceServerClient.generate_request_body([tensor])
        request, _ = decode_infer(body, json_size, "m", -1)
        assert decode_bytes(request.inputs["X"].memory(), "X") == [item.encode() for item in array.ravel()]


@pytest.mark.parametrize("cut_header", [False, True])
def test_truncation_anywhere_is_a_fault(cut_header):
    """Every prefix of a mixed request is refused, with its header length kept or cut along."""
    head = (
        '{"id":"é","parameters":{"a":1},"inputs":[%s,%s],"outputs":[{"name":"Y","parameters":{"classification":1}}]}'
        % (BINARY.replace('"X"', '"B"'), TENSOR.replace("1,2]}", "NaN,2]}"))
    ).encode()
    body = head + bytes(8)
    decode_infer(body, len(head), "m", -1)
    for size in range(1, len(body)):
        length = min(size, len(head)) if cut_header else None
        with pytest.raises(Fault):
            decode_infer(memoryview(body)[:size], length, "m", -1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.binary(max_size=9))
def test_any_json_is_a_request_or_a_fault(value, tail):
    """Shapes of documents that no client sends."""
    head = json.dumps(value).encode()
    with contextlib.suppress(MalformedRequest, InvalidArgument, NotFound):
        decode_infer(head + tail, len(head), "m", -1)


def test_ranges_carry_what_the_next_step_needs():
    """Region, offset and size of a shared-memory tensor."""
    assert infer_head._read_range({"shared_memory_region": "r", "shared_memory_byte_size": 4}) == ("r", 0, 4)


def test_orjson_depth_and_ours_agree():
    """What the fast parser accepts elsewhere in the document is no tensor and does not matter."""
    deep = orjson.loads("[" * 900 + "]" * 900)
    assert deep
    assert decode('{"inputs":[],"x":%s}' % ("[" * 900 + "]" * 900))[0].inputs == {}
