"""Clients that ask and do not take their answers, or take them late."""

import socket

import pytest
import trio

from tests.certificates import Certificates


def identity(size):
    return (
        b"POST /v2/models/identity/infer HTTP/1.1\r\nInference-Header-Content-Length: 0\r\n"
        b"Content-Length: %d\r\n\r\n" % size + bytes(size)
    )


async def narrow(door, context=None):
    """A client for which the kernel keeps little, and the server's side of it."""
    client = await door.connect()
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    if context is not None:
        client.stream = trio.SSLStream(client.stream, context, server_hostname="localhost", https_compatible=True)
        await client.stream.do_handshake()
    await door.until(lambda: door.listener.connections)
    (connection,) = door.listener.connections.values()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    return client, connection


async def flood(client, connection, data):
    """Sends `data` again and again until the server takes no more of it. What waits for the client then."""
    with trio.move_on_after(20):
        while True:
            with trio.move_on_after(0.2) as patience:
                await client.send(data)
            if patience.cancelled_caught:
                break
    return connection.unsent_bytes


@pytest.mark.parametrize("count", [1, 7])
async def test_answers_that_nobody_takes_do_not_pile_up(open_door, count):
    """Goal: a client that asks and asks and takes nothing is not read any more, and then its time is up."""
    door = await open_door(write_stall_timeout=0.5, pipelined_bytes_max=100_000)
    client, connection = await narrow(door)
    assert await flood(client, connection, identity(60_000) * count) < 300_000
    await door.until(lambda: not door.listener.connections)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_whoever_takes_late_gets_everything(open_door, tmp_path, encrypted):
    """Goal: answers that had to wait for the client come whole and in order, and more requests are read after them."""
    certificates = Certificates.write(tmp_path) if encrypted else None
    tls = {"tls": certificates.settings()} if certificates else {}
    door = await open_door(pipelined_bytes_max=100_000, **tls)
    client, connection = await narrow(door, certificates and certificates.client_context(""))
    count = 60
    async with trio.open_nursery() as nursery:

        async def ask():
            for index in range(count):
                await client.send(identity(60_000 + index))
            if not encrypted:
                await client.stream.send_eof()

        nursery.start_soon(ask)
        await door.until(lambda: connection.unsent_bytes > 100_000)
        with trio.fail_after(10):
            for index in range(count):
                assert f'"shape":[{60_000 + index}]' in (await client.reply()).body[:300].decode("latin-1")
            assert (await client.ask(identity(10))).status == 200 if encrypted else await client.ended() == b""


@pytest.mark.parametrize("count", [1, 2])
async def test_a_draining_server_waits_for_a_slow_reader_and_no_longer(open_door, count):
    """Goal: answers that were given before, and are being taken, come whole; then the connection ends."""
    door = await open_door(linger_timeout=0.1)
    client, connection = await narrow(door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, identity(1_000_000) * count)
        await door.until(lambda: connection.unsent_bytes)
        nursery.start_soon(door.listener.drain, trio.current_time() + 60)
        await trio.lowlevel.checkpoint()
        with trio.fail_after(3):
            for _ in range(count):
                assert (await client.reply()).status == 200
            assert await client.ended() == b""
