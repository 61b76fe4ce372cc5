"""Requests that name shared memory: both doors' forms find the same ranges, also where a head is remembered."""

import json

import attrs
import numpy as np
import pytest
from despina.schema import infer_head, kserve_grpc, kserve_grpc_plain
from despina.schema.fault import InvalidArgument, NotFound
from despina.schema.inference import InferenceResponse
from despina.schema.kserve_http import decode_infer
from despina.schema.kserve_http_reply import encode_infer
from despina.schema.shared_memory import SharedMemoryRange, SharedTensor
from despina.schema.tensor import Tensor
from despina.schema.wire import codec
from despina.schema.wire.generated.inference import ModelInferRequest
from tritonclient.grpc import service_pb2


@attrs.define
class Memory:
    """An extent of one region's bytes."""

    data: bytearray
    start: int
    byte_size: int

    def read(self):
        return memoryview(bytes(self.data[self.start : self.start + self.byte_size]))

    def write(self, data):
        self.data[self.start : self.start + len(data)] = data


class Regions:
    """`r` is there; every look-up is noted."""

    def __init__(self):
        self.data = bytearray(range(64))
        self.found = []

    def find(self, place, is_input):
        if place.region != "r":
            raise NotFound(f"no {place.region}")
        self.found.append((place, is_input))
        return Memory(self.data, place.offset, place.byte_size)


@pytest.fixture
def regions():
    return Regions()


