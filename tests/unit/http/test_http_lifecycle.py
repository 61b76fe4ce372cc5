"""How connections end: clients that leave, half-closed clients, timeouts, slow readers, limits."""

import errno
import resource
import socket
from functools import partial

import pytest
import trio

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_a_half_closed_client_gets_its_answer(door, infer_bytes):
    """The request, the end of the stream, then the model answers: the reply arrives after an interim 100."""
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes())
    await client.stream.send_eof()
    await door.until(lambda: model.waiting)
    assert (await client.reply()).status == 100
    model.release()
    assert (await client.reply()).status == 200
    assert await client.ended() == b""
    assert not model.cancelled


async def test_a_half_closed_client_with_an_immediate_answer(door, infer_bytes):
    """Several requests and the end of the stream at once; HTTP/1.0 too."""
    client = await door.connect()
    await client.send(infer_bytes() + GET + infer_bytes())
    await client.stream.send_eof()
    replies = [await client.reply() for _ in range(3)]
    assert [reply.status for reply in replies if reply.status != 100] == [200, 200, 200]
    assert await client.ended() == b""
    client = await door.connect()
    await client.send(infer_bytes(version=b"1.0"))
    await client.stream.send_eof()
    assert (await client.reply()).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 50", b"Transfer-Encoding: chunked"])
async def test_a_request_cut_short_behind_others(door, infer_bytes, framing):
    """Pipelined requests are answered; the end of the stream amid the last one's body ends the connection at once."""
    client = await door.connect()
    cut = b"POST /v2/models/addsub/infer HTTP/1.1\r\n%b\r\n\r\n9\r\n{" % framing
    await client.send(infer_bytes() + infer_bytes() + cut)
    await client.stream.send_eof()
    with trio.fail_after(2):
        replies = [await client.reply() for _ in range(2)]
        assert [reply.status for reply in replies] == [200, 200]
        assert await client.ended() == b""
    await door.until(lambda: not door.listener.connections)


async def test_an_http_1_0_client_gets_no_interim_answer(door, infer_bytes):
    """Half-closed while its request is held: nothing but the answer arrives."""
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes(version=b"1.0"))
    await client.stream.send_eof()
    await door.until(lambda: model.waiting)
    await trio.sleep(0.02)
    model.release()
    assert (await client.ended()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("ahead", [b"", GET * 10])
async def test_a_client_that_leaves_cancels_its_request(door, infer_bytes, how, ahead):
    """While its job waits, the client closes or resets the connection: the job is cancelled at once."""
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes() + ahead)
    await door.until(lambda: model.waiting)
    if how == "close":
        await client.stream.aclose()
    else:
        client.reset()
    await door.until(lambda: model.cancelled)
    assert not door.listener.connections
    assert not model.waiting


async def test_a_client_that_left_is_noticed_behind_unread_bytes(open_door, infer_bytes):
    """The same when the client had sent so much ahead that it was no longer read."""
    door = await open_door(pipelined_bytes_max=1000)
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes())
    await door.until(lambda: model.waiting)
    for _ in range(3):
        await client.send(GET * 500)
        await trio.sleep(0.01)
    await client.stream.aclose()
    await door.until(lambda: model.cancelled)


@pytest.mark.parametrize(
    "part", [b"GET /v2", b"POST /v2/models/addsub/infer HTTP/1.1\r\nContent-Length: 200000\r\n\r\nab"]
)
async def test_a_request_cut_short_leaves_nothing(door, part):
    """The stream ends within head or body: no answer is owed."""
    client = await door.connect()
    await client.send(part)
    await door.until(lambda: door.listener.connections)
    await client.stream.send_eof()
    assert await client.ended() == b""
    assert not door.listener.connections


