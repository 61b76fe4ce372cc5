"""ModelInferRequest to InferenceRequest and back: every text, and the short way against the long one."""

from __future__ import annotations

import numpy as np
import pytest
from despina.schema import kserve_grpc, kserve_grpc_plain
from despina.schema.fault import InvalidArgument, NotFound
from despina.schema.inference import FixedParameters, InferenceResponse
from despina.schema.tensor import Tensor
from despina.schema.version import parse_version
from despina.schema.wire import codec
from despina.schema.wire.generated.inference import ModelInferRequest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2


def read(**fields):
    data = service_pb2.ModelInferRequest(model_name="m", **fields).SerializeToString()
    return kserve_grpc.read_request(codec.decode(ModelInferRequest, data))


def tensor(datatype: str = "INT32", shape=(1,), **more) -> dict:
    return {"name": "i", "datatype": datatype, "shape": shape, **more}


MEMORY_TEXT = "parameter for tensor 'i'"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"parameters": {"sequence_id": {"bool_param": True}}},
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            {"parameters": {"sequence_start": {"int64_param": 1}}},
            "invalid value type for 'sequence_start' parameter, expected bool_param.",
        ),
        (
            {"parameters": {"sequence_end": {}}},
            "invalid value type for 'sequence_end' parameter, expected bool_param.",
        ),
        (
            {"parameters": {"priority": {"string_param": "1"}}},
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
        ({"parameters": {"priority": {"int64_param": -1}}}, "invalid value for 'priority', expected value >= 0."),
        (
            {"parameters": {"timeout": {"uint64_param": 1}}},
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            {"parameters": {"triton_enable_empty_final_response": {"int64_param": 1}}},
            "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
        ),
        (
            {"parameters": {"triton_x": {"int64_param": 1}}},
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
            "with 'triton_' are allowed: triton_enable_empty_final_response",
        ),
        (
            {"parameters": {"mine": {"uint64_param": 1}}},
            "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param.",
        ),
        (
            {"parameters": {"mine": {}}},
            "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param.",
        ),
        ({"inputs": [tensor()]}, "unable to find data for input tensor 'i' for model 'm' in request."),
        (
            {"inputs": [tensor(contents={"int_contents": [1]})], "raw_input_contents": [b"1234"]},
            "contents field must not be specified when using raw_input_contents for 'i' for model 'm'",
        ),
        (
            {"inputs": [tensor("FP32", contents={"int_contents": [1]})]},
            "unexpected explicit tensor data for input tensor 'i' for model 'm' of type 'INT32', "
            "expected datatype 'FP32'",
        ),
        (
            {"inputs": [tensor("FP16", contents={"fp32_contents": [1]})]},
            "unexpected explicit tensor data for input tensor 'i' for model 'm' of type 'FP32', "
            "expected datatype 'FP16'",
        ),
        (
            {"inputs": [tensor("BOOL", contents={"bool_contents": [True], "int_contents": [1]})]},
            "unexpected explicit tensor data for input tensor 'i' for model 'm', binary data was already supplied.",
        ),
        (
            {"inputs": [tensor(parameters={"shared_memory_region": {"int64_param": 1}})]},
            f"invalid value type for 'shared_memory_region' {MEMORY_TEXT}, expected string_param.",
        ),
        (
            {"inputs": [tensor(parameters={"shared_memory_offset": {"int64_param": 1}})]},
            f"'shared_memory_offset' can not be specified without 'shared_memory_region' {MEMORY_TEXT}",
        ),
        (
            {"outputs": [{"name": "i", "parameters": {"shared_memory_byte_size": {"int64_param": 1}}}]},
            f"'shared_memory_byte_size' can not be specified without 'shared_memory_region' {MEMORY_TEXT}",
        ),
        (
            {"inputs": [tensor(parameters={"shared_memory_region": {"string_param": "r"}})]},
            f"'shared_memory_byte_size' must be specified along with 'shared_memory_region' {MEMORY_TEXT}",
        ),
        (
            {
                "inputs": [
                    tensor(
                        parameters={"shared_memory_region": {"string_param": "r"}, "shared_memory_byte_size": {}},
                    )
                ]
            },
            f"invalid value type for 'shared_memory_byte_size' {MEMORY_TEXT}, expected int64_param.",
        ),
        (
            {
                "inputs": [
                    tensor(
                        contents={"int_contents": [1]},
                        parameters={
                            "shared_memory_region": {"string_param": "r"},
                            "shared_memory_byte_size": {"int64_param": 4},
                        },
                    )
                ]
            },
            "unexpected 'content' provided when using shared memory for input tensor 'i' for model 'm'",
        ),
        (
            {"outputs": [{"name": "o", "parameters": {"classification": {"string_param": "1"}}}]},
            "invalid value type for 'classification' parameter, expected int64_param",
        ),
        (
            {"outputs": [{"name": "o", "parameters": {"classification": {"int64_param": 0}}}]},
            "invalid value for 'classification' parameter, expected >= 0",
        ),
        (
            {
                "outputs": [
                    {
                        "name": "o",
                        "parameters": {
                            "classification": {"int64_param": 1},
                            "shared_memory_region": {"string_param": "r"},
                            "shared_memory_byte_size": {"int64_param": 4},
                        },
                    }
                ]
            },
            "output can't set both 'shared_memory_region' and 'classification'",
        ),
        (
            {"inputs": [tensor(), tensor()], "raw_input_contents": [b"1", b"2"]},
            "[request id: <id_unknown>] input 'i' already exists in request",
        ),
        (
            {"id": "7", "outputs": [{"name": "o"}, {"name": "p"}, {"name": "o"}, {"name": "p"}]},
            "[request id: 7] output 'o' already exists in request",
        ),
    ],
)
def test_texts(fields, text) -> None:
    """Each mistake gets the protocol's words."""
    with pytest.raises(InvalidArgument) as caught:
        read(**fields)
    assert caught.value.message == text


