"""Large bodies and replies are moved by the door's carrier; meanwhile its loop serves others, and closes nothing."""

import pytest
import trio
from despina.frontends.carrier import CARRIED_FROM

from tests.carrying import held_moves, refuse_thread

SIZE = 4 * CARRIED_FROM
LIVE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"


def identity(size):
    lengths = b"Inference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % size
    return b"POST /v2/models/identity/infer HTTP/1.1\r\n" + lengths + bytes(size)


@pytest.fixture
def held(monkeypatch, door):
    """Moves of that door wait in this list until somebody does them: the carrier is busy."""
    return held_moves(monkeypatch, door.listener.carrier)


async def test_small_requests_are_answered_while_a_large_body_is_moved(door, held, nursery):
    """Goal: neither receiving nor sending holds the loop up. Method: the carrier does nothing until it is told to."""
    client = await door.connect()
    nursery.start_soon(client.send, identity(SIZE))
    await door.until(lambda: held)
    assert (await door.ask(LIVE)).status == 200
    moves = 0
    with trio.fail_after(30):
        async with trio.open_nursery() as inner:
            replies = []

            async def reply():
                replies.append(await client.reply())

            inner.start_soon(reply)
            while not replies:
                if held:
                    assert (await door.ask(LIVE)).status == 200
                    moves += 1
                    held.pop(0)()
                await trio.sleep(0.001)
    assert len(replies[0].body) > SIZE
    assert moves >= 2
    assert (await client.ask(LIVE)).status == 200


async def test_small_bodies_are_not_handed_over(door, held):
    """Goal: what the loop moves itself in less than a millisecond it does move itself."""
    client = await door.connect()
    assert len((await client.ask(identity(CARRIED_FROM - 1000))).body) > CARRIED_FROM - 1000
    assert not held


async def test_the_socket_stays_open_as_long_as_the_carrier_has_it(door, held, nursery):
    """Goal: a client that leaves meanwhile is forgotten at once, and its descriptor is nobody else's before the move is
    over."""
    client = await door.connect()
    await client.send(identity(SIZE)[:100_000])
    await door.until(lambda: held)
    (connection,) = door.listener.connections.values()
    client.reset()
    await door.until(lambda: not door.listener.connections)
    assert connection.sock.fileno() == connection.fd
    held.pop()()
    await door.until(lambda: connection.sock.fileno() == -1)
    assert (await door.ask(LIVE)).status == 200


async def test_a_body_that_stalls_is_refused_while_it_is_moved(open_door, monkeypatch):
    """Goal: limits hold for who is with the carrier; what comes back later is not taken for a body any more."""
    door = await open_door(body_stall_timeout=0.2)
    moves = []
    carrier = door.listener.carrier
    ask = carrier._ask
    monkeypatch.setattr(carrier, "_ask", lambda *move: moves.append(move))
    client = await door.connect()
    await client.send(identity(SIZE)[:100_000])
    with trio.fail_after(15):
        assert (await client.reply()).status == 408
    for move in moves:
        ask(*move)
    await client.send(bytes(1000))
    with trio.fail_after(15):
        await client.ended()
    await door.until(lambda: not door.listener.connections)


async def test_a_door_that_is_ended_closes_what_the_carrier_has(door, held):
    """Goal: no descriptor is left behind."""
    client = await door.connect()
    await client.send(identity(SIZE)[:100_000])
    await door.until(lambda: held)
    (connection,) = door.listener.connections.values()
    held.pop()()
    door.scope.cancel()
    await door.until(lambda: connection.sock.fileno() == -1)


async def test_no_room_for_the_carriers_thread(door, monkeypatch):
    """Goal: the client is told, its socket is closed, and large bodies are taken again once there is room."""
    refuse_thread(monkeypatch, "carrier")
    client = await door.connect()
    await client.send(identity(SIZE)[:100_000])
    with trio.fail_after(30):
        assert (await client.reply()).status == 500
    (connection,) = door.listener.connections.values()
    client.reset()
    await door.until(lambda: not door.listener.connections)
    assert connection.sock.fileno() == -1
    monkeypatch.undo()
    with trio.fail_after(30):
        assert len((await door.ask(identity(SIZE))).body) > SIZE
