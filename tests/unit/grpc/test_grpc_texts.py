"""Text that UTF-8 cannot have, wherever it leaves through this door: replaced, never a call without end."""

from __future__ import annotations

import pytest
from despina.schema.fault import ModelFailure
from despina.schema.inference import InferenceResponse
from despina.schema.tensor import Tensor
from despina.schema.wire import codec
from despina.schema.wire.generated import inference as pb
from grpclib.metadata import decode_grpc_message
from tritonclient.grpc import service_pb2

from tests.unit.grpc.test_grpc_extensions import request

SERVICE = "/inference.GRPCInferenceService/"
BAD, GOOD = "a\udc80b", "a\ufffdb"
"""A lone surrogate, such as a file name that is no text gives."""


class Said(ModelFailure):
    """Whatever becomes of faults elsewhere, this one says what it was told."""

    def __init__(self, message):
        super().__init__()
        self.message = message


@pytest.fixture
def answering(door, monkeypatch):
    """`answering(response or fault)`: what the model `identity` gives from now on."""

    def set_answer(answer):
        def compute(job):
            job.fault, job.response = (answer, None) if isinstance(answer, Exception) else (None, answer)

        monkeypatch.setattr(door.engine.models["identity"], "_compute", compute)

    return set_answer


async def asked(door, rpc, message):
    """The answer's bytes, the status and its text."""
    client = await door.connect()
    await client.send(client.call(1, SERVICE + rpc, message))
    data, trailers = await client.answer(1)
    return data[5:], trailers["grpc-status"], decode_grpc_message(trailers.get("grpc-message", ""))


def strange_response():
    return InferenceResponse(
        BAD,
        BAD,
        [Tensor(BAD, "INT32", (1,), b"1234")],
        id=BAD,
        parameters={BAD: BAD},
    )


def assert_replaced(answer):
    assert (answer.model_name, answer.model_version, answer.id) == (GOOD, GOOD, GOOD)
    assert answer.outputs[0].name == GOOD
    assert answer.parameters[GOOD].string_param == GOOD


@pytest.mark.parametrize(("text", "said"), [(BAD, GOOD), ("\ud83d\ude00", "\U0001f600"), ("\ud83d" * 9000, None)])
async def test_status_texts(door, answering, text, said):
    """Goal: an error ends its call with a text, long or short."""
    answering(Said(text))
    _, status, found = await asked(door, "ModelInfer", request().SerializeToString())
    assert status == "13"
    assert found == said or (said is None and set(found) == {"\ufffd"})


async def test_responses(door, answering):
    """Goal: names, ids and parameters of an answer, by unary call and on the stream."""
    answering(strange_response())
    for _ in range(2):  # the second one is written from what is remembered
        data, status, _ = await asked(door, "ModelInfer", request().SerializeToString())
        assert status == "0"
        assert_replaced(service_pb2.ModelInferResponse.FromString(data))
    data, status, _ = await asked(door, "ModelStreamInfer", request().SerializeToString())
    assert status == "0"
    assert_replaced(service_pb2.ModelStreamInferResponse.FromString(data).infer_response)


async def test_errors_on_a_stream(door, answering):
    """Goal: `error_message`; the stream goes on to its good end."""
    answering(Said(BAD))
    data, status, _ = await asked(door, "ModelStreamInfer", request(id="1").SerializeToString())
    assert status == "0"
    assert service_pb2.ModelStreamInferResponse.FromString(data).error_message == GOOD


async def test_management_answers(door, monkeypatch):
    """Goal: texts in any message, lists and maps among them."""
    monkeypatch.setattr(door.engine, "metadata", lambda: pb.ServerMetadataResponse(name=BAD, extensions=["x", BAD]))
    data, status, _ = await asked(door, "ServerMetadata", b"")
    answer = service_pb2.ServerMetadataResponse.FromString(data)
    assert (status, answer.name, list(answer.extensions)) == ("0", GOOD, ["x", GOOD])
    door.engine.models["identity"].config.cc_model_filenames = {BAD: BAD}
    data, status, _ = await asked(
        door, "ModelConfig", service_pb2.ModelConfigRequest(name="identity").SerializeToString()
    )
    config = service_pb2.ModelConfigResponse.FromString(data).config
    assert (status, dict(config.cc_model_filenames)) == ("0", {GOOD: GOOD})


def test_messages_as_such():
    """Goal: what the codec writes, everybody reads."""
    message = pb.ModelInferResponse(model_name="\ud83d\ude00\ud83d")
    read = service_pb2.ModelInferResponse.FromString(codec.encode_to_bytes(message))
    assert read.model_name == "\U0001f600\ufffd"
