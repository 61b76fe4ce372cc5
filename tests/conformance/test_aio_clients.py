"""Triton's asyncio clients against this project's server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

CLIENTS = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}


def inputs(module, value):
    """The inputs of `simple`."""
    made = []
    for name, row in (("INPUT0", np.arange(16, dtype=np.int32)), ("INPUT1", np.full(16, value, np.int32))):
        one = module.InferInput(name, [1, 16], "INT32")
        one.set_data_from_numpy(row.reshape(1, 16))
        made.append(one)
    return made


@pytest.mark.parametrize("door", list(CLIENTS))
def test_everyday_calls(server, door):
    """Goal: health, metadata, statistics, many infers at once, and an error, over one asyncio client."""
    module = CLIENTS[door]

    async def main():
        port = server.http_port if door == "http" else server.grpc_port
        async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("simple")
            metadata = await client.get_model_metadata("simple")
            assert (metadata["name"] if door == "http" else metadata.name) == "simple"
            await client.get_model_config("simple")
            await client.get_model_repository_index()
            await client.get_inference_statistics("simple")
            results = await asyncio.gather(*(client.infer("simple", inputs(module, number)) for number in range(40)))
            with pytest.raises(InferenceServerException, match="Request for unknown model: 'nope' is not found"):
                await client.infer("nope", inputs(module, 1))
        for number, result in enumerate(results):
            assert result.as_numpy("OUTPUT0").tolist() == [[value + number for value in range(16)]]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_stream(server):
    """Goal: the asyncio stream answers in order and ends after the last request."""
    module = tritonclient.grpc.aio

    async def requests():
        for number in range(5):
            yield {"model_name": "simple", "inputs": inputs(module, number), "request_id": str(number)}

    async def main():
        seen = []
        async with module.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None
                seen.append((result.get_response().id, int(result.as_numpy("OUTPUT0")[0, 0])))
        assert seen == [(str(number), number) for number in range(5)]

    asyncio.run(asyncio.wait_for(main(), 60))