async def test_replies_after_the_client_left_go_nowhere(door):
    """A slow command goes on without its client, and its reply harms nobody."""
    door.engine.load_gate = trio.Event()
    client = await door.connect()
    await client.send(b"POST /v2/repository/models/m/load HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    await door.until(lambda: door.listener.connections)
    await trio.testing.wait_all_tasks_blocked()
    client.reset()
    await door.until(lambda: not door.listener.connections)
    door.engine.load_gate.set()
    await door.until(lambda: door.engine.commands)
    assert (await door.ask(GET)).status == 200


async def test_head_timeout_counts_from_the_first_byte(open_door, autojump_clock):
    """A head that dribbles in for ever is answered 408 after the timeout, not after its last byte."""
    door = await open_door(head_timeout=10)
    client = await door.connect()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def dribble():
            for byte in GET[:-1]:
                await client.send(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(dribble)
        reply = await client.reply()
        nursery.cancel_scope.cancel()
    assert reply.status == 408
    assert 10 <= trio.current_time() - started < 13


@pytest.mark.parametrize("framing", [b"Content-Length: 300000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n4\r\n"])
async def test_body_stall_timeout(open_door, autojump_clock, framing):
    """A body may take long, but not stand still."""
    door = await open_door(body_stall_timeout=30, body_rate_min=0)
    client = await door.connect()
    await client.send(b"POST /v2/models/identity/infer HTTP/1.1\r\n" + framing)
    for _ in range(3):
        await trio.sleep(20)
        await client.send(b"a")
    started = trio.current_time()
    reply = await client.reply()
    assert reply.status == 408
    assert 29 <= trio.current_time() - started < 33
    assert await client.ended() == b""


async def test_idle_timeout(open_door, autojump_clock):
    """New and kept-alive connections end quietly after the timeout."""
    door = await open_door(idle_timeout=60)
    fresh, used = await door.connect(), await door.connect()
    await trio.sleep(10)
    await used.ask(GET)
    assert await fresh.ended() == b""
    assert 60 <= trio.current_time() < 65
    assert await used.ended() == b""
    assert 70 <= trio.current_time() < 75


async def test_a_held_request_has_no_timeout_of_the_door(door, infer_bytes, autojump_clock):
    """How long a model may take is not the door's business."""
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes())
    await door.until(lambda: model.waiting)
    autojump_clock.autojump_threshold = 0  # nothing is on its way
    await trio.sleep(5_000)
    autojump_clock.autojump_threshold = 0.02
    model.release()
    assert (await client.reply()).status == 200


async def test_a_client_that_reads_nothing_is_let_go(open_door, autojump_clock):
    """40 MB of reply, of which the client takes none: the connection is reset and its buffers are free."""
    # The clock jumps whenever the kernel takes its time with the body: that is no stall.
    door = await open_door(write_stall_timeout=30, body_stall_timeout=1e6)
    client = await door.connect()
    size = 40_000_000
    head = (
        b"POST /v2/models/identity/infer HTTP/1.1\r\nInference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n"
    )
    await client.send(head % size + b"x" * size)
    await trio.sleep(20)
    assert door.listener.connections
    await trio.sleep(15)
    assert not door.listener.connections


async def test_a_slow_reader_is_served(open_door, autojump_clock):
    """A client that takes a little now and then gets the whole reply."""
    # The clock jumps whenever the kernel takes its time with the body: that is no stall.
    door = await open_door(write_stall_timeout=30, body_stall_timeout=1e6)
    client = await door.connect()
    size = 20_000_000
    head = (
        b"POST /v2/models/identity/infer HTTP/1.1\r\nInference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n"
    )
    await client.send(head % size + b"x" * size)
    count = 0
    while count < size:
        await trio.sleep(10)
        count += len(await client.stream.receive_some(1_000_000))
        for _ in range(5):
            count += len(await client.stream.receive_some(1_000_000))
    assert count > size


async def test_no_file_descriptors_left(door, monkeypatch):
    """accept fails with EMFILE: the loop does not spin, and lets the client in later."""
    passes = []
    accept = socket.socket.accept
    is_full = True

    def failing(sock):
        if is_full:
            passes.append(1)
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", failing)
    client = await door.connect()
    await client.send(GET)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    await trio.sleep(0.5)
    assert len(passes) <= 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 0.3
    is_full = False
    with trio.fail_after(3):
        assert (await client.reply()).status == 200


async def test_cancelling_the_server_cancels_its_requests(infer_bytes, open_door):
    """The task is cancelled: connections are closed, jobs cancelled."""
    door = await open_door()
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(infer_bytes())
    await door.until(lambda: model.waiting)
    door.scope.cancel()
    await door.until(lambda: model.cancelled)
    assert await client.ended() == b""


async def test_busy_clients_share_the_loop(door, infer_bytes):
    """Other tasks run while one client keeps the listener busy with pipelined requests."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    client = await door.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        nursery.start_soon(partial(client.send, infer_bytes() * 1000))
        for _ in range(1000):
            assert (await client.reply()).status == 200
        nursery.cancel_scope.cancel()
    assert turns >= 15