def test_unknown_regions() -> None:
    """Without a registry every region of shared memory is unknown, which is said and not ignored."""
    region = {"shared_memory_region": {"string_param": "r"}, "shared_memory_byte_size": {"int64_param": 4}}
    for fields in (
        {"inputs": [tensor(parameters=region)]},
        {"outputs": [{"name": "o", "parameters": region}]},
    ):
        with pytest.raises(NotFound, match="Unable to find shared memory region: 'r'"):
            read(**fields)


def test_parameters_are_read() -> None:
    """Known parameters go to their places, others stay parameters."""
    request = read(
        id="9",
        parameters={
            "sequence_id": {"string_param": "s"},
            "sequence_start": {"bool_param": True},
            "sequence_end": {"bool_param": True},
            "priority": {"uint64_param": 3},
            "timeout": {"int64_param": 1000},
            "triton_enable_empty_final_response": {"bool_param": True},
            "a": {"int64_param": -1},
            "b": {"bool_param": False},
            "c": {"string_param": ""},
            "d": {"double_param": 0.5},
        },
    )
    assert (request.correlation_id, request.sequence_start, request.sequence_end) == ("s", True, True)
    assert (request.priority, request.timeout_us, request.id) == (3, 1000, "9")
    assert request.parameters == {"a": -1, "b": False, "c": "", "d": 0.5}
    assert read(parameters={"sequence_id": {"int64_param": 7}, "priority": {"int64_param": 2}}).correlation_id == 7


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("BOOL", {"bool_contents": [True, False]}, b"\1\0"),
        ("INT8", {"int_contents": [-1, 300]}, b"\xff\x2c"),
        ("INT16", {"int_contents": [-2]}, b"\xfe\xff"),
        ("INT32", {"int_contents": [-(2**31)]}, b"\0\0\0\x80"),
        ("INT64", {"int64_contents": [-1]}, b"\xff" * 8),
        ("UINT8", {"uint_contents": [257]}, b"\1"),
        ("UINT16", {"uint_contents": [1]}, b"\1\0"),
        ("UINT32", {"uint_contents": [2**32 - 1]}, b"\xff" * 4),
        ("UINT64", {"uint64_contents": [2**64 - 1]}, b"\xff" * 8),
        ("FP32", {"fp32_contents": [1.0]}, np.float32(1).tobytes()),
        ("FP64", {"fp64_contents": [1.0]}, np.float64(1).tobytes()),
        ("BYTES", {"bytes_contents": [b"ab", b""]}, b"\2\0\0\0ab\0\0\0\0"),
        ("INT32", {}, b""),
        ("FP16", {}, b""),
    ],
)
def test_typed_contents(datatype, contents, expected) -> None:
    """Typed lists become the wire form; integers are cut to their width; an empty message is no bytes."""
    request = read(inputs=[tensor(datatype, contents=contents)])
    assert bytes(request.inputs["i"].memory()) == expected


