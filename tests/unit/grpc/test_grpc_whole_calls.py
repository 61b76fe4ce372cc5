"""Calls that are taken whole, head and message at once: the answers are those of calls that come frame by frame."""

import logging
import random
import struct

import attrs
import pytest
import trio
import trio.testing
from tritonclient.grpc import service_pb2

from tests.repeated_calls import INFER, asking, frame_by_frame, outputs_in, with_templates


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

    def as_grpcs_own(self, message, grown=5):
        """The frames of a call as clients on gRPC's C core write them."""
        client = self.client
        frames = self.frames(message)
        stop = 9 + int.from_bytes(frames[:3], "big")
        of_stream = client.frame(client.WINDOW_UPDATE, 0, self.last, struct.pack(">I", grown))
        of_connection = client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", len(message)))
        return frames[:stop] + of_stream + frames[stop:] + of_connection

    async def ask(self, message, **extra):
        await self.client.send(self.frames(message, **extra))
        return await self.client.answer(self.last)


@pytest.fixture
async def caller(door):
    return Caller(await door.connect())


@pytest.mark.parametrize("by_form", [False, True])
@pytest.mark.parametrize("id", ["", "abc"])
async def test_answers_are_those_of_the_long_way(door, caller, taken, monkeypatch, by_form, id):
    """Goal: the same messages and trailers, whether or not the model tells the form of its answers."""
    if by_form:
        with_templates(door.engine.models["addsub"])
    whole = [await caller.ask(asking(seed, id=id)[0]) for seed in range(20)]
    assert taken == [True] * 20
    frame_by_frame(monkeypatch)
    for seed, answer in enumerate(whole):
        message, expected = asking(seed, id=id)
        assert await caller.ask(message) == answer
        assert outputs_in(answer[0]) == expected
        assert service_pb2.ModelInferResponse.FromString(answer[0][5:]).id == id
    assert len(taken) == 20


async def test_ids_that_change(door, caller, taken):
    """Goal: the text around an answer belongs to its request."""
    with_templates(door.engine.models["addsub"])
    for seed, id in enumerate("aaaabbccacbaaadddddefghijkl" + "mmnnooppqqrrssttuuvvwwxxyyzz"):
        message, expected = asking(seed, id=id)
        body, _ = await caller.ask(message)
        assert service_pb2.ModelInferResponse.FromString(body[5:]).id == id
        assert outputs_in(body) == expected
    assert all(taken)


async def test_calls_are_traced_from_when_tracing_begins(door, caller, taken):
    """Goal: the next call is sampled, on a connection that has had others before."""
    tracer = door.engine.tracer
    for seed in range(5):
        await caller.ask(asking(seed)[0])
    tracer.settings = attrs.evolve(tracer.settings, file="somewhere")
    tracer.change({"level": ("TIMESTAMPS",), "rate": 1000})
    for seed in range(4):
        assert outputs_in((await caller.ask(asking(seed)[0]))[0]) == asking(seed)[1]
    assert tracer._global.seen == 4
    assert all(taken)


async def test_every_call_is_in_a_verbose_log(door, caller, taken, caplog):
    """Goal: none is taken past the log."""
    for seed in range(5):
        await caller.ask(asking(seed)[0])
    caplog.set_level(logging.DEBUG, "despina.grpc")
    count = len(taken)
    for seed in range(3):
        await caller.ask(asking(seed)[0])
    assert taken[count:] == [False] * 3
    assert sum("gRPC request" in record.message for record in caplog.records) == 3
    caplog.set_level(logging.INFO, "despina.grpc")
    for seed in range(3):
        await caller.ask(asking(seed)[0])
    assert taken[-1]


