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
