"""The shortest way through a request against the long one."""

from __future__ import annotations

import numpy as np
import pytest
from despina.schema.fault import Fault
from despina.schema.inference import LATEST
from despina.schema.kserve_grpc import read_plain_request, read_request
from despina.schema.kserve_grpc_familiar import read_familiar
from despina.schema.wire import codec
from despina.schema.wire.generated.inference import ModelInferRequest
from tritonclient.grpc import service_pb2


@pytest.mark.parametrize("seed", range(8))
def test_familiar_requests_read_as_the_long_way_does(seed):
    """A request like an earlier one is read by its raw contents alone; any other byte changed leads the long way."""
    random = np.random.default_rng(seed)
    tensors = [("A", random.bytes(64)), ("B", random.bytes(200))]

    def encoded(contents):
        message = service_pb2.ModelInferRequest(
            model_name="m",
            inputs=[{"name": name, "datatype": "UINT8", "shape": [len(data)]} for name, data in tensors],
            raw_input_contents=contents,
        )
        return message.SerializeToString()

    first = encoded([data for _, data in tensors])
    assert read_plain_request(first) is not None
    again = encoded([random.bytes(64), random.bytes(200)])
    familiar = read_familiar(again)
    assert familiar is not None
    assert familiar.template is not None
    for _ in range(200):
        data = bytearray(again)
        data[int(random.integers(len(data)))] ^= int(random.integers(1, 256))
        short = read_familiar(bytes(data))
        try:
            long = read_request(codec.decode(ModelInferRequest, bytes(data)), LATEST)
        except (codec.Malformed, Fault):
            assert short is None
            continue
        if short is not None:
            assert (short.model_name, short.id, list(short.outputs)) == (long.model_name, long.id, list(long.outputs))
            assert [(t.name, t.datatype, tuple(t.shape), bytes(t.memory())) for t in short.inputs.values()] == [
                (t.name, t.datatype, tuple(t.shape), bytes(t.memory())) for t in long.inputs.values()
            ]


def said(request):
    """All that a request says, in order."""
    tensors = [(t.name, t.datatype, tuple(t.shape), bytes(t.memory())) for t in request.inputs.values()]
    numbers = (request.correlation_id, request.sequence_start, request.sequence_end, request.priority)
    names = (request.model_name, request.model_version, request.id, list(request.outputs))
    return tensors, numbers, names, request.timeout_us, request.parameters


PARAMETERS = (
    ("sequence_id", "int64_param", 7),
    ("sequence_id", "int64_param", -1),
    ("sequence_id", "string_param", "a text"),
    ("sequence_id", "bool_param", True),
    ("sequence_start", "bool_param", False),
    ("sequence_start", "bool_param", True),
    ("sequence_end", "bool_param", True),
    ("sequence_end", "int64_param", 1),
    ("priority", "uint64_param", 3),
    ("priority", "int64_param", -3),
    ("timeout", "int64_param", 1000),
    ("mine", "string_param", "x" * 70),
    ("mine", "double_param", 0.5),
    ("triton_x", "bool_param", True),
    ("triton_enable_empty_final_response", "bool_param", True),
)


@pytest.mark.parametrize("seed", range(20))
def test_requests_with_parameters(seed):
    """Goal: sequences' requests, too, read as the long way does, the first time and when they are known; neither their
    tensors nor their ids get mixed up. Method: two callers who take turns, with random parameters."""
    random = np.random.default_rng(seed)
    for _ in range(30):
        callers = []
        for _ in range(2):
            message = service_pb2.ModelInferRequest(
                model_name="a model of sequences",
                inputs=[{"name": "I" * 80, "datatype": "UINT8", "shape": [8]}],
                outputs=[{"name": "O"}],
            )
            for index in random.integers(len(PARAMETERS), size=random.integers(1, 4)):
                key, field, value = PARAMETERS[index]
                message.parameters[key].ClearField("parameter_choice")
                setattr(message.parameters[key], field, value)
            callers.append(message)
        for turn in range(3):
            for message in callers:
                message.raw_input_contents[:] = [random.bytes(8)]
                data = message.SerializeToString(deterministic=True)
                short = read_plain_request(data)
                try:
                    long = read_request(codec.decode(ModelInferRequest, data), LATEST)
                except Fault:
                    assert short is None
                    continue
                if "triton_enable_empty_final_response" in message.parameters:
                    assert short is None
                    continue
                assert short is not None
                assert said(short) == said(long)
                assert turn == 0 or read_familiar(data) is not None
                short.parameters = {"changed": True}  # a request's own, never the next one's
