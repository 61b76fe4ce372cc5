"""Callers told apart by a header that the doors forward: each has his turn, whatever the others send."""

from __future__ import annotations

import json
import socket
from functools import partial

import despina
import grpc
import numpy as np
import trio
from despina.frontends.grpc import GrpcSettings, serve_grpc
from despina.frontends.http import HttpSettings, serve_http
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.fakes import FakeBackend, Gate, write_model


async def test_a_forwarded_header_says_whose_it_is(tmp_path, nursery):
    """Goal: a caller's first request, over either door, is executed before the third of one who came before him."""
    write_model(tmp_path, "m", max_batch_size=0)
    backend = FakeBackend()
    gate = backend.execute = Gate()
    async with despina.open_engine(tmp_path, backends={"fake": backend}, fair_queueing="x-key") as engine:
        ports = []
        settings = HttpSettings(forward_pattern="x-key"), GrpcSettings(forward_pattern="x-key")
        for serve, one in zip((serve_http, serve_grpc), settings, strict=True):
            listener = socket.create_server(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
            await nursery.start(partial(serve, engine, one, sockets=[listener]))

        async def waiting(count):
            with trio.fail_after(10):
                while engine.model("m").pending < count:  # noqa: ASYNC110 (no event says so)
                    await trio.sleep(0.002)

        async def ask(id, key):
            tensors = [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]}]
            body = json.dumps({"id": id, "inputs": tensors}).encode()
            head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nx-key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
            stream = await trio.open_tcp_stream("127.0.0.1", ports[0])
            await stream.send_all(head.encode() + body)
            return stream

        streams = [await ask("held", "nobody")]
        with trio.fail_after(10):
            while not gate.held:  # noqa: ASYNC110 (as above)
                await trio.sleep(0.002)
        for index in range(4):
            streams.append(await ask(f"loud {index}", "loud"))
            await waiting(index + 1)
        streams.append(await ask("quiet", "quiet"))
        await waiting(5)
        with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            tensor = service_pb2.ModelInferRequest.InferInputTensor(name="IN", datatype="INT32", shape=[1])
            asked = service_pb2.ModelInferRequest(model_name="m", id="other door", inputs=[tensor])
            asked.raw_input_contents.append(np.int32(1).tobytes())
            call = stub.ModelInfer.future(asked, metadata=[("x-key", "third")])
            await waiting(6)
            backend.execute = backend._echo
            gate.release()
            await trio.to_thread.run_sync(call.result)
            with trio.fail_after(10):
                while len(backend.ids) < 7:  # noqa: ASYNC110 (as above)
                    await trio.sleep(0.002)
        assert backend.ids == [["held"], ["loud 0"], ["quiet"], ["other door"], ["loud 1"], ["loud 2"], ["loud 3"]]
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()
