"""ModelStreamInfer over a real engine with decoupled models: real clients, both kinds."""

from __future__ import annotations

import queue
import socket
from contextlib import asynccontextmanager
from functools import partial

import despina
import grpc
import numpy as np
import pytest
import trio
import tritonclient.grpc as triton
from despina.engine.request.stream import StreamJob
from despina.frontends.grpc import GrpcSettings, serve_grpc
from despina.frontends.grpc.handler import stream_infer
from despina.schema.fault import InvalidArgument
from despina.schema.tensor import Tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.fakes import FakeBackend, tensor_text, write_model

TENSORS = tensor_text("input", "IN", dims=(-1,)) + tensor_text("output", "OUT", dims=(-1,))


class Script:
    """Answers with each number of the input; a negative one is an error; 1000 and more sleep so many milliseconds."""

    def __init__(self):
        self.pad = 1
        self.sent = 0
        self.jobs = []
        self.running = 0
        self.running_max = 0

    async def __call__(self, batch):
        (job,) = batch.jobs
        self.jobs.append(job)
        for number in job.request.inputs["IN"].numpy().ravel():
            if number < 0:
                job.send_fault(InvalidArgument("negative"))
                continue
            if number >= 1000:
                await trio.sleep(number / 1000)
            if isinstance(job, StreamJob):
                await job.send_async([Tensor.of("OUT", np.full(self.pad, number, np.int32))])
                self.sent += 1
        if isinstance(job, StreamJob):
            job.send(None, final=True)
        else:
            job.respond([Tensor.of("OUT", job.request.inputs["IN"].numpy())])


@pytest.fixture
async def opened(tmp_path):
    """`async with opened(**settings) as (port, script, engine)`: `s` is decoupled, `plain` is not."""
    more = "model_transaction_policy { decoupled: true }"
    write_model(tmp_path, "s", max_batch_size=0, tensors=TENSORS, instances=4, more=more)
    write_model(tmp_path, "plain", max_batch_size=0, tensors=TENSORS, instances=4)

    @asynccontextmanager
    async def open_it(**settings):
        backend = FakeBackend()
        backend.execute = script = Script()
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with (
            despina.open_engine(tmp_path, backends={"fake": backend}, exit_timeout_secs=2) as engine,
            trio.open_nursery() as doors,
        ):
            await doors.start(partial(serve_grpc, engine, GrpcSettings(**settings), sockets=[sock]))
            with trio.fail_after(30):
                yield port, script, engine
            doors.cancel_scope.cancel()

    return open_it


def request(model, id, *numbers, **parameters):
    made = service_pb2.ModelInferRequest(
        model_name=model, id=id, raw_input_contents=[np.array(numbers, np.int32).tobytes()]
    )
    made.inputs.add(name="IN", datatype="INT32", shape=[len(numbers)])
    for key, value in parameters.items():
        made.parameters[key].bool_param = value
    return made


def stream(port, requests, metadata=()):
    """(id, first number or error text or None, final) of each answer, and the status."""
    answers = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter(requests), metadata=metadata, timeout=15)
        try:
            for answer in call:
                response = answer.infer_response
                number = None
                if response.raw_output_contents:
                    number = int(np.frombuffer(response.raw_output_contents[0], np.int32)[0])
                final = response.parameters["triton_final_response"].bool_param
                answers.append((response.id, answer.error_message or number, final))
        except grpc.RpcError as error:
            return answers, error.code().name
        return answers, "OK"


async def asked(port, *requests, **options):
    return await trio.to_thread.run_sync(partial(stream, port, requests, **options))


async def until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  other code's state, without an event
            await trio.sleep(0.002)


async def test_answers_and_their_end(opened):
    """The end of a decoupled request is told only to those who ask for it; every answer says whether it is the last."""
    async with opened() as (port, _, engine):
        assert await asked(port, request("s", "a", 4, 2)) == ([("a", 4, False), ("a", 2, False)], "OK")
        got = await asked(port, request("s", "a", 4, triton_enable_empty_final_response=True))
        assert got == ([("a", 4, False), ("a", None, True)], "OK")
        assert await asked(port, request("s", "a")) == ([], "OK")
        got = await asked(port, request("plain", "p", 1, triton_enable_empty_final_response=True))
        assert got == ([("p", 1, True)], "OK")
        assert not engine.model("s").ledger.inflight


async def test_errors_keep_their_place(opened):
    """An error among the answers does not end its request, nor the stream; a refusal has no mark."""
    async with opened() as (port, _, _):
        got, status = await asked(port, request("s", "a", 1, -1, 2), request("nope", "b"), request("s", "c", 3))
        assert status == "OK"
        assert [answer for answer in got if answer[0] == "a"] == [
            ("a", 1, False),
            ("a", "negative", False),
            ("a", 2, False),
        ]
        assert ("b", "Request for unknown model: 'nope' is not found", False) in got
        assert ("c", 3, False) in got


