"""Real clients of decoupled models: many answers to one request, over gRPC streams and over generate."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import threading
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conformance.servers import running_despina
from tests.conformance.streaming_probes import repeat, request, script
from tests.conformance.suites import HERE

WAIT_S = 20.0
"""No answer may take longer."""
LONG = [7] * 10_000
"""Values that would keep `repeat` busy for minutes, at DELAY_MS each."""
DELAY_MS = 20


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """A server over `models_streaming/`."""
    with running_despina(HERE / "models_streaming", tmp_path_factory.mktemp("streaming")) as running:
        yield running


def repeated(values, delay_ms=0):
    """The inputs of `repeat`."""
    made = []
    for name, datatype, array in (
        ("IN", "INT32", np.array(values, np.int32)),
        ("DELAY_MS", "UINT32", np.array([delay_ms], np.uint32)),
    ):
        one = tritonclient.grpc.InferInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(array)
        made.append(one)
    return made


def told(*steps):
    """The inputs of `script`."""
    one = tritonclient.grpc.InferInput("STEPS", [1], "BYTES")
    one.set_data_from_numpy(np.array([json.dumps(steps).encode()], np.object_))
    return [one]


def is_final(result):
    """The flag of a response, which must be there."""
    return result.get_response().parameters["triton_final_response"].bool_param


def seen(result):
    """Id, value of `repeat` (None without outputs) and the final flag."""
    out = result.as_numpy("OUT")
    return result.get_response().id, None if out is None else int(out[0]), is_final(result)


@contextmanager
def stream(server):
    """A blocking client with an open stream, and the queue of (result, error)."""
    answers = queue.SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        yield client, answers


def take(answers, count):
    """The next results, none of them an error."""
    pairs = [answers.get(timeout=WAIT_S) for _ in range(count)]
    assert [error for _, error in pairs if error is not None] == []
    return [result for result, _ in pairs]


def assert_repeat_is_free(server):
    """`repeat` serves one request at a time: an answer means that it has left the request before."""
    with stream(server) as (client, answers):
        client.async_stream_infer("repeat", repeated([1]))
        assert seen(take(answers, 1)[0])[1] == 1


def test_decoupled_answers_in_order(streaming):
    """Goal: every value once and in order; no empty final response where none is asked for."""
    with stream(streaming) as (client, answers):
        client.async_stream_infer("repeat", repeated(range(100)), request_id="a")
        client.async_stream_infer("repeat", repeated([5]), request_id="b")
        results = [seen(result) for result in take(answers, 101)]
        client.stop_stream()
    assert results == [("a", value, False) for value in range(100)] + [("b", 5, False)]
    assert answers.empty()


@pytest.mark.parametrize("values", [[], [4], [4, 2, 0]])
def test_empty_final_response(streaming, values):
    """Goal: with the option on, a response without outputs and with the final flag closes each request."""
    with stream(streaming) as (client, answers):
        client.async_stream_infer("repeat", repeated(values), request_id="a", enable_empty_final_response=True)
        results = take(answers, len(values) + 1)
        client.stop_stream()
    assert [seen(result) for result in results] == [*(("a", value, False) for value in values), ("a", None, True)]
    last = results[-1].get_response()
    assert (last.model_name, len(last.outputs)) == ("repeat", 0)
    assert answers.empty()


def test_final_flag_on_the_last_data(streaming):
    """Goal: a model that flags its last data as final gets no empty response after it."""
    with stream(streaming) as (client, answers):
        steps = told(["text", "a"], ["last_text", "b"])
        client.async_stream_infer("script", steps, enable_empty_final_response=True)
        results = take(answers, 2)
        client.stop_stream()
    assert [(result.as_numpy("OUT").tolist(), is_final(result)) for result in results] == [
        ([b"a"], False),
        ([b"b"], True),
    ]
    assert answers.empty()


def test_several_models_on_one_stream(streaming):
    """Goal: requests to three models share a stream; each has its own answers, in its own order, under its own id."""
    flag = tritonclient.grpc.InferInput("B", [1, 2], "BOOL")
    flag.set_data_from_numpy(np.array([[True, False]]))
    with stream(streaming) as (client, answers):
        for number in range(10):
            client.async_stream_infer("repeat", repeated([number, -number]), request_id=f"repeat {number}")
            client.async_stream_infer("script", told(["last_text", str(number)]), request_id=f"script {number}")
            client.async_stream_infer("plain", [flag], request_id=f"plain {number}")
        results = take(answers, 40)
        client.stop_stream()
    by_id = {}
    for result in results:
        response = result.get_response()
        assert response.id.startswith(response.model_name)
        by_id.setdefault(response.id, []).append(result.as_numpy("OUT").ravel().tolist())
    for number in range(10):
        assert by_id[f"repeat {number}"] == [[number], [-number]]
        assert by_id[f"script {number}"] == [[str(number).encode()]]
        assert len(by_id[f"plain {number}"]) == 1
    order = [result.get_response().id for result in results if result.get_response().model_name == "script"]
    assert order == [f"script {number}" for number in range(10)]


def test_a_slow_model_does_not_hold_the_stream(streaming):
    """Goal: another model's answer comes while the first request of the stream is still being answered."""
    with stream(streaming) as (client, answers):
        client.async_stream_infer("repeat", repeated(LONG, DELAY_MS), request_id="slow")
        take(answers, 1)
        client.async_stream_infer("script", told(["last_text", "now"]), request_id="quick")
        while take(answers, 1)[0].get_response().id != "quick":
            pass
        client.stop_stream(cancel_requests=True)


