"""What a server does that is told to stop: everybody has an answer or an end, soon, and no write fails on the way."""

import pytest
import trio

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /v2/models/addsub/infer HTTP/1.1\r\nHost: h\r\n"
HALVES = [
    b"GET /v2/hea",
    POST + b"Content-Length: 200000\r\n\r\nab",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
]


async def test_drain_answers_what_is_in_flight(door, infer_bytes, autojump_clock):
    """32 requests held, one half received, 10 idle connections: idle ones end at once, the others are answered."""
    model = door.engine.models["addsub"]
    model.is_held = True
    idle = [await door.connect() for _ in range(10)]
    for client in idle:
        await client.ask(GET)
    busy = [await door.connect() for _ in range(32)]
    for client in busy:
        await client.send(infer_bytes())
    half = await door.connect()
    request = infer_bytes()
    await half.send(request[:100])
    await door.until(lambda: len(model.waiting) == 32 and len(door.listener.connections) == 43)
    late = await door.connect()
    await late.send(infer_bytes())  # knocked before the door closed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, trio.current_time() + 30)
        for client in idle:
            assert await client.ended() == b""
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", door.port)
        await trio.sleep(0.5)
        assert len(model.waiting) == 33
        await half.send(request[100:])
        await door.until(lambda: len(model.waiting) == 34)
        model.release()
        for client in [*busy, half, late]:
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.ended() == b""
    assert trio.current_time() < 10
    assert door.server.drained.is_set()


async def test_drain_ends_at_its_deadline(door, infer_bytes, autojump_clock):
    """A request that is never answered is cancelled, a connection half received is closed."""
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes())
    half = await door.connect()
    await half.send(b"GET /")
    await door.until(lambda: model.waiting and len(door.listener.connections) == 2)
    await door.server.drain(trio.current_time() + 3)
    assert 3 <= trio.current_time() < 5
    assert len(model.cancelled) == 1
    assert not door.listener.connections
    assert await client.ended() == b""


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_clients_are_told_before_the_door_closes(open_door, infer_bytes, server):
    """Announced, each answer is its connection's last, and new connections are let in and told, too;
    a stream that had begun keeps what its head has said."""
    door = await open_door(server=server)
    client = await door.connect()
    for _ in range(3):  # remembered by then
        assert "connection" not in (await client.ask(infer_bytes())).headers
    door.server.announce_end()
    for one in (client, await door.connect()):
        reply = await one.ask(infer_bytes())
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await one.ended() == b""
    door.server.announce_end()
    reply = await (await door.connect()).ask(GET)
    assert (reply.status, reply.headers["connection"]) == (200, "close")


@pytest.mark.parametrize(("pause", "is_answered"), [(0.8, True), (1.5, False)])
async def test_who_has_just_come_may_ask(door, infer_bytes, autojump_clock, pause, is_answered):
    """A client that was let in a moment before the door closed has a second for its first request."""
    client = await door.connect()
    await door.until(lambda: door.listener.connections)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, trio.current_time() + 30)
        await trio.sleep(pause)
        if is_answered:
            assert (await client.ask(infer_bytes())).status == 200
        else:
            assert await client.ended() == b""


async def test_stop_accepting_serves_on(door):
    """Open connections are served after the door is closed; twice is as good as once."""
    client = await door.connect()
    await client.ask(GET)
    door.server.stop_accepting()
    door.server.stop_accepting()
    assert (await client.ask(GET)).status == 200
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream("127.0.0.1", door.port)


@pytest.mark.parametrize("part", HALVES)
@pytest.mark.parametrize("grace", [1, 3])
async def test_half_a_request_has_one_grace(open_door, autojump_clock, part, grace):
    """Head or body: 503 and the end after the grace, though bytes go on to drip in, and the server has stopped."""
    door = await open_door(stop_grace=grace)
    client = await door.connect()
    await client.send(part)
    await door.until(lambda: door.listener.connections)
    await trio.sleep(5)
    begin = trio.current_time()

    async def drip():
        while True:
            await trio.sleep(0.1)
            await client.send(b"1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, begin + 30)
        nursery.start_soon(drip)
        reply = await client.reply()
        nursery.cancel_scope.cancel()
    assert (reply.status, reply.headers["connection"]) == (503, "close")
    assert b"the server is stopping" in reply.body
    assert grace <= trio.current_time() - begin < grace + 0.1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, begin + 30)
        await client.stream.send_eof()
        assert await client.ended() == b""
    assert trio.current_time() - begin < grace + 0.3


async def test_nobody_holds_the_server_who_only_lingers(door, autojump_clock):
    """Refused clients that send on and on are not waited for."""
    client = await door.connect()
    await client.send(b"BREW / HTTP/1.1\r\n\r\n")
    assert (await client.reply()).status == 400
    begin = trio.current_time()
    await door.server.drain(begin + 30)
    assert trio.current_time() - begin < 0.3


async def test_a_client_between_two_requests_is_answered(door, autojump_clock):
    """Who had an answer just now asks once more, and is told to close; who has been idle for longer is not waited
    for."""
    idle, busy, fresh = [await door.connect() for _ in range(3)]
    await idle.ask(GET)
    await trio.sleep(1)
    await busy.ask(GET)
    begin = trio.current_time()

    async def ask_again():
        assert await idle.ended() == b""
        assert trio.current_time() == begin
        await trio.sleep(0.1)
        reply = await busy.ask(GET)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await busy.ended() == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, begin + 30)
        nursery.start_soon(ask_again)
    assert trio.current_time() - begin < 0.3
    assert await fresh.ended() == b""


async def test_busy_clients_lose_nothing(door, infer_bytes):
    """Sixteen clients ask one request after the other while the server stops: each gets all its answers, the last with
    `Connection: close`, and no write fails."""
    counts = []

    async def ask_on():
        client = await door.connect()
        count = 0
        while True:
            reply = await client.ask(infer_bytes())
            assert reply.status == 200
            count += 1
            if reply.headers.get("connection") == "close":
                counts.append(count)
                return

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask_on)
        await door.until(lambda: len(door.listener.connections) == 16)
        await trio.sleep(0.1)
        with trio.fail_after(5):
            await door.server.drain(trio.current_time() + 30)
    assert len(counts) == 16
    assert min(counts) > 1


async def test_hypercorn_stops_too(open_door, infer_bytes, autojump_clock):
    """A held request is answered with `Connection: close`, half a body has its grace, a busy client is told to go."""
    door = await open_door(server="hypercorn")
    model = door.engine.models["addsub"]
    model.is_held = True
    held, half, busy = [await door.connect() for _ in range(3)]
    await held.send(infer_bytes())
    await half.send(HALVES[1])
    assert "connection" not in (await busy.ask(GET)).headers
    await door.until(lambda: model.waiting)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, begin + 30)
        await trio.sleep(0.1)
        assert (await busy.ask(GET)).headers["connection"] == "close"
        assert await busy.ended() == b""
        reply = await half.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert 1 <= trio.current_time() - begin < 1.2
        model.release()
        reply = await held.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert trio.current_time() - begin < 2
