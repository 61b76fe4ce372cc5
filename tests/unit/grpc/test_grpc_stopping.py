"""A door that stops: what is in flight is answered, what begins is refused, and nobody waits for the idle."""

from __future__ import annotations

import zlib

import pytest
import trio
from despina.frontends.grpc.request import incoming
from tritonclient.grpc import service_pb2

from tests.unit.grpc.test_grpc_extensions import request

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
STOPPING = "GRPC server is shutting down and has stopped accepting new requests."


def encoded(model, **more):
    return request(model, **more).SerializeToString()


async def opened(client, path=STREAM, *messages):
    """A call on stream 1 that its client has not ended."""
    frames = client.frame(client.HEADERS, 4, 1, client.block(path))
    await client.send(frames + b"".join(client.frame(client.DATA, 0, 1, client.message(one)) for one in messages))
    await client.send(client.frame(client.PING, 0, 0, bytes(8)))
    await client.wait_for(client.PING)


async def ends(client):
    """The answers of stream 1, and what its trailers say; then the connection ends."""
    data, trailers = await client.answer(1)
    answers = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        answers.append(service_pb2.ModelStreamInferResponse.FromString(data[5 : 5 + size]))
        data = data[5 + size :]
    while await client.next_frame() is not None:
        pass
    found = [(answer.infer_response.id, answer.error_message) for answer in answers]
    return found, (trailers["grpc-status"], trailers.get("grpc-message", ""))


@pytest.mark.parametrize("path", [STREAM, REFLECTION])
async def test_an_idle_stream_ends_at_once(open_door, path):
    """Goal: UNAVAILABLE, whichever service it is of; no grace is spent on it."""
    door = await open_door(stop_grace=15)
    client = await door.connect()
    await opened(client, path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        assert await ends(client) == ([], ("14", STOPPING))
        await client.stream.aclose()


async def test_a_stream_in_flight_is_answered_and_what_comes_is_refused(open_door):
    """Goal: in order, in the protocol's words, for each request; then the call ends."""
    door = await open_door(stop_grace=15)
    client = await door.connect()
    await opened(client, STREAM, encoded("held", id="first"))
    held = door.engine.models["held"]
    await held.submitted.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        await client.wait_for(client.GOAWAY)
        await client.send(client.frame(client.DATA, 0, 1, client.message(encoded("identity", id="late"))))
        await client.send(client.frame(client.DATA, 0, 1, client.message(encoded("nope", id="later"))))
        await client.send(client.frame(client.PING, 0, 0, bytes(8)))
        await client.wait_for(client.PING)
        assert len(held.held) == 1
        held.release()
        answers, status = await ends(client)
        assert answers == [("first", ""), ("late", STOPPING), ("later", STOPPING)]
        assert status == ("14", STOPPING)
        await client.stream.aclose()


async def test_a_stream_that_its_client_ends_is_well(open_door):
    """Goal: OK where nothing was refused."""
    door = await open_door(stop_grace=15)
    client = await door.connect()
    await opened(client, STREAM, encoded("held", id="first"))
    held = door.engine.models["held"]
    await held.submitted.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        await client.wait_for(client.GOAWAY)
        await client.send(client.frame(client.DATA, 1, 1))
        await client.send(client.frame(client.PING, 0, 0, bytes(8)))
        await client.wait_for(client.PING)
        held.release()
        assert await ends(client) == ([("first", "")], ("0", ""))
        await client.stream.aclose()


@pytest.mark.parametrize("sent", [0, 3, 60])
async def test_a_half_sent_request_has_one_short_grace(open_door, sent):
    """Goal: refused when it is over, though the client does not leave even then."""
    door = await open_door(stop_grace=0.2)
    client = await door.connect()
    data = client.message(encoded("identity"))
    assert len(data) > 60
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER))
    await client.send(head + client.frame(client.DATA, 0, 1, data[:sent]) + client.frame(client.PING, 0, 0, bytes(8)))
    await client.wait_for(client.PING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        assert await ends(client) == ([], ("14", STOPPING))
    assert not door.server.connections


async def test_a_request_that_becomes_whole_in_time_is_answered(open_door):
    """Goal: the grace is one."""
    door = await open_door(stop_grace=15)
    client = await door.connect()
    data = client.message(encoded("identity"))
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER))
    await client.send(head + client.frame(client.DATA, 0, 1, data[:20]))
    await client.send(client.frame(client.PING, 0, 0, bytes(8)))
    await client.wait_for(client.PING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        await client.wait_for(client.GOAWAY)
        await client.send(client.frame(client.DATA, 1, 1, data[20:]))
        assert (await client.answer(1))[1]["grpc-status"] == "0"
        await client.stream.aclose()


async def test_a_request_that_is_inflated_is_in_flight(open_door, monkeypatch):
    """Goal: it is all there, so no grace is over for it."""
    inflate = incoming.inflate_in_steps
    begun, go_on = trio.Event(), trio.Event()

    def slow(*arguments):
        trio.from_thread.run_sync(begun.set)
        trio.from_thread.run(go_on.wait)
        return inflate(*arguments)

    monkeypatch.setattr(incoming, "inflate_in_steps", slow)
    door = await open_door(stop_grace=0.05)
    client = await door.connect()
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER, grpc_encoding="deflate"))
    data = zlib.compress(request("nothing", rows=2000).SerializeToString())
    await client.send(head + client.frame(client.DATA, 1, 1, client.message(data, 1)))
    await begun.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        await client.wait_for(client.GOAWAY)
        await trio.sleep(0.1)  # the grace is over
        go_on.set()
        assert (await client.answer(1))[1]["grpc-status"] == "0"
        await client.stream.aclose()