def test_raw_entries_are_taken_in_order() -> None:
    """Extra raw entries are ignored."""
    request = read(
        inputs=[{"name": "a", "shape": [1]}, {"name": "b", "shape": [2, 3]}], raw_input_contents=[b"1", b"2", b"3"]
    )
    assert [bytes(one.memory()) for one in request.inputs.values()] == [b"1", b"2"]
    assert request.inputs["b"].shape == (2, 3)


PLAIN = service_pb2.ModelInferRequest(
    model_name="m",
    model_version="3",
    id="x",
    inputs=[{"name": "a", "datatype": "INT32", "shape": [1, 2]}, {"name": "b", "datatype": "BYTES", "shape": []}],
    outputs=[{"name": "o"}, {"name": "p"}],
    raw_input_contents=[bytes(8), b"z" * 300],
)


def same_request(one, other) -> None:
    for slot in ("model_name", "model_version", "id", "parameters", "priority", "timeout_us", "correlation_id"):
        assert getattr(one, slot) == getattr(other, slot), slot
    assert list(one.outputs) == list(other.outputs)
    assert list(one.inputs) == list(other.inputs)
    for name, tensor in one.inputs.items():
        twin = other.inputs[name]
        assert (tensor.name, tensor.datatype, tensor.shape) == (twin.name, twin.datatype, twin.shape)
        assert bytes(tensor.memory()) == bytes(twin.memory())


def check_both_ways(data: bytes) -> bool:
    """True when the short way answered; what it says must be what the long way says."""
    plain = kserve_grpc_plain.read_plain_request(data)
    if plain is None:
        return False
    message = codec.decode(ModelInferRequest, data)
    same_request(plain, kserve_grpc.read_request(message, parse_version(message.model_version)))
    return True


def test_where_contents_begin() -> None:
    """Of any beginning: the model, its version and the place, as soon as all three are to be seen; else nothing."""
    data = PLAIN.SerializeToString()
    at = data.index(b"\x3a\x08" + bytes(8)) + 2
    for stop in range(len(data)):
        found = kserve_grpc_plain.contents_begin(data[:stop])
        assert found == (("m", "3", at) if stop >= at else None)
        assert kserve_grpc_plain.contents_begin(memoryview(data)[:stop]) == found
    for other in (b"", b"\x0a", b"\x0a\x01\xff\x3a\x01", b"\x42\x01a\x3a\x01", b"\x0a" + b"\xff" * 20):
        assert kserve_grpc_plain.contents_begin(other) is None