def place(region="r", offset=8, size=8):
    return {"shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size}


def http_body(inputs=("r", "r"), output="r", tail=b""):
    """A in the tail, B and C in shared memory, Y to shared memory, Z as JSON."""
    names = [{"name": "A", "datatype": "UINT8", "shape": [4], "parameters": {"binary_data_size": 4}}]
    names += [
        {"name": name, "datatype": "FP32", "shape": [2], "parameters": place(region, offset)}
        for name, region, offset in zip("BC", inputs, (8, 16), strict=True)
    ]
    outputs = [{"name": "Y", "parameters": {**place(output, 32), "binary_data": False}}, {"name": "Z"}]
    head = json.dumps({"inputs": names, "outputs": outputs}).encode()
    return head + tail, len(head)


def decode(regions, tail=b"abcd", **changes):
    body, length = http_body(tail=tail, **changes)
    return decode_infer(body, length, "m", -1, regions=regions)


def test_an_http_head_names_ranges(regions):
    """Inputs lie where the head says, the first time and when the head is remembered; binary ones take the tail."""
    for _ in range(3):
        regions.found.clear()
        request, reply = decode(regions)
        assert regions.found == [
            (SharedMemoryRange("r", 8, 8), True),
            (SharedMemoryRange("r", 16, 8), True),
            (SharedMemoryRange("r", 32, 8), False),
        ]
        assert list(request.inputs) == ["A", "B", "C"]
        assert bytes(request.inputs["A"].memory()) == b"abcd"
        assert bytes(request.inputs["B"].memory()) == bytes(range(8, 16))
        assert request.inputs["C"].numpy().tobytes() == bytes(range(16, 24))
        assert request.shared.inputs == [request.inputs["B"], request.inputs["C"]]
        assert list(request.shared.outputs) == list(reply.shared) == ["Y"]


def test_a_remembered_head_is_looked_up_each_time(regions):
    """A region that has gone since is missed; so are bytes of the tail, in the order of the inputs."""
    decode(regions)
    for _ in range(2):
        with pytest.raises(NotFound):
            decode(None)
        with pytest.raises(InvalidArgument, match="expecting 1 additional bytes"):
            decode(regions, tail=b"abc")
        with pytest.raises(InvalidArgument, match="unexpected additional input data"):
            decode(regions, tail=b"abcde")
        with pytest.raises(NotFound, match="no y"):
            decode(regions, output="y")
        with pytest.raises(NotFound, match="no x"):
            decode(regions, inputs=("r", "x"), output="y")


def test_http_leaves_placed_outputs_bare(regions):
    """An output in shared memory has name, datatype and shape; its neighbours have their data."""
    _, reply = decode(regions)
    outputs = [Tensor("Y", "FP32", (2,), b""), Tensor("Z", "INT32", (1,), np.array([7], np.int32).tobytes())]
    for _ in range(2):
        head, buffers, has_bytes = encode_infer(InferenceResponse("m", "1", outputs), reply)
        assert json.loads(head)["outputs"] == [
            {"name": "Y", "datatype": "FP32", "shape": [2]},
            {"name": "Z", "datatype": "INT32", "shape": [1], "data": [7]},
        ]
        assert (buffers, has_bytes) == ([], False)


def grpc_parameters(region="r", offset=8, size=8):
    return {
        "shared_memory_region": {"string_param": region},
        "shared_memory_offset": {"int64_param": offset},
        "shared_memory_byte_size": {"int64_param": size},
    }


def read_grpc(regions, inputs, outputs=(), raw=()):
    message = service_pb2.ModelInferRequest(
        model_name="m",
        inputs=[{"name": name, "datatype": "FP32", "shape": [2], "parameters": more} for name, more in inputs],
        outputs=[{"name": name, "parameters": more} for name, more in outputs],
        raw_input_contents=raw,
    )
    data = message.SerializeToString()
    assert kserve_grpc_plain.read_plain_request(data) is None, "the short way gives up"
    return kserve_grpc.read_request(codec.decode(ModelInferRequest, data), regions=regions)


def test_a_grpc_request_names_ranges(regions):
    """Shared inputs take no raw entry."""
    request = read_grpc(
        regions,
        [("A", grpc_parameters()), ("B", {})],
        [("Y", grpc_parameters(offset=0)), ("Z", {})],
        [b"12345678", b"left over"],
    )
    assert bytes(request.inputs["A"].memory()) == bytes(range(8, 16))
    assert bytes(request.inputs["B"].memory()) == b"12345678"
    assert request.shared.outputs["Y"].start == 0
    assert list(request.outputs) == ["Y", "Z"]


def test_negative_numbers_are_huge(regions):
    """The protocol's numbers are unsigned: what is negative lies beyond every region, never before it."""
    read_grpc(regions, [("A", grpc_parameters(offset=-1, size=-2))])
    assert regions.found == [(SharedMemoryRange("r", 2**64 - 1, 2**64 - 2), True)]


def test_a_repeated_input(regions):
    """An input that was there already is refused, wherever it lies."""
    with pytest.raises(InvalidArgument, match="input 'A' already exists in request"):
        read_grpc(regions, [("A", grpc_parameters()), ("A", grpc_parameters())])


def test_a_repeated_output(regions):
    """Two places for one output: refused, and every region is let go."""
    with pytest.raises(InvalidArgument, match="output 'Y' already exists in request"):
        read_grpc(regions, [], [("Y", grpc_parameters(offset=0)), ("Y", grpc_parameters(offset=16))])


def test_an_input_is_read_once(regions):
    """What is written to the region after the first look changes nothing, and the region is let go."""
    tensor = SharedTensor("A", "UINT8", (4,), Memory(regions.data, 0, 4))
    assert tensor.wire is None
    assert tensor.byte_size == 4
    assert tensor.numpy().tolist() == [0, 1, 2, 3]
    regions.data[0] = 9
    assert tensor.extent is None
    assert bytes(tensor.memory()) == bytes([0, 1, 2, 3])


def test_release(regions):
    """A request lets go of everything, twice if need be; what was read stays."""
    request, _ = decode(regions)
    read = request.inputs["B"]
    read.memory()
    request.shared.release()
    request.shared.release()
    assert [tensor.extent for tensor in request.shared.inputs] == [None, None]
    assert request.shared.outputs == {}
    assert len(read.memory()) == 8


def test_requests_without_shared_memory_have_none(regions):
    """Nothing is carried along where nothing is shared."""
    head = b'{"inputs":[{"name":"A","datatype":"UINT8","shape":[1],"data":[1]}]}'
    request, reply = decode_infer(head, None, "m", -1, regions=regions)
    assert request.shared is None
    assert not reply.shared
    assert isinstance(reply, infer_head.ReplyFormat)
