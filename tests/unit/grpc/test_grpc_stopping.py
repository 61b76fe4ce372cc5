"""A door that stops: what is in flight is answered, what begins is refused, and nobody waits for the idle."""

from __future__ import annotations

import socket
import struct
import zlib

import pytest
import trio
from despina.frontends.grpc.request import incoming
from tritonclient.grpc import service_pb2

from tests.unit.grpc.conftest import RawClient
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


async def test_a_client_who_does_not_read_has_one_short_grace(open_door):
    """Goal: answers that nobody reads delay no stop until the stall that a serving door allows; one that is read slowly
    arrives whole."""
    door = await open_door(stop_grace=0.5)
    wanted, clients = encoded("identity", rows=250_000), []
    for _ in range(2):
        client = await door.connect(greet=False)
        big = (1 << 31) - 1
        await client.send(client.PREFACE + client.frame(client.SETTINGS, 0, 0, struct.pack(">HI", 4, big)))
        await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", big - 65535)))
        await client.send(client.frame(client.HEADERS, 4, 1, client.block(INFER)))
        data = client.message(wanted)
        for at in range(0, len(data), 1 << 19):
            piece = data[at : at + (1 << 19)]
            await client.send(client.frame(client.DATA, int(at + len(piece) == len(data)), 1, piece))
        clients.append(client)
    _, slow = clients
    with trio.fail_after(5):
        while not all(each.outlet.sent_bytes for each in door.server.connections.values()):  # noqa: ASYNC110  no event
            await trio.sleep(0.01)
    received = bytearray()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        while data := await slow.stream.receive_some(1 << 20):
            received += data
            await trio.sleep(0.05)
    assert 0.4 < trio.current_time() - started < 10
    assert len(received) > 15_000_000


async def test_calls_that_cross_the_end_are_taken(open_door):
    """Goal: a client that may not repeat a call, as a proxy, loses none: until it has said that it knows, all that it
    begins is answered; then its connection ends."""
    door = await open_door(stop_grace=15)
    client = await door.connect()
    call = client.block(INFER)
    data = client.message(encoded("identity"))
    await client.send(client.frame(client.HEADERS, 4, 1, call) + client.frame(client.DATA, 1, 1, data))
    await client.answer(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        _, _, _, payload = await client.wait_for(client.GOAWAY)
        assert payload[:8] == b"\x7f\xff\xff\xff\0\0\0\0"
        await client.send(
            client.frame(client.HEADERS, 4, 3, client.block(INFER)) + client.frame(client.DATA, 1, 3, data)
        )
        answer, trailers = await client.answer(3)
        assert trailers["grpc-status"] == "0"
        assert answer
        _, _, _, payload = await client.wait_for(client.GOAWAY)
        assert payload[:8] == b"\0\0\0\3\0\0\0\0"
        assert await client.next_frame() is None
        await client.stream.aclose()


async def test_who_knocked_before_the_door_closed_is_answered(open_door):
    """Goal: a call that a client sent on a connection which only the kernel had taken yet, is not lost."""
    door = await open_door(stop_grace=15)
    sock = socket.create_connection(("127.0.0.1", door.port))  # without a turn for the server
    client = RawClient(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
    sock.setblocking(False)
    sock.send(client.PREFACE + client.frame(client.SETTINGS, 0, 0) + client.call(1, INFER, encoded("identity")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        answer, trailers = await client.answer(1)
        assert trailers["grpc-status"] == "0"
        assert answer
        await client.stream.aclose()


async def test_who_does_not_say_that_it_knows_has_a_moment(open_door):
    """Goal: nobody waits for a peer that answers nothing."""
    door = await open_door(stop_grace=15)
    stream = (await door.connect()).stream
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain)
        received = b""
        with trio.fail_after(5):
            while data := await stream.receive_some():
                received += data
        assert received.endswith(bytes([0, 0, 8, 7]) + bytes(5) + bytes(8))
        await stream.aclose()