def test_errors_leave_the_stream_open(streaming):
    """Goal: refusals, errors between answers and exceptions become the client's exceptions; the next request runs."""
    with stream(streaming) as (client, answers):
        for model, inputs, words in (
            ("nope", repeated([1]), "Request for unknown model: 'nope' is not found"),
            ("repeat", [], "expected"),
            ("script", told(["last_error", "odd"]), "odd"),
            ("script", told(["raise", "bad"]), "ValueError: bad"),
        ):
            client.async_stream_infer(model, inputs, request_id="refused")
            result, error = answers.get(timeout=WAIT_S)
            assert result is None
            assert isinstance(error, InferenceServerException)
            assert words in str(error)
        client.async_stream_infer("script", told(["text", "a"], ["error", "odd"], ["last_text", "b"]))
        first, middle, last = (answers.get(timeout=WAIT_S) for _ in range(3))
        assert first[0].as_numpy("OUT").tolist() == [b"a"]
        assert "odd" in str(middle[1])
        assert last[0].as_numpy("OUT").tolist() == [b"b"]
        client.stop_stream()


def test_errors_name_their_request(streaming):
    """Goal: an error on the stream carries the request's id, which the client's exception leaves out."""
    requests = [
        request("nope", [], id="unknown"),
        script([["last_error", "odd"]], id="refused"),
        script([["raise", "bad"]], id="raised"),
        repeat([1], id="fine"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{streaming.grpc_port}") as channel:
        answers = list(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests)))
    errors = {answer.infer_response.id: bool(answer.error_message) for answer in answers}
    assert errors == {"unknown": True, "refused": True, "raised": True, "fine": False}


def test_cancelled_stream_stops_the_model(streaming):
    """Goal: cancelling the stream reaches the model, which stops minutes before its end."""
    with stream(streaming) as (client, answers):
        client.async_stream_infer("repeat", repeated(LONG, DELAY_MS))
        take(answers, 3)
        client.stop_stream(cancel_requests=True)
        while (error := answers.get(timeout=WAIT_S)[1]) is None:
            pass
        assert error.status() == "StatusCode.CANCELLED"
    assert_repeat_is_free(streaming)


def test_stream_timeout(streaming):
    """Goal: a stream's deadline ends it as such, and the model with it."""
    answers = queue.SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{streaming.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=0.5)
        client.async_stream_infer("repeat", repeated(LONG, DELAY_MS))
        while (error := answers.get(timeout=WAIT_S)[1]) is None:
            pass
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert_repeat_is_free(streaming)


def test_asyncio_stream(streaming):
    """Goal: the asyncio iterator yields every answer of every request, errors too, and ends."""

    async def requests():
        yield {"model_name": "repeat", "inputs": repeated([4, 2]), "request_id": "a"}
        yield {"model_name": "nope", "inputs": []}
        yield {"model_name": "repeat", "inputs": repeated([7]), "request_id": "b"}

    async def main():
        async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{streaming.grpc_port}") as client:
            return [pair async for pair in client.stream_infer(requests())]

    pairs = asyncio.run(asyncio.wait_for(main(), WAIT_S))
    results = [seen(result) for result, error in pairs if error is None]
    assert results == [("a", 4, False), ("a", 2, False), ("b", 7, False)]
    (error,) = (error for _, error in pairs if error is not None)
    assert "Request for unknown model: 'nope' is not found" in str(error)


