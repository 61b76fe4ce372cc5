"""Calls that repeat themselves on a connection: whatever way they take, the answers are the same."""

import random
import struct

import pytest
import trio
from despina.frontends.grpc.sweep import sweep_connection
from tritonclient.grpc import service_pb2

from tests.usual_calls import INFER, asking, outputs_in, with_templates


async def until(condition):
    """Waits until `condition()` holds."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  other code's state, without an event
            await trio.sleep(0.001)


class Caller:
    """A raw client that numbers its streams."""

    def __init__(self, client):
        self.client = client
        self.last = -1

    def frames(self, message, **extra):
        self.last += 2
        return self.client.call(self.last, INFER, message, **extra)

    async def ask(self, message, **extra):
        await self.client.send(self.frames(message, **extra))
        return await self.client.answer(self.last)


@pytest.fixture
async def caller(door):
    return Caller(await door.connect())


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("id", ["", "abc"])
async def test_answers_are_those_of_the_long_way(door, caller, taken, alike, id):
    """Goal: the same messages and trailers, whether or not the model tells that its answers are alike."""
    if alike:
        with_templates(door.engine.models["addsub"])
    for seed in range(20):
        message, expected = asking(seed, id=id)
        first = await Caller(await door.connect()).ask(message)
        again = await caller.ask(message)
        assert again == first
        assert outputs_in(again[0]) == expected
        assert service_pb2.ModelInferResponse.FromString(again[0][5:]).id == id
    assert taken.count(True) >= 16


async def test_ids_that_change(door, caller, taken):
    """Goal: the text around an answer belongs to its request; numbered requests are soon left alone."""
    with_templates(door.engine.models["addsub"])
    for seed, id in enumerate("aaaabbccacbaaadddddefghijkl"):
        message, expected = asking(seed, id=id)
        body, _ = await caller.ask(message)
        assert service_pb2.ModelInferResponse.FromString(body[5:]).id == id
        assert outputs_in(body) == expected
    assert True in taken
    assert False in taken
    connection = next(iter(door.server.connections.values()))
    assert connection.usual_left == 0


async def test_many_at_once_and_in_pieces(door, caller, taken):
    """Goal: usual calls one behind the other in a segment, or cut anywhere, are all answered."""
    with_templates(door.engine.models["addsub"])
    for _ in range(5):
        await caller.ask(asking(0)[0])
    size = len(caller.frames(asking(0)[0]))
    caller.last -= 2
    pieces = random.Random(1)
    for _ in range(20):
        first = caller.last + 2
        data = b"".join(caller.frames(asking(seed)[0]) for seed in range(4))
        cuts = sorted(pieces.randrange(4 * size) for _ in range(pieces.randrange(3)))
        for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
            await caller.client.send(data[start:stop])
            await trio.sleep(0.001)
        for seed in range(4):
            body, trailers = await caller.client.answer(first + 2 * seed)
            assert outputs_in(body) == asking(seed)[1]
            assert trailers["grpc-status"] == "0"
    assert taken.count(True) >= 40


async def test_closed_windows_hold_answers_back(door, caller, taken):
    """Goal: the peer's windows bind these answers too: of a stream, and of the connection."""
    with_templates(door.engine.models["addsub"])
    client = caller.client
    for _ in range(5):
        await caller.ask(asking(0)[0])
    await client.send(client.frame(client.SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
    await client.send(caller.frames(asking(1)[0]))
    assert (await client.wait_for(client.SETTINGS))[1] == 1
    await client.send(client.frame(client.PING, 0, 0, b"12345678"))
    kinds = []
    while (frame := await client.next_frame())[0] != client.PING:
        kinds.append(frame[0])
        if frame[0] == client.HEADERS:
            client.decoder.decode(frame[3])
    assert client.DATA not in kinds
    assert taken[-1]
    await client.send(client.frame(client.WINDOW_UPDATE, 0, caller.last, struct.pack(">I", 50)))
    await client.send(client.frame(client.WINDOW_UPDATE, 0, caller.last, struct.pack(">I", 5000)))
    body, trailers = await client.answer(caller.last)
    assert outputs_in(body) == asking(1)[1]
    assert trailers["grpc-status"] == "0"


async def test_the_connections_window_is_counted(door, caller, taken):
    """Goal: answers stop when 64 KiB are out, to the byte, and go on when the client lets them."""
    with_templates(door.engine.models["addsub"])
    client = caller.client
    sent = 0
    with trio.move_on_after(1):
        while True:
            body, _ = await caller.ask(asking(sent)[0])
            sent += len(body)
    assert sent <= 65_535 < sent + 2 * len(body)
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
    with trio.fail_after(2):
        for _ in range(300):
            await caller.ask(asking(1)[0])


async def test_a_reset_cancels(door, caller, taken):
    """Goal: as for any other call; the stream is gone and the next is served."""
    model = door.engine.models["held"]
    message = asking(0, model="held")[0]
    client = caller.client
    for _ in range(4):
        await client.send(caller.frames(message))
        await until(lambda: model.held)
        model.release()
        await client.answer(caller.last)
    await client.send(caller.frames(message))
    await until(lambda: model.held)
    assert taken[-1]
    await client.send(client.frame(client.RST, 0, caller.last, b"\0\0\0\x08"))
    await until(lambda: model.held[0].cancelled)
    connection = next(iter(door.server.connections.values()))
    assert not connection.calls
    model.held.clear()
    await client.send(caller.frames(message))
    await until(lambda: model.held)
    await client.stream.aclose()
    await until(lambda: model.held[0].cancelled)


async def test_deadlines(door, caller, taken):
    """Goal: the time that the head allows counts for each call anew."""
    model = door.engine.models["held"]
    message = asking(0, model="held")[0]
    for _ in range(4):
        with trio.fail_after(2):
            _, trailers = await caller.ask(message, grpc_timeout="20m")
        assert trailers["grpc-status"] == "4"
        model.held.clear()
    assert taken[-1]


async def test_faults(door, caller, taken):
    """Goal: a failing model and a model that is gone are told as on the long way."""
    message = asking(0, model="broken")[0]
    answers = [await caller.ask(message) for _ in range(5)]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][1]["grpc-message"] == "broken on purpose"
    assert taken[-1]
    del door.engine.models["broken"]
    door.engine.registry.changes += 1
    _, trailers = await caller.ask(message)
    assert trailers["grpc-status"] == "5"
    assert not taken[-1]


async def test_another_model_under_the_name_answers(door, caller, taken):
    """Goal: a reload counts from the next call on, and calls are usual again after it, however often."""
    for _ in range(8):
        for seed in range(4):
            message, expected = asking(seed)
            assert outputs_in((await caller.ask(message))[0]) == expected
        assert taken[-1]
        door.engine.models["addsub"] = type(door.engine.models["addsub"])("addsub")
        door.engine.registry.changes += 1


async def test_an_idle_connection_keeps_no_tensors(door, caller, taken):
    """Goal: what the last call brought is let go when its client pauses, and the next is usual all the same."""
    for seed in range(4):
        await caller.ask(asking(seed)[0])
    connection = next(iter(door.server.connections.values()))
    assert connection.usual._request.inputs
    sweep_connection(connection, connection.received_at + 1.5)
    assert not connection.usual._request.inputs
    assert outputs_in((await caller.ask(asking(5)[0]))[0]) == asking(5)[1]
    assert taken[-1]


async def test_a_block_that_means_something_else_now(door, caller, taken):
    """Goal: the same bytes of a header block after a change of the table are read anew."""
    client = caller.client
    for seed in range(4):
        await caller.ask(asking(seed)[0])
    assert taken[-1]
    for index in range(3):
        _, trailers = await caller.ask(asking(index)[0], x_new=f"value{index}")
        assert trailers["grpc-status"] == "0"
        assert not taken[-1]
    headers = client.frame(client.HEADERS, 5, caller.last + 2, client.block("/inference.GRPCInferenceService/Nothing"))
    await client.send(headers)
    assert (await client.answer(caller.last + 2))[1]["grpc-status"] == "12"


async def outcome(door, usual, change):
    """What the server sends after a few calls and then the frames of another that `change` has damaged."""
    caller = Caller(await door.connect())
    before = set(door.server.connections.values())
    for seed in range(4):
        await caller.ask(asking(seed)[0])
    connection = max(before, key=lambda each: each.opened_at)
    if usual:
        assert connection.usual is not None
    else:
        connection.usual, connection.usual_left = None, 0
    client = caller.client
    await client.send(change(caller.frames(asking(9)[0])) + client.frame(client.PING, 0, 0, b"87654321"))
    frames = []
    with trio.move_on_after(0.05):
        while (frame := await client.next_frame()) is not None and frame[0] != client.PING:
            frames.append(frame)
    await client.stream.aclose()
    await until(lambda: connection not in door.server.connections.values())
    return frames


async def test_damaged_frames_are_read_as_on_the_long_way(door, taken):
    """Goal: one wrong byte, anywhere, has the effect that it always has."""
    with_templates(door.engine.models["addsub"])
    dice = random.Random(7)
    size = len(asking(0)[0]) + 40
    for index in [*range(60), *dice.sample(range(60, size), 40)]:
        bits = dice.randrange(1, 256)

        def change(frames, index=index, bits=bits):
            damaged = bytearray(frames)
            damaged[min(index, len(damaged) - 1)] ^= bits
            return bytes(damaged)

        assert await outcome(door, True, change) == await outcome(door, False, change), (index, bits)