async def test_a_connection_that_ends_takes_no_more(door, caller, taken):
    """Goal: behind a GOAWAY no call is taken, however complete; what is in flight is answered."""
    model = door.engine.models["held"]
    message = asking(0, model="held")[0]
    for _ in range(4):
        await caller.client.send(caller.frames(message))
        await until(lambda: model.held)
        model.release()
        await caller.client.answer(caller.last)
    await caller.client.send(caller.frames(message))
    await until(lambda: model.held)
    assert taken[-1]
    (connection,) = door.server.connections.values()
    connection.go_away()
    await caller.client.send(caller.frames(message) + caller.client.frame(caller.client.PING, 0, 0, b"87654321"))
    await caller.client.wait_for(caller.client.PING)
    assert len(model.held) == 1
    model.release()
    assert (await caller.client.answer(caller.last - 2))[1]["grpc-status"] == "0"


async def test_many_at_once_and_in_pieces(door, caller, taken):
    """Goal: calls one behind the other in a segment, or cut anywhere, are all answered."""
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


@pytest.mark.parametrize("frame_bytes", [16_384, 1 << 24])
async def test_answers_of_any_size(door, caller, frame_bytes):
    """Goal: answers that are joined, leave in parts, or take turns, come whole in frames as large as the client takes
    them; so do those of many calls that are read late, which the kernel takes bit by bit."""
    client = caller.client
    big = (1 << 31) - 1
    await client.send(client.frame(client.SETTINGS, 0, 0, struct.pack(">HIHI", 4, big, 5, (1 << 24) - 1)))
    if frame_bytes < 1 << 24:
        await client.send(client.frame(client.SETTINGS, 0, 0, struct.pack(">HI", 5, frame_bytes)))
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", big - 65_535)))
    many = (1, 100, 250, 1000, 1100, 3000)
    for rows in many:
        message, expected = asking(rows, rows=rows)
        assert outputs_in((await caller.ask(message))[0]) == expected
    first = caller.last + 2
    for rows in many * 4:
        await client.send(caller.frames(asking(rows, rows=rows)[0]))
    await trio.testing.wait_all_tasks_blocked(0.05)
    for index, rows in enumerate(many * 4):
        body, trailers = await client.answer(first + 2 * index)
        assert outputs_in(body) == asking(rows, rows=rows)[1]
        assert trailers["grpc-status"] == "0"


async def test_the_connections_window_is_counted(door, caller, taken):
    """Goal: answers stop when 64 KiB are out, to the byte, and go on when the client lets them."""
    with_templates(door.engine.models["addsub"])
    client = caller.client
    sent = 0
    is_shut = False
    while not is_shut:
        with trio.move_on_after(1) as waiting:
            body, _ = await caller.ask(asking(sent)[0])
            sent += len(body)
        is_shut = waiting.cancelled_caught
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
    await until(lambda: model.held[0].is_cancelled())
    connection = next(iter(door.server.connections.values()))
    assert not connection.calls
    model.held.clear()
    await client.send(caller.frames(message))
    await until(lambda: model.held)
    await client.stream.aclose()
    await until(lambda: model.held[0].is_cancelled())


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
    _, trailers = await caller.ask(message)
    assert trailers["grpc-status"] == "5"


async def test_another_model_under_the_name_answers(door, caller, taken):
    """Goal: a reload counts from the next call on, however often."""
    for _ in range(8):
        for seed in range(4):
            message, expected = asking(seed)
            assert outputs_in((await caller.ask(message))[0]) == expected
        assert taken[-1]
        door.engine.models["addsub"] = type(door.engine.models["addsub"])("addsub")


async def test_a_block_that_means_something_else_now(door, caller, taken):
    """Goal: the same bytes of a header block after a change of the table are read anew."""
    client = caller.client
    for seed in range(4):
        await caller.ask(asking(seed)[0])
    assert taken[-1]
    for index in range(3):
        _, trailers = await caller.ask(asking(index)[0], x_new=f"value{index}")
        assert trailers["grpc-status"] == "0"
    headers = client.frame(client.HEADERS, 5, caller.last + 2, client.block("/inference.GRPCInferenceService/Nothing"))
    await client.send(headers)
    assert (await client.answer(caller.last + 2))[1]["grpc-status"] == "12"