async def test_error_mode_ends_the_stream(opened):
    """With `triton_grpc_error` the first error of an execution is the status, and what else runs is cancelled."""
    async with opened() as (port, script, _):
        got, status = await asked(
            port, request("s", "slow", 1500), request("s", "a", 1, -1, 2), metadata=(("triton_grpc_error", "true"),)
        )
        assert (got, status) in (([("a", 1, False)], "INVALID_ARGUMENT"), ([], "INVALID_ARGUMENT"))
        assert all(job.is_cancelled() or job.is_closed for job in script.jobs)


async def test_ordinary_answers_keep_their_order_and_others_overtake(opened):
    """A slow ordinary request holds back ordinary ones behind it, not decoupled ones."""
    async with opened() as (port, _, _):
        got, _ = await asked(port, request("plain", "slow", 1), request("s", "free", 2), request("plain", "next", 3))
        order = [answer[0] for answer in got]
        assert order.index("slow") < order.index("next")
        got, _ = await asked(port, request("s", "held", 1200), request("s", "quick", 1))
        assert [answer[0] for answer in got] == ["quick", "held"]


async def test_cancelling_the_call_cancels_its_requests(opened):
    """All that is in flight on the stream learns that the client has left."""
    async with opened() as (port, script, engine):

        def leave():
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                call = stub.ModelStreamInfer(iter([request("s", "a", 1, 1500), request("s", "b", 1, 1500)]))
                next(call)
                next(call)
                call.cancel()

        await trio.to_thread.run_sync(leave)
        await until(lambda: len(script.jobs) == 2 and all(job.is_cancelled() for job in script.jobs))
        await until(lambda: not engine.model("s").ledger.inflight)


async def test_a_slow_reader_stops_the_model(opened):
    """Of 3000 answers of 16 KB only what windows and buffers hold is made before the client reads."""
    async with opened() as (port, script, _):
        script.pad = 4000
        release = queue.SimpleQueue()
        counted = []

        def read_late():
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                call = stub.ModelStreamInfer(iter([request("s", "a", *[7] * 3000)]))
                next(call)
                release.get()
                counted.append(1 + sum(1 for _ in call))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, read_late)
            seen = -1
            while seen != script.sent or not seen:
                seen = script.sent
                await trio.sleep(0.3)
            release.put(None)
            assert 0 < seen < 2000
        assert counted == [script.sent] == [3000]


@pytest.mark.interpreted
async def test_requests_beyond_the_bound_wait(opened):
    """A stream runs so many requests at a time; the others wait unread and are served in the end."""
    async with opened(stream_requests_max=2) as (port, _, engine):
        seen = []
        model = engine.model("s")
        submit = model.submit_stream

        def counted(*args):
            seen.append(model.ledger.inflight)
            return submit(*args)

        model.submit_stream = counted
        got, status = await asked(port, *[request("s", str(number), number) for number in range(20)])
        assert status == "OK"
        assert sorted(int(answer[0]) for answer in got) == list(range(20))
        assert max(seen) < 2


async def test_the_clients_of_the_field(opened):
    """tritonclient's callback stream gets every answer and the empty final one."""
    async with opened() as (port, _, _):

        def ask():
            answers = queue.SimpleQueue()
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                client.start_stream(lambda result, error: answers.put((result, error)))
                tensor = triton.InferInput("IN", [2], "INT32")
                tensor.set_data_from_numpy(np.array([4, 2], np.int32))
                client.async_stream_infer("s", [tensor], request_id="r", enable_empty_final_response=True)
                got = [answers.get(timeout=10) for _ in range(3)]
                client.stop_stream()
            return got

        got = await trio.to_thread.run_sync(ask)
        assert [error for _, error in got] == [None] * 3
        assert [int(result.as_numpy("OUT")[0]) for result, _ in got[:2]] == [4, 2]
        assert got[2][0].get_response().parameters["triton_final_response"].bool_param


@pytest.mark.parametrize(("kind", "status"), [(MemoryError, "RESOURCE_EXHAUSTED"), (RuntimeError, "INTERNAL")])
@pytest.mark.parametrize("model", ["s", "plain"])
async def test_a_delivery_that_fails(opened, monkeypatch, caplog, model, kind, status):
    """What breaks while an answer is delivered ends that stream with a status; the next one is served."""
    write = stream_infer.write_response

    def broken(response):
        if response.id == "bad":
            raise kind("planted")
        return write(response)

    monkeypatch.setattr(stream_infer, "write_response", broken)
    async with opened() as (port, _, engine):
        assert await asked(port, request(model, "bad", 1, 2, 3)) == ([], status)
        assert "planted" in caplog.text
        await until(lambda: not engine.model(model).ledger.inflight)
        assert (await asked(port, request(model, "good", 5)))[1] == "OK"


async def test_a_stream_that_cannot_go_on(opened, monkeypatch):
    """What breaks when the client has taken its answers, or the model is told so, ends that stream."""
    async with opened() as (port, _, engine):

        def broken(*_):
            raise RuntimeError("planted")

        with monkeypatch.context() as patch:
            patch.setattr(StreamJob, "consumed", broken)
            assert (await asked(port, request("s", "bad", 1, 2, 3)))[1] == "INTERNAL"
        assert (await asked(port, request("s", "good", 5)))[1] == "OK"
        await until(lambda: not engine.model("s").ledger.inflight)
