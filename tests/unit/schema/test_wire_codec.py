"""The fast codec against google.protobuf: what one accepts the other accepts, and both read the same message."""

from __future__ import annotations

import pytest
from despina.schema.wire import codec
from despina.schema.wire.generated import inference
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

PAIRS = [
    (inference.ModelInferRequest, service_pb2.ModelInferRequest),
    (inference.ModelInferResponse, service_pb2.ModelInferResponse),
    (inference.InferTensorContents, service_pb2.InferTensorContents),
    (inference.InferParameter, service_pb2.InferParameter),
    (inference.ModelConfig, model_config_pb2.ModelConfig),
    (inference.ModelVersionPolicy, model_config_pb2.ModelVersionPolicy),
    (inference.ModelStatistics, service_pb2.ModelStatistics),
    (inference.ModelInput, model_config_pb2.ModelInput),
    (inference.ServerLiveResponse, service_pb2.ServerLiveResponse),
    (inference.RepositoryModelLoadRequest, service_pb2.RepositoryModelLoadRequest),
]
pairs = st.sampled_from(PAIRS)


def same(ours, theirs, data: bytes) -> None:
    """Both refuse `data`, or what we read and write again reads as what they read."""
    try:
        expected = theirs.FromString(data)
    except DecodeError:
        with pytest.raises(codec.Malformed):
            codec.decode(ours, data)
        return
    message = codec.decode(ours, data)
    buffers, size = codec.encode(message)
    encoded = b"".join(buffers)
    assert len(encoded) == size
    again = theirs.FromString(encoded)
    assert again.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def sized(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


varints = st.one_of(
    st.integers(0, 300).map(varint),
    st.integers(0, 2**64 - 1).map(varint),
    st.integers(0, 2**70 - 1).map(varint),
    st.integers(0, 9).map(lambda n: b"\x81" + b"\x80" * n + b"\x00"),
)


def group(number: int, body: list[bytes]) -> bytes:
    return field_of(number, 3, b"".join(body)) + field_of(number, 4, b"")


def field_of(number: int, wire_type: int, value: bytes) -> bytes:
    return varint(number << 3 | wire_type) + value


numbers = st.one_of(st.integers(1, 12), st.integers(0, 2**29))
words = st.one_of(st.binary(max_size=12), st.text(max_size=8).map(str.encode), varints)
scalar_field = st.one_of(
    st.builds(field_of, numbers, st.just(0), varints),
    st.builds(field_of, numbers, st.just(1), st.binary(min_size=8, max_size=8)),
    st.builds(field_of, numbers, st.just(5), st.binary(min_size=4, max_size=4)),
    st.builds(sized, numbers, words),
)
soup = st.recursive(
    scalar_field,
    lambda inner: st.one_of(
        st.builds(sized, numbers, st.lists(inner, max_size=4).map(b"".join)),
        st.builds(
            lambda n, body: field_of(n, 3, b"".join(body)) + field_of(n, 4, b""), numbers, st.lists(inner, max_size=2)
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(pairs, st.lists(soup, max_size=8).map(b"".join))
def test_any_wellformed_fields(pair, data: bytes) -> None:
    """Fields of any number and type, nested and in groups: kept, merged or refused as the reference does."""
    same(*pair, data)


@settings(max_examples=300, deadline=None)
@given(pairs, st.binary(max_size=60))
def test_garbage(pair, data: bytes) -> None:
    """Random bytes are accepted and refused alike."""
    same(*pair, data)


SAMPLE = service_pb2.ModelInferRequest(
    model_name="m",
    id="é",
    inputs=[
        {
            "name": "a",
            "datatype": "INT32",
            "shape": [1, 16, -1],
            "contents": {"int_contents": [1, -1], "bool_contents": [True]},
        },
        {"name": "b", "shape": [2**40], "parameters": {"p": {"double_param": -0.0}, "q": {"bool_param": False}}},
    ],
    outputs=[{"name": "o", "parameters": {"classification": {"int64_param": -3}}}],
    raw_input_contents=[b"x" * 200, b""],
    parameters={"k": {"uint64_param": 2**64 - 1}},
).SerializeToString()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_request(data) -> None:
    """A real request cut, spliced and with bytes overwritten."""
    damaged = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    same(inference.ModelInferRequest, service_pb2.ModelInferRequest, bytes(damaged[:cut]))
    same(inference.ModelInferRequest, service_pb2.ModelInferRequest, bytes(damaged[:cut]) + SAMPLE)


@pytest.mark.parametrize("nesting", [98, 99, 100, 101, 100_000])
def test_group_depth(nesting: int) -> None:
    """Groups count together with messages against the depth limit, and deep ones cost no stack."""
    groups = b"\x4b" * nesting + b"\x4c" * nesting
    for data in (groups, sized(5, groups), sized(4, groups), sized(4, sized(2, groups))):
        same(inference.ModelInferRequest, service_pb2.ModelInferRequest, data)


def test_split_submessage_merges() -> None:
    """A singular submessage in two pieces is one message; another member of the oneof replaces it."""
    cls = inference.ModelVersionPolicy
    specific = sized(3, sized(1, b"\x01")) + sized(3, b"\x08\x02")
    assert list(codec.decode(cls, specific).specific.versions) == [1, 2]
    latest_then_specific = sized(1, b"\x08\x05") + specific
    assert codec.decode(cls, latest_then_specific).latest is None
    same(cls, model_config_pb2.ModelVersionPolicy, latest_then_specific)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_bytes_are_views(make) -> None:
    """Tensor bytes are views of what was received, whichever buffer that is; text does not keep it alive."""
    data = make(SAMPLE)
    message = codec.decode(inference.ModelInferRequest, data)
    assert isinstance(message.raw_input_contents[0], memoryview)
    assert message.raw_input_contents[0].obj is (data.obj if isinstance(data, memoryview) else data)
    assert message.id == "é"


def test_large_bytes_pass_through() -> None:
    """The encoder hands large payloads on uncopied."""
    payload = memoryview(bytes(100_000))
    message = inference.ModelInferResponse(model_name="m", raw_output_contents=[payload])
    buffers, size = codec.encode(message)
    assert any(buffer is payload for buffer in buffers)
    assert size == sum(map(len, buffers))


@pytest.mark.parametrize("cut", range(1, len(SAMPLE), 7))
def test_truncated(cut: int) -> None:
    """Every cut of a request is refused, or is what the reference reads."""
    same(inference.ModelInferRequest, service_pb2.ModelInferRequest, SAMPLE[:cut])


def test_scalars_of_every_kind() -> None:
    """Negative, huge and special numbers survive both ways."""
    message = service_pb2.InferTensorContents(
        bool_contents=[True, False],
        int_contents=[-(2**31), 2**31 - 1, 0],
        int64_contents=[-(2**63), 2**63 - 1],
        uint_contents=[2**32 - 1],
        uint64_contents=[2**64 - 1],
        fp32_contents=[float("inf"), -0.0, 1.5],
        fp64_contents=[float("nan"), -1e308],
        bytes_contents=[b"", b"\xff"],
    )
    same(inference.InferTensorContents, service_pb2.InferTensorContents, message.SerializeToString())
    ours = codec.decode(inference.InferTensorContents, message.SerializeToString())
    assert ours.int_contents == [-(2**31), 2**31 - 1, 0]
    assert ours.uint64_contents == [2**64 - 1]
