"""Requests with very many elements in lists: read in a worker thread, so that others are served meanwhile."""

import struct
import threading

import numpy as np
import pytest
import trio
import trio.testing
from despina.frontends.grpc.handler import stream_infer, unary_infer
from tritonclient.grpc import service_pb2

from tests.repeated_calls import INFER, asking, outputs_in

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def with_lists(rows):
    """A request for add/sub with its numbers in lists, serialised, and the sum and difference as bytes."""
    a, b = np.random.default_rng(rows).integers(-1000, 1000, (2, rows, 16), dtype=np.int32)
    message = service_pb2.ModelInferRequest(model_name="addsub")
    for index, array in enumerate((a, b)):
        entry = message.inputs.add(name=f"INPUT{index}", datatype="INT32", shape=[rows, 16])
        entry.contents.int_contents.extend(array.ravel().tolist())
    return message.SerializeToString(), [(a + b).tobytes(), (a - b).tobytes()]


def frames(client, stream_id, message, path=INFER, *, end=True):
    """Of a call whose message needs many DATA frames."""
    yield client.frame(client.HEADERS, 4, stream_id, client.block(path))
    data = client.message(message)
    for at in range(0, len(data), 16_384):
        piece = data[at : at + 16_384]
        yield client.frame(client.DATA, int(end and at + len(piece) == len(data)), stream_id, piece)


@pytest.fixture
def held(monkeypatch):
    """The threads that read requests, which wait until the event is set."""
    threads, go = [], threading.Event()
    read = unary_infer.read_plain_request

    def watched(message):
        if type(message) is not bytes:
            threads.append(threading.current_thread())
            assert go.wait(10)
        return read(message)

    monkeypatch.setattr(unary_infer, "read_plain_request", watched)
    yield threads, go
    go.set()


async def test_others_are_served_meanwhile(door, held):
    threads, go = held
    client, other = await door.connect(), await door.connect()
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
    await client.send(client.frame(client.SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 24)))
    message, expected = with_lists(4000)
    for piece in frames(client, 1, message):
        await client.send(piece)
    with trio.fail_after(5):
        while not threads:  # noqa: ASYNC110  the thread has no event of trio's
            await trio.sleep(0.001)
        await other.send(other.call(1, INFER, asking(1)[0]))
        assert outputs_in((await other.answer(1))[0]) == asking(1)[1]
        go.set()
        body, trailers = await client.answer(1)
    assert outputs_in(body) == expected
    assert trailers["grpc-status"] == "0"
    assert threads[0] is not threading.main_thread()


async def test_a_caller_who_leaves_meanwhile(door, held):
    """Goal: what is read for nobody goes no further."""
    threads, go = held
    client = await door.connect()
    for piece in frames(client, 1, with_lists(4000)[0]):
        await client.send(piece)
    model = door.engine.models["addsub"]
    submitted = []
    model.submit = lambda *arguments: submitted.append(arguments)
    with trio.fail_after(5):
        while not threads:  # noqa: ASYNC110  the thread has no event of trio's
            await trio.sleep(0.001)
        await client.send(client.frame(client.RST, 0, 1, struct.pack(">I", 8)))
        (connection,) = door.server.connections.values()
        while connection.calls:  # noqa: ASYNC110  the connection has no event for this
            await trio.sleep(0.001)
        go.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert not submitted


async def test_in_a_stream(door, monkeypatch):
    """Goal: those behind it are answered behind it."""
    threads = []
    read = stream_infer.read_plain_request

    def watched(message):
        threads.append(threading.current_thread())
        return read(message)

    monkeypatch.setattr(stream_infer, "read_plain_request", watched)
    client = await door.connect()
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
    await client.send(client.frame(client.SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 24)))
    large, expected = with_lists(4000)
    for piece in frames(client, 1, large, path=STREAM, end=False):
        await client.send(piece)
    await client.send(client.frame(client.DATA, 1, 1, client.message(asking(1)[0])))
    with trio.fail_after(5):
        body, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
    found = []
    while body:
        stop = 5 + int.from_bytes(body[1:5], "big")
        answer = service_pb2.ModelStreamInferResponse.FromString(body[5:stop])
        found.append(list(answer.infer_response.raw_output_contents))
        body = body[stop:]
    assert found == [expected, asking(1)[1]]
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_long_lists_that_do_not_fit(door):
    """Goal: a list of the wrong kind is refused in the protocol's words, whoever has read it."""
    client = await door.connect()
    message = service_pb2.ModelInferRequest.FromString(with_lists(4000)[0])
    message.inputs[1].datatype = "FP32"
    for piece in frames(client, 1, message.SerializeToString()):
        await client.send(piece)
    with trio.fail_after(5):
        _, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "3"
    assert "expected datatype 'FP32'" in trailers["grpc-message"]
