"""Doors over an engine that loads models on request: who asks waits, and is answered as ever."""

from __future__ import annotations

import json
import queue
import socket
import threading
from functools import partial

import despina
import grpc
import numpy as np
import pytest
import trio
import tritonclient.grpc as triton
from despina.frontends.grpc import GrpcSettings, serve_grpc
from despina.frontends.http import HttpSettings, serve_http
from despina.schema.fault import InvalidArgument
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.fakes import FakeBackend, write_model

LARGE_ROWS = 200_000
"""Of one integer each, in JSON: enough to be read in a thread."""


class Place:
    """The engine and its doors."""

    def __init__(self, engine, backend, http_port, grpc_port):
        self.engine = engine
        self.backend = backend
        self.http_port = http_port
        self.grpc_port = grpc_port

    def hold(self, name):
        """Opening that model waits for what is returned to be set."""
        gate = self.backend.open_gates[name] = threading.Event()
        return gate

    async def http(self, path, document=None):
        """Status and JSON."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.http_port)
        async with stream:
            await stream.send_all(posting(path, document))
            return await replied(stream)

    async def until(self, condition):
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110 (the conditions are other code's state, without an event)
                await trio.sleep(0.002)

    def waits(self, name):
        load = self.engine._repository.on_request._loads.get(name)
        return 0 if load is None else sum(waiting.on_done is not None for *_, waiting in load.waiting)


def posting(path, document):
    if document is None:
        return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
    body = json.dumps(document).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


async def replied(stream, received=b""):
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    head, _, body = received.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        while not body.endswith(b"\r\n0\r\n\r\n"):
            body += await stream.receive_some()
        return int(head.split()[1]), json.loads(body.split(b"\r\n")[1])
    size = next(int(line.split()[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(body) < size:
        body += await stream.receive_some()
    return int(head.split()[1]), json.loads(body[:size] or b"null")


def document(value, rows=1):
    return {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [rows, 1], "data": [value] * rows}]}


@pytest.fixture
async def place(tmp_path, nursery):
    for name in ("a", "b", "broken"):
        write_model(tmp_path, name, max_batch_size=1_000_000)
    backend = FakeBackend()
    backend.open_errors["broken", 1] = InvalidArgument("it is broken")
    options = {"model_control_mode": "explicit", "load_on_request": True, "exit_timeout_secs": 5}
    async with (
        despina.open_engine(tmp_path, backends={"fake": backend}, **options) as engine,
        trio.open_nursery() as inner,
    ):
        ports = []
        for serve, settings in ((serve_http, HttpSettings()), (serve_grpc, GrpcSettings())):
            listener = socket.create_server(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
            await inner.start(partial(serve, engine, settings, sockets=[listener]))
        with trio.fail_after(60):
            yield Place(engine, backend, *ports)
        for gate in backend.open_gates.values():
            gate.set()
        inner.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("infer", document(7)),
        ("infer", document(7, LARGE_ROWS)),
        ("generate", {"IN": [7]}),
        ("config", None),
        ("", None),
    ],
)
async def test_http(place, path, asked):
    """Goal: each way to ask for a model loads it; the answer is that of a loaded one."""
    url = f"/v2/models/a/{path}".rstrip("/")
    first = await place.http(url, asked)
    assert first[0] == 200
    assert place.backend.opened == [("a", 1)]
    assert first == await place.http(url, asked)


async def test_http_not_ready_until_then(place):
    """Goal: asking whether a model is ready is no request for it, and is answered truly."""
    assert (await place.http("/v2/models/a/stats"))[0] == 400
    assert not place.engine.is_model_ready("a")
    assert place.backend.opened == []
    assert (await place.http("/v2/models/nobody/infer", document(1)))[0] == 404


async def test_http_client_leaves(place):
    """Goal: who leaves while the model loads waits no more; the load goes on, and the others are answered."""
    gate = place.hold("a")
    answers = []

    async def stays():
        answers.append(await place.http("/v2/models/a/infer", document(3)))

    async with trio.open_nursery() as nursery:
        leaver = await trio.open_tcp_stream("127.0.0.1", place.http_port)
        await leaver.send_all(posting("/v2/models/a/infer", document(1)))
        nursery.start_soon(stays)
        await place.until(lambda: place.waits("a") == 2)
        await leaver.aclose()
        await place.until(lambda: place.waits("a") == 1)
        gate.set()
    assert [status for status, _ in answers] == [200]
    assert [len(one.ids) for one in place.backend.executed] == [1]


async def test_http_in_order(place):
    """Goal: what a client has sent ahead on its connection is answered in order, also if the first has to wait."""
    await place.engine.load("b")
    gate = place.hold("a")
    stream = await trio.open_tcp_stream("127.0.0.1", place.http_port)
    async with stream:
        await stream.send_all(posting("/v2/models/a/infer", document(1)) + posting("/v2/models/b/infer", document(2)))
        await place.until(lambda: place.waits("a"))
        gate.set()
        received = b""
        while received.count(b'"model_name"') < 2:
            received += await stream.receive_some()
    assert received.index(b'"model_name":"a"') < received.index(b'"model_name":"b"')


async def test_http_load_fails(place):
    """Goal: the client hears why, soon, however often it asks; the connection goes on."""
    for _ in range(2):
        status, answer = await place.http("/v2/models/broken/infer", document(1))
        assert status == 400
        assert answer["error"].startswith("load failed for model 'broken': version 1 is at UNAVAILABLE state")
    assert len(place.backend.contexts) == 1


def grpc_request(model, value, id=""):
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="IN", datatype="INT32", shape=[1, 1])
    asked = service_pb2.ModelInferRequest(model_name=model, id=id, inputs=[tensor])
    asked.raw_input_contents.append(np.int32(value).tobytes())
    return asked


@pytest.fixture
def stub(place):
    with grpc.insecure_channel(f"127.0.0.1:{place.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def test_grpc(place, stub):
    """Goal: a unary call loads its model; so do those for metadata and configuration."""
    answer = await trio.to_thread.run_sync(stub.ModelInfer, grpc_request("a", 7))
    assert np.frombuffer(answer.raw_output_contents[0], np.int32) == 7
    client = triton.InferenceServerClient(f"127.0.0.1:{place.grpc_port}")
    assert (await trio.to_thread.run_sync(client.get_model_metadata, "b")).name == "b"
    with pytest.raises(triton.InferenceServerException, match="it is broken"):
        await trio.to_thread.run_sync(client.get_model_config, "broken")
    with pytest.raises(triton.InferenceServerException, match="unknown model: 'nobody'"):
        await trio.to_thread.run_sync(client.get_model_config, "nobody")
    client.close()
    with pytest.raises(grpc.RpcError) as raised:
        await trio.to_thread.run_sync(stub.ModelInfer, grpc_request("broken", 7))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "it is broken" in raised.value.details()
    assert len(place.backend.contexts) == 3


async def test_grpc_deadline(place, stub):
    """Goal: a deadline that passes while the model loads is kept, and leaves nobody waiting; the load goes on."""
    gate = place.hold("a")
    with pytest.raises(grpc.RpcError) as raised:
        await trio.to_thread.run_sync(partial(stub.ModelInfer, grpc_request("a", 7), timeout=0.3))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await place.until(lambda: place.waits("a") == 0)
    gate.set()
    answer = await trio.to_thread.run_sync(stub.ModelInfer, grpc_request("a", 8))
    assert np.frombuffer(answer.raw_output_contents[0], np.int32) == 8
    assert [len(one.ids) for one in place.backend.executed] == [1]


async def test_grpc_stream(place, stub):
    """Goal: the requests of one stream are answered in order, whichever models have to be loaded or fail to."""
    asked = [("a", 1), ("broken", 2), ("a", 3), ("b", 4), ("nobody", 5), ("b", 6)]

    def stream():
        waiting = queue.SimpleQueue()
        for model, value in asked:
            waiting.put(grpc_request(model, value, id=str(value)))
        answers = []
        for answer in stub.ModelStreamInfer(iter(waiting.get, None)):
            answers.append((answer.infer_response.id, answer.error_message))
            if len(answers) == len(asked):
                waiting.put(None)
        return answers

    answers = await trio.to_thread.run_sync(stream)
    assert [id for id, _ in answers] == [str(value) for _, value in asked]
    assert [bool(error) for _, error in answers] == [False, True, False, False, True, False]
    assert sorted(place.backend.opened) == [("a", 1), ("b", 1)]


async def test_grpc_stream_is_cancelled(place, stub):
    """Goal: a stream that is cancelled while it waits for a model ends at once."""
    gate = place.hold("a")
    call = stub.ModelStreamInfer(iter([grpc_request("a", 1)]))
    await place.until(lambda: place.waits("a") == 1)
    call.cancel()
    await place.until(lambda: place.waits("a") == 0)
    gate.set()
