"""BYTES with very many elements, walked by who reads them: what is whole is walked once, all else refused as ever."""

import pytest
from despina.engine.request.admission import Admission
from despina.engine.request.job import Job
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest
from despina.schema.kserve_grpc_plain import read_plain_request, takes_long
from despina.schema.tensor import Tensor, encode_bytes
from despina.schema.texts import MANY_BYTES_MIN, CountedTensor, count_texts, counted
from despina.schema.wire.generated.inference import DataType, ModelConfig, ModelInput
from tritonclient.grpc import service_pb2

CONFIG = ModelConfig(name="m", input=[ModelInput(name="A", data_type=DataType.TYPE_STRING, dims=[-1])])
MANY = encode_bytes([b"x" * (index % 9) for index in range(20_000)])


def refusal(tensor):
    """Why the model does not take it, None if it does."""
    try:
        Admission(CONFIG).admit(Job(InferenceRequest("m", {tensor.name: tensor}), None))
    except InvalidArgument as fault:
        return fault.message
    return None


@pytest.mark.parametrize("damage", [lambda data: data, lambda data: data[:-1], lambda data: data + b"\0\0\0"])
@pytest.mark.parametrize("elements", [20_000, 19_999, 20_001])
def test_walked_or_not_the_verdict_is_the_same(damage, elements):
    tensor = Tensor("A", "BYTES", (elements,), damage(MANY))
    walked = counted(tensor)
    assert isinstance(walked, CountedTensor) == (damage(MANY) == MANY)
    assert refusal(walked) == refusal(tensor)
    assert (refusal(walked) is None) == (damage(MANY) == MANY and elements == 20_000)


def test_what_is_counted():
    assert count_texts(b"") == 0
    assert count_texts(MANY) == 20_000
    assert count_texts(memoryview(MANY)) == 20_000
    small = Tensor("A", "BYTES", (1,), encode_bytes([b"x"]))
    assert counted(small) is small
    numbers = Tensor("A", "INT8", (MANY_BYTES_MIN,), bytes(MANY_BYTES_MIN))
    assert counted(numbers) is numbers


def test_requests_over_grpc():
    """Goal: their door reads such requests in a thread, and tells the engine what it has found."""
    for more in ({"raw_input_contents": [MANY]}, {}):
        message = service_pb2.ModelInferRequest(model_name="m", **more)
        entry = message.inputs.add(name="A", datatype="BYTES", shape=[20_000])
        if not more:
            entry.contents.bytes_contents.extend(b"x" * (index % 9) for index in range(20_000))
        data = message.SerializeToString()
        assert takes_long(data)
        tensor = read_plain_request(memoryview(data)).inputs["A"]
        assert isinstance(tensor, CountedTensor)
        assert (tensor.elements, bytes(tensor.memory())) == (20_000, MANY)