def test_plain_request() -> None:
    """The common request takes the short way, first time and again."""
    data = PLAIN.SerializeToString()
    assert check_both_ways(data)
    assert check_both_ways(data)
    assert not check_both_ways(service_pb2.ModelInferRequest().SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"triton_a": {"int64_param": 1}}},
        {"model_version": "-1"},
        {"model_version": "1abc"},
        {"model_version": "9" * 30},
        {"inputs": [{"name": "c", "contents": {}}]},
        {"inputs": [{"name": "c", "parameters": {"a": {}}}]},
        {"inputs": [{"name": "c"}]},
        {"outputs": [{"name": "q", "parameters": {"classification": {"int64_param": 1}}}]},
        {"raw_input_contents": [b"extra"]},
    ],
)
def test_unusual_requests_take_the_long_way(change) -> None:
    """Whatever has rules of its own is left to the long way."""
    message = service_pb2.ModelInferRequest()
    message.CopyFrom(PLAIN)
    message.MergeFrom(service_pb2.ModelInferRequest(**change))
    assert kserve_grpc_plain.read_plain_request(message.SerializeToString()) is None


@given(st.data())
def test_damaged_requests_read_alike(data) -> None:
    """However a request is damaged, the short way either gives up or says what the long way says."""
    damaged = bytearray(PLAIN.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    check_both_ways(bytes(damaged[data.draw(st.integers(0, 20)) : data.draw(st.integers(0, len(damaged)))]))


@given(st.binary(max_size=40))
def test_garbage_reads_alike(data) -> None:
    """The same for random bytes."""
    check_both_ways(data)


def test_memos_are_bounded() -> None:
    """Ever new tensor descriptions do not grow the memos without end."""
    kserve_grpc_plain._forms.clear()
    for index in range(600):
        message = service_pb2.ModelInferRequest(model_name=f"m{index}", raw_input_contents=[b""])
        message.inputs.add(name=f"i{index}")
        message.outputs.add(name=f"o{index}")
        assert check_both_ways(message.SerializeToString())
        outputs = [Tensor.of(f"i{index}", np.zeros(1))]
        kserve_grpc.write_response(InferenceResponse(f"m{index}", "1", outputs))
    assert 0 < len(kserve_grpc_plain._forms) <= 512


def test_parameters_that_many_responses_share() -> None:
    """Goal: written once, and equal ones that are not the same are not taken for them."""
    fixed = FixedParameters({"s": 0, "b": False})
    for parameters, kinds in (
        (fixed, ("int64_param", "bool_param")),
        ({"s": False, "b": 0}, ("bool_param", "int64_param")),
    ):
        for _ in range(2):
            buffers, _ = kserve_grpc.write_response(InferenceResponse("m", "4", [], parameters=parameters))
            said = service_pb2.ModelInferResponse.FromString(b"".join(buffers)).parameters
            assert tuple(said[name].WhichOneof("parameter_choice") for name in ("s", "b")) == kinds


def test_response() -> None:
    """A response is always raw, one entry per output, with its parameters in their types."""
    outputs = [
        Tensor.of("a", np.arange(3, dtype=np.int16)),
        Tensor.of("b", np.array([b"x", b"yy"], dtype=object)),
        Tensor("c", "FP32", [0, 4], b""),
        Tensor("d", "UINT8", (np.int64(2),), memoryview(bytes(2))),
    ]
    parameters = {"i": -1, "u": 2**63, "b": True, "s": "t", "f": 0.25}
    for _ in range(2):
        response = InferenceResponse("m", "4", outputs, id="é", parameters=parameters)
        buffers, size = kserve_grpc.write_response(response)
        data = b"".join(buffers)
        assert len(data) == size
        message = service_pb2.ModelInferResponse.FromString(data)
        assert (message.model_name, message.model_version, message.id) == ("m", "4", "é")
        assert [list(one.shape) for one in message.outputs] == [[3], [2], [0, 4], [2]]
        assert list(message.raw_output_contents) == [
            np.arange(3, dtype=np.int16).tobytes(),
            b"\1\0\0\0x\2\0\0\0yy",
            b"",
            bytes(2),
        ]
        assert not any(one.HasField("contents") for one in message.outputs)
        assert message.parameters["i"].int64_param == -1
        assert message.parameters["u"].uint64_param == 2**63
        assert message.parameters["b"].bool_param is True
        assert message.parameters["s"].string_param == "t"
        assert message.parameters["f"].double_param == 0.25
