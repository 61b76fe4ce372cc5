"""Large messages are moved by the door's carrier; meanwhile its loop serves others, and closes nothing."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from despina.frontends.carrier import CARRIED_FROM

from tests.carrying import held_moves, refuse_thread
from tests.unit.grpc.test_grpc_http2 import INFER, LIVE, request, until

SIZE = 4 * CARRIED_FROM
WINDOW = 2**31 - 1 - 65_535
FRAME = 1 << 20


@pytest.fixture
def held(monkeypatch, door):
    """Moves of that door wait in this list until somebody does them: the carrier is busy."""
    return held_moves(monkeypatch, door.server.carrier)


def large(client):
    """The frames of a call with a large message, and of windows that let its answer out, in large frames."""
    settings = client.frame(client.SETTINGS, 0, 0, b"\0\4" + (2**31 - 1).to_bytes(4, "big") + b"\0\5\0\x10\0\0")
    window = client.frame(client.WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4, "big"))
    message = client.message(request("identity", SIZE))
    frames = [settings + window + client.frame(client.HEADERS, 4, 1, client.block(INFER))]
    for at in range(0, len(message), FRAME):
        piece = message[at : at + FRAME]
        frames.append(client.frame(client.DATA, int(at + FRAME >= len(message)), 1, piece))
    return frames


async def assert_live(client, stream_id):
    await client.send(client.call(stream_id, LIVE))
    _, trailers = await client.answer(stream_id)
    assert trailers["grpc-status"] == "0"


async def test_small_calls_are_answered_while_a_large_message_is_moved(door, held, nursery) -> None:
    """Goal: neither receiving nor sending holds the loop up. Method: the carrier does nothing until it is told to."""
    client, other = await door.connect(), await door.connect()
    nursery.start_soon(client.send, b"".join(large(client)))
    answers = []

    async def answer() -> None:
        answers.append(await client.answer(1))

    nursery.start_soon(answer)
    ids = iter(range(1, 10_000, 2))
    moves = 0
    with trio.fail_after(60):
        while not answers:
            if held:
                await assert_live(other, next(ids))
                moves += 1
                held.pop(0)()
            await trio.sleep(0.001)
    data, trailers = answers[0]
    assert trailers["grpc-status"] == "0"
    assert len(data) > SIZE
    assert moves > 4
    await assert_live(client, 3)


async def test_a_call_that_ends_meanwhile(door, held, nursery) -> None:
    """Goal: what still comes of a message that nobody wants is read and dropped, and the next call is found behind it.
    Method: the call ends, as by its deadline, amid a frame."""
    client = await door.connect()
    whole = b"".join(large(client)[:2])
    await client.send(whole[:200_000])
    await until(lambda: held)
    (connection,) = door.server.connections.values()
    (call,) = connection.calls.values()
    call.refuse(4, "Deadline Exceeded")
    nursery.start_soon(client.send, whole[200_000:] + client.call(3, LIVE))
    held.pop(0)()
    with trio.fail_after(60):
        _, trailers = await client.answer(3)
    assert trailers["grpc-status"] == "0"
    assert not held


async def test_the_socket_stays_open_as_long_as_the_carrier_has_it(door, held) -> None:
    """Goal: a client that leaves meanwhile is forgotten at once, and its descriptor is nobody else's before the move is
    over."""
    client = await door.connect()
    await client.send(b"".join(large(client))[:200_000])
    await until(lambda: held)
    (connection,) = door.server.connections.values()
    client.stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
    await client.stream.aclose()
    await until(lambda: not door.server.connections)
    assert connection.sock.fileno() == connection.fd
    held.pop()()
    await until(lambda: connection.sock.fileno() == -1)
    await assert_live(await door.connect(), 1)


@pytest.mark.interpreted
@pytest.mark.parametrize("is_moved", [False, True], ids=["at rest", "while the carrier has its socket"])
async def test_a_closed_connection_is_free_at_once(door, held, is_moved) -> None:
    """Goal: what a connection held, large messages among it, does not wait for the interpreter to look for cycles."""
    client = await door.connect()
    if is_moved:
        await client.send(b"".join(large(client))[:200_000])
        await until(lambda: held)
    else:
        await assert_live(client, 1)
    (connection,) = door.server.connections.values()
    gone = weakref.ref(connection)
    gc.collect()
    gc.disable()
    try:
        connection.close()
        del connection
        if is_moved:
            held.pop()()
        with trio.fail_after(60):
            await until(lambda: gone() is None)
    finally:
        gc.enable()


@pytest.mark.interpreted
async def test_a_connection_that_lingers_watches_for_no_room(door, held, nursery) -> None:
    """Goal: it has nothing to send any more, and a socket whose sending side is closed always has room: the loop would
    go round and round. Method: the client breaks a rule while the carrier sends its answer."""
    client = await door.connect()
    nursery.start_soon(client.send, b"".join(large(client)))
    (connection,) = door.server.connections.values()
    with trio.fail_after(60):
        while not connection.carried.sends:
            if held:
                held.pop(0)()
            await trio.sleep(0.001)
    door.server.linger_s = 60.0
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, bytes(4)))
    await until(lambda: not connection.is_open)
    watched = []
    watch = door.server.watch
    door.server.watch = lambda *one, **wanted: watched.append(wanted["writable"]) or watch(*one, **wanted)
    held.pop(0)()
    await until(lambda: not connection.carried.sends)
    assert not any(watched)
    assert not connection.is_closed


async def test_no_room_for_the_carriers_thread(door, monkeypatch) -> None:
    """Goal: the connection ends, its socket is closed, and large messages are taken again once there is room."""
    refuse_thread(monkeypatch, "carrier")
    client = await door.connect()
    (connection,) = door.server.connections.values()
    await client.send(b"".join(large(client))[:200_000])
    with trio.fail_after(60):
        await until(lambda: not door.server.connections)
    assert connection.sock.fileno() == -1
    monkeypatch.undo()
    client = await door.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"".join(large(client)))
        with trio.fail_after(60):
            _, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