async def test_calls_as_grpcs_own_clients_write_them(door, caller, taken):
    """Goal: a WINDOW_UPDATE between head and message is taken with them, and counts: an answer that is larger than the
    stream's window by as much leaves at once; with one that is not allowed the call is reset, as it always is."""
    client = caller.client
    message, expected = asking(1)
    size = len((await caller.ask(message))[0])
    await client.send(client.frame(client.SETTINGS, 0, 0, struct.pack(">HI", 4, size - 5)))
    for _ in range(3):
        await client.send(caller.as_grpcs_own(message))
        body, trailers = await client.answer(caller.last)
        assert outputs_in(body) == expected
        assert trailers["grpc-status"] == "0"
    assert taken == [True] * 4
    for grown in (0, 2**31 - 1):
        await client.send(caller.as_grpcs_own(message, grown))
        await client.wait_for(client.RST, caller.last)
    assert taken == [True] * 4


async def outcome(door, change, kind=Caller.frames):
    """What the server sends after a few calls and then the frames of another that `change` has damaged."""
    caller = Caller(await door.connect())
    before = set(door.server.connections.values())
    for seed in range(4):
        await caller.ask(asking(seed)[0])
    connection = max(before, key=lambda each: each.opened_at)
    client = caller.client
    await client.send(change(kind(caller, asking(9)[0])) + client.frame(client.PING, 0, 0, b"87654321"))
    frames = []
    with trio.move_on_after(0.05):
        while (frame := await client.next_frame()) is not None and frame[0] != client.PING:
            frames.append(frame)
    await client.stream.aclose()
    await until(lambda: connection not in door.server.connections.values())
    return frames


@pytest.mark.parametrize("kind", [Caller.frames, Caller.as_grpcs_own])
async def test_damaged_frames_are_read_as_on_the_long_way(door, taken, monkeypatch, kind):
    """Goal: one wrong byte, anywhere, has the effect that it always has."""
    with_templates(door.engine.models["addsub"])
    dice = random.Random(7)
    size = len(asking(0)[0]) + 40
    changes = [(index, dice.randrange(1, 256)) for index in [*range(60), *dice.sample(range(60, size), 40)]]

    def damaging(index, bits):
        def change(frames):
            damaged = bytearray(frames)
            damaged[min(index, len(damaged) - 1)] ^= bits
            return bytes(damaged)

        return change

    whole = [await outcome(door, damaging(*each), kind) for each in changes]
    assert taken.count(True) > 4 * len(changes)
    assert False in taken
    frame_by_frame(monkeypatch)
    for each, found in zip(changes, whole, strict=True):
        assert await outcome(door, damaging(*each), kind) == found, each


@pytest.mark.interpreted
async def test_a_call_that_is_alone_is_told_so(door, caller, monkeypatch):
    """Goal: what comes alone waits for nobody; what shares its segment with others, or comes in pieces, may wait."""
    told = []

    def begin_pass(*, is_alone=False):
        told.append(is_alone)

    monkeypatch.setattr(door.server.inline, "begin_pass", begin_pass)
    await caller.ask(asking(0)[0])
    for seed in range(3):
        told.clear()
        await caller.ask(asking(seed)[0])
        assert True in told
    told.clear()
    await caller.client.send(caller.as_grpcs_own(asking(1)[0]))
    await caller.client.answer(caller.last)
    assert True in told
    both = caller.frames(asking(1)[0]) + caller.frames(asking(2)[0])
    told.clear()
    await caller.client.send(both)
    await caller.client.answer(caller.last)
    frames = caller.frames(asking(3)[0])
    await caller.client.send(frames[:-10])
    await trio.testing.wait_all_tasks_blocked(0.01)
    await caller.client.send(frames[-10:])
    await caller.client.answer(caller.last)
    assert told
    assert True not in told