def test_asyncio_streams_side_by_side(streaming):
    """Goal: many streams at once over one connection keep their answers apart."""

    async def one(client, number):
        async def requests():
            yield {"model_name": "repeat", "inputs": repeated([number] * 20)}

        return [int(result.as_numpy("OUT")[0]) async for result, _ in client.stream_infer(requests())]

    async def main():
        async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{streaming.grpc_port}") as client:
            return await asyncio.gather(*(one(client, number) for number in range(16)))

    assert asyncio.run(asyncio.wait_for(main(), WAIT_S)) == [[number] * 20 for number in range(16)]


def test_asyncio_cancel(streaming):
    """Goal: cancelling the iterator ends the call at the client and the work at the model."""

    async def main():
        async def requests():
            yield {"model_name": "repeat", "inputs": repeated(LONG, DELAY_MS)}

        async def exhausted(answers):
            async for _ in answers:
                pass

        async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{streaming.grpc_port}") as client:
            answers = client.stream_infer(requests())
            await anext(answers)
            assert answers.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exhausted(answers)

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
    assert_repeat_is_free(streaming)


def post(connection, action, body):
    """A generate request to `repeat` or a path of one's own: the response, its head read."""
    connection.request("POST", f"/v2/models/{action}", json.dumps(body))
    return connection.getresponse()


@pytest.fixture
def connection(streaming):
    """A plain HTTP/1.1 connection."""
    made = http.client.HTTPConnection("127.0.0.1", streaming.http_port, timeout=WAIT_S)
    yield made
    made.close()


def event(response):
    """The next event of a stream as JSON; None at its end."""
    if not (line := response.readline()):
        return None
    assert line.startswith(b"data: ")
    assert response.readline() == b"\n"
    return json.loads(line.removeprefix(b"data: "))


def events(response):
    """All events that are left, as JSON."""
    return list(iter(lambda: event(response), None))


def test_generate(connection):
    """Goal: one answer as one JSON object; two answers are an error; the connection stays."""
    response = post(connection, "repeat/generate", {"IN": [4], "id": "mine"})
    assert (response.status, response.getheader("Content-Type")) == (200, "application/json")
    answer = json.loads(response.read())
    assert {key: answer[key] for key in ("model_name", "model_version", "OUT", "INDEX")} == {
        "model_name": "repeat",
        "model_version": "1",
        "OUT": 4,
        "INDEX": 0,
    }
    response = post(connection, "repeat/generate", {"IN": [4, 2]})
    assert "exactly 1 response" in json.loads(response.read())["error"]  # under status 200, as the reference has it
    assert json.loads(post(connection, "repeat/generate", {"IN": [1]}).read())["OUT"] == 1


def test_generate_stream(connection):
    """Goal: an event for each answer, an end, and the same connection serves the next stream."""
    for values in ([4, 2, 0], [9]):
        response = post(connection, "repeat/generate_stream", {"IN": values})
        assert response.status == 200
        assert response.getheader("Content-Type").startswith("text/event-stream")
        assert [answer["OUT"] for answer in events(response)] == values


def test_generate_stream_is_not_held_back(connection):
    """Goal: an event is there as soon as its answer is, minutes before the stream would end."""
    response = post(connection, "repeat/generate_stream", {"IN": LONG, "DELAY_MS": DELAY_MS})
    assert [event(response)["INDEX"] for _ in range(3)] == [0, 1, 2]


def test_generate_stream_of_a_client_that_leaves(streaming, connection):
    """Goal: closing the connection cancels the request, down to the model."""
    response = post(connection, "repeat/generate_stream", {"IN": LONG, "DELAY_MS": DELAY_MS})
    event(response)
    response.close()
    connection.close()
    assert_repeat_is_free(streaming)


def test_generate_stream_errors(connection):
    """Goal: an error before the first event is a status; one after it is an event."""
    response = post(connection, "nope/generate_stream", {})
    assert response.status == 404
    assert "unknown model" in json.loads(response.read())["error"]
    steps = json.dumps([["text", "a"], ["last_error", "odd"]])
    response = post(connection, "script/generate_stream", {"STEPS": steps})
    assert response.status == 200
    first, second = events(response)
    assert first["OUT"] == "a"
    assert second == {"error": "odd"}


def test_generate_streams_side_by_side(streaming):
    """Goal: streams of several connections at once keep their events apart."""
    got = {}

    def ask(number):
        made = http.client.HTTPConnection("127.0.0.1", streaming.http_port, timeout=WAIT_S)
        response = post(made, "repeat/generate_stream", {"IN": [number] * 20})
        got[number] = [answer["OUT"] for answer in events(response)]
        made.close()

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert got == {number: [number] * 20 for number in range(8)}
