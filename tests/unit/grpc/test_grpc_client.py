"""The real clients against the door."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import trio
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

VALUES = np.arange(16, dtype=np.int32).reshape(1, 16)


def inputs(values: np.ndarray = VALUES) -> list[triton.InferInput]:
    made = []
    for name in ("INPUT0", "INPUT1"):
        made.append(triton.InferInput(name, list(values.shape), "INT32"))
        made[-1].set_data_from_numpy(values)
    return made


async def with_client(door, work, *arguments):
    """Runs `work(client, ...)` in a thread with a tritonclient."""

    def run():
        with triton.InferenceServerClient(door.url) as client:
            return work(client, *arguments)

    with trio.fail_after(20):
        return await trio.to_thread.run_sync(run)


async def test_management(door) -> None:
    """Every management RPC answers through the real client."""

    def work(client):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("addsub")
        assert client.is_model_ready("addsub", "1")
        assert client.get_server_metadata().version == "2.0"
        assert client.get_model_metadata("addsub").platform == "onnxruntime_onnx"
        assert client.get_model_config("addsub").config.max_batch_size == 8
        assert client.get_inference_statistics("addsub").model_stats[0].inference_count == 3
        assert len(client.get_model_repository_index().models) == 3
        client.load_model("addsub", config="{}", files={"file:1/model.onnx": b"xyz"})
        client.unload_model("addsub", unload_dependents=True)

    await with_client(door, work)
    assert door.engine.commands == [("load", "addsub", "{}", {"1/model.onnx": b"xyz"}), ("unload", "addsub", True)]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_infer(door, compression) -> None:
    """A request with raw tensors, compressed or not, is answered with the sums."""
    result = await with_client(door, lambda c: c.infer("addsub", inputs(), compression_algorithm=compression))
    assert (result.as_numpy("OUTPUT0") == 2 * VALUES).all()
    assert (result.as_numpy("OUTPUT1") == 0).all()


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_large_tensor(door, compression) -> None:
    """20 MB go in and out unharmed, also when they must be decompressed in a worker."""
    values = np.arange(5_000_000, dtype=np.float32).reshape(1, -1)

    def work(client):
        tensor = triton.InferInput("IN", list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        return client.infer("identity", [tensor], compression_algorithm=compression).as_numpy("OUT")

    assert (await with_client(door, work) == values).all()


async def test_typed_contents_and_parameters(door) -> None:
    """What the short way does not read takes the long way to the same answer."""

    def work():
        with grpc.insecure_channel(door.url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = service_pb2.ModelInferRequest(model_name="identity", id="7")
            request.inputs.add(name="IN", datatype="INT8", shape=[2]).contents.int_contents[:] = [-1, 300]
            request.parameters["mine"].double_param = 1.5
            return stub.ModelInfer(request)

    answer = await trio.to_thread.run_sync(work)
    assert answer.id == "7"
    assert answer.raw_output_contents[0] == b"\xff\x2c"
    assert answer.parameters["mine"].double_param == 1.5


@pytest.mark.parametrize(
    ("model", "version", "status", "text"),
    [
        ("nope", "", "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
        ("addsub", "7", "NOT_FOUND", "Request for unknown model: 'addsub' version 7 is not found"),
        ("addsub", "-4", "INVALID_ARGUMENT", "invalid model version specified '-4' , version should be an integral"),
        ("addsub", "abc", "INVALID_ARGUMENT", "failed to get model version from specified version string 'abc'"),
        ("broken", "", "INTERNAL", "broken on purpose"),
        ("streams", "", "UNIMPLEMENTED", "ModelInfer RPC doesn't support models with decoupled transaction policy"),
    ],
)
async def test_refusals(door, model, version, status, text) -> None:
    """A refused request gets its status and its words."""
    with pytest.raises(InferenceServerException) as caught:
        await with_client(door, lambda c: c.infer(model, inputs(), model_version=version))
    assert caught.value.status() == f"StatusCode.{status}"
    assert caught.value.message().startswith(text)


async def test_exiting(door) -> None:
    """While exiting, health says so by status."""
    door.engine.is_stopping = True
    with pytest.raises(InferenceServerException, match="Server exiting"):
        await with_client(door, lambda c: c.is_server_ready())


def channel_call(door, path: str, data: bytes) -> bytes:
    with grpc.insecure_channel(door.url) as channel:
        return channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)(data, timeout=10)


@pytest.mark.parametrize(
    ("path", "data", "status", "text"),
    [
        ("/inference.GRPCInferenceService/Nope", b"", "UNIMPLEMENTED", ""),
        ("/grpc.health.v1.Health/Watch", b"", "UNIMPLEMENTED", ""),
        ("/inference.GRPCInferenceService/ModelInfer", b"\xff\xff", "INTERNAL", "Unable to parse request"),
        ("/inference.GRPCInferenceService/ServerLive", b"\xff\xff", "INTERNAL", "Unable to parse request"),
    ],
)
async def test_unknown_and_undecodable(door, path, data, status, text) -> None:
    """Unknown methods and bytes that are no message are told apart."""
    with pytest.raises(grpc.RpcError) as caught:
        await trio.to_thread.run_sync(channel_call, door, path, data)
    assert caught.value.code().name == status
    assert caught.value.details() == text


async def test_health_check(door) -> None:
    """grpc.health.v1 answers SERVING or NOT_SERVING whatever service is named."""
    path = "/grpc.health.v1.Health/Check"
    assert await trio.to_thread.run_sync(channel_call, door, path, b"\x0a\x01x") == b"\x08\x01"
    door.engine.ready = False
    assert await trio.to_thread.run_sync(channel_call, door, path, b"") == b"\x08\x02"


async def test_deadline(door) -> None:
    """A deadline that passes while the model holds the request answers DEADLINE_EXCEEDED."""
    with pytest.raises(InferenceServerException, match="Deadline") as caught:
        await with_client(door, lambda c: c.infer("held", inputs(), client_timeout=0.1))
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def stream_infer(door, requests, metadata=()):
    """Sends all requests on one stream; what came back, and the status."""
    answers = []
    with grpc.insecure_channel(door.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter(requests), metadata=metadata, timeout=10)
        try:
            answers.extend(call)
        except grpc.RpcError as error:
            return answers, error.code().name, error.details()
        return answers, "OK", ""


def stream_request(model: str, id: str, **parameters) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model, id=id, raw_input_contents=[bytes(4)])
    request.inputs.add(name="IN", datatype="INT32", shape=[1])
    for key, value in parameters.items():
        request.parameters[key].bool_param = value
    return request


async def test_stream(door) -> None:
    """Answers come in request order, marked as final; failures are messages and do not end the stream."""
    requests = [
        stream_request("identity", "a"),
        stream_request("nope", "b"),
        stream_request("broken", "c"),
        stream_request("identity", "e", refuse=True),
        stream_request("identity", "f"),
    ]
    answers, status, _ = await trio.to_thread.run_sync(stream_infer, door, requests)
    assert status == "OK"
    assert [answer.infer_response.id for answer in answers] == list("abcef")
    final = [answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers]
    assert final == [True, False, True, False, True]
    assert answers[0].infer_response.raw_output_contents[0] == bytes(4)
    assert answers[1].error_message == "Request for unknown model: 'nope' is not found"
    assert not answers[1].infer_response.model_name
    assert answers[2].error_message == "broken on purpose"
    assert answers[2].infer_response.model_name == "broken"


async def test_stream_order_across_models(door) -> None:
    """A slow request holds back the answers behind it."""
    requests = [stream_request("held", "slow"), stream_request("identity", "quick")]
    got = []

    async def ask() -> None:
        got.append(await trio.to_thread.run_sync(stream_infer, door, requests))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await door.engine.models["held"].submitted.wait()
            await door.engine.models["identity"].submitted.wait()
            door.engine.models["held"].release()
    answers, status, _ = got[0]
    assert status == "OK"
    assert [answer.infer_response.id for answer in answers] == ["slow", "quick"]


async def test_stream_error_mode(door) -> None:
    """With `triton_grpc_error`, a failed execution ends the stream with its status; a refusal does not."""
    requests = [stream_request("nope", "a"), stream_request("broken", "b"), stream_request("identity", "c")]
    metadata = (("triton_grpc_error", "true"),)
    answers, status, text = await trio.to_thread.run_sync(stream_infer, door, requests, metadata)
    assert [answer.infer_response.id for answer in answers] == ["a"]
    assert (status, text) == ("INTERNAL", "broken on purpose")


async def test_empty_stream(door) -> None:
    """No requests, no answers, status OK."""
    assert await trio.to_thread.run_sync(stream_infer, door, []) == ([], "OK", "")


async def test_message_limit(open_door) -> None:
    """A message beyond the limit is refused by status, before and after decompression; the next one is served."""
    door = await open_door(receive_bytes_max=100_000)
    values = np.zeros((1, 200_000), np.int32)
    for compression in (None, "gzip"):
        with pytest.raises(InferenceServerException, match="larger than max") as caught:
            await with_client(
                door, lambda c, how=compression: c.infer("addsub", inputs(values), compression_algorithm=how)
            )
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    await with_client(door, lambda c: c.infer("addsub", inputs()))


async def test_response_limit(open_door) -> None:
    """A response beyond the limit is an error text, not a broken stream."""
    door = await open_door(send_bytes_max=50)
    with pytest.raises(InferenceServerException, match="exceeds gRPC's byte size limit 50"):
        await with_client(door, lambda c: c.infer("addsub", inputs()))


async def test_many_at_once_on_one_connection(door) -> None:
    """Concurrent requests on one connection each get their own answer."""

    def work(client):
        calls = []
        import queue

        done = queue.Queue()
        for index in range(64):
            client.async_infer(
                "addsub", inputs(VALUES + index), lambda result, error: done.put((result, error)), request_id=str(index)
            )
        for _ in range(64):
            result, error = done.get(timeout=10)
            assert error is None
            calls.append(int(result.get_response().id))
            assert (result.as_numpy("OUTPUT0") == 2 * (VALUES + calls[-1])).all()
        return calls

    assert sorted(await with_client(door, work)) == list(range(64))
