"""A door whose connections are all taken: who makes room for whom, and who may come in all the same."""

import errno
import socket
import ssl

import pytest
import trio
import trustme
from despina.frontends.http import HttpSettings
from despina.frontends.tls import TlsSettings

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
META = b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n"
BODY = b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: h\r\n"
DRIPS = [
    b"GET /v2/hea",
    BODY + b"Content-Length: 300000\r\n\r\n123",
    BODY + b"Transfer-Encoding: chunked\r\n\r\n40\r\n123",
]


async def filled(open_door, part=b"", **limits):
    """A door of three places, and the clients that have taken them, each a second after the one before."""
    door = await open_door(connection_count_max=3, **limits)
    clients = []
    for count in range(3):
        clients.append(await door.connect())
        await clients[-1].send(part)
        await door.until(lambda count=count: len(door.listener.connections) == count + 1)
        await trio.sleep(1.1)
    return door, clients


async def is_open(client):
    """Whether the server has not ended the connection."""
    with trio.move_on_after(0.01):
        return await client.stream.receive_some() != b""
    return True


async def test_the_oldest_idle_connection_makes_room(open_door, autojump_clock):
    """One after the other, as new clients come; one that has been used since is younger."""
    door, clients = await filled(open_door)
    await clients[0].ask(META)
    await trio.sleep(1.5)
    for gone in ([1], [1, 2], [0, 1, 2]):
        assert (await door.ask(META)).status == 200
        assert [place for place in range(3) if not await is_open(clients[place])] == gone
    assert len(door.listener.connections) == 3


async def test_nobody_goes_before_somebody_has_come(open_door, autojump_clock):
    """A full door that nobody knocks at keeps its connections, and one client takes one place."""
    door, clients = await filled(open_door)
    await trio.sleep(30)
    assert len(door.listener.connections) == 3
    await door.ask(META)
    await trio.sleep(1)
    assert [await is_open(client) for client in clients] == [False, True, True]


@pytest.mark.parametrize("part", DRIPS)
async def test_the_slowest_request_makes_room_where_none_is_idle(open_door, autojump_clock, part):
    """Half a head or a body of three bytes in seconds: told so, and ended."""
    door, clients = await filled(open_door, part)
    assert (await door.ask(META)).status == 200
    assert (await clients[0].reply()).status == 408
    assert await clients[0].ended() == b""
    assert [await is_open(client) for client in clients[1:]] == [True, True]


async def test_an_upload_at_full_speed_keeps_its_place(open_door, autojump_clock):
    """A body that comes as fast as it should is no slow request."""
    door, clients = await filled(open_door, BODY + b"Content-Length: 300000\r\n\r\n" + b"1" * 2000)
    reply = await door.ask(META)
    assert reply.status == 503
    assert b"no connection left but for health probes" in reply.body
    assert all([await is_open(client) for client in clients])


async def busy(open_door, infer_bytes, **limits):
    """A door whose three connections wait for a model."""
    door, clients = await filled(open_door, **limits)
    model = door.engine.models["addsub"]
    model.is_held = True
    for client in clients:
        await client.send(infer_bytes())
    await door.until(lambda: len(model.waiting) == 3)
    return door, clients, model


async def test_probes_have_a_reserve(open_door, infer_bytes, autojump_clock):
    """Everybody is at work: questions for health are answered, one for each connection; others are refused, and do not
    keep the next one out while they linger."""
    door, clients, model = await busy(open_door, infer_bytes, probe_count_max=2)
    for path in (b"/v2/health/live", b"/v2/health/ready", b"/v2/models/addsub/ready"):
        client = await door.connect()
        reply = await client.ask(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path + LIVE)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.ended() == b""
    chunked = b"POST /v2/health/live HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for request in (META, infer_bytes(), b"HEAD /v2/health/live HTTP/1.1\r\n\r\n", chunked, b"PRI * HTTP/2.0\r\n\r\n"):
        client = await door.connect()
        await client.send(request)
        assert (await client.reply()).status == 503
        assert await client.ended() == b""
    assert (await door.ask(LIVE)).status == 200
    model.release()
    for client in clients:
        assert (await client.reply()).status == 200
    assert (await clients[0].ask(META)).status == 200


async def test_the_reserve_is_bounded_and_cannot_be_sat_upon(open_door, infer_bytes, autojump_clock):
    """Silent connections in the reserve make room for the next probe, and end after two seconds."""
    door, _, _ = await busy(open_door, infer_bytes, probe_count_max=2)
    silent = [await door.connect() for _ in range(6)]
    await door.until(lambda: len(door.listener.connections) == 5)
    assert (await door.ask(LIVE)).status == 200
    assert len(door.listener.connections) <= 5
    await trio.sleep(4)
    assert len(door.listener.connections) == 3
    for client in silent:
        assert await client.ended() == b""


async def test_without_a_reserve_new_clients_wait(open_door, infer_bytes, autojump_clock, caplog):
    """In the backlog, until somebody leaves; the log says so, and not once a second."""
    door, clients, model = await busy(open_door, infer_bytes, probe_count_max=0)
    client = await door.connect()
    await client.send(META)
    with trio.move_on_after(5) as waited:
        await client.reply()
    assert waited.cancelled_caught
    assert caplog.text.count("not accepting") + caplog.text.count("connections are open") == 1
    model.release()
    await clients[0].reply()
    await clients[0].stream.aclose()
    assert (await client.reply()).status == 200


async def test_a_full_table_of_descriptors_makes_room_too(open_door, autojump_clock, monkeypatch):
    """accept fails with EMFILE while connections are idle: the oldest goes."""
    door, clients = await filled(open_door)
    accept = socket.socket.accept

    def failing(sock):
        if len(door.listener.connections) >= 3:  # as the kernel does it, also where nobody knocks
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(sock)

    door.listener.settings = HttpSettings()  # the limit is not what stops it
    monkeypatch.setattr(socket.socket, "accept", failing)
    assert (await door.ask(META)).status == 200
    assert [await is_open(client) for client in clients] == [False, True, True]


@pytest.mark.parametrize("server", ["native", "hypercorn"])
@pytest.mark.parametrize("framing", [b"Content-Length: 300000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n8000\r\n"])
async def test_a_body_has_a_minimum_rate(open_door, autojump_clock, server, framing):
    """After the grace, on average: a dripping body gets 408, one at twice the rate goes on."""
    door = await open_door(server=server, body_stall_timeout=30, body_rate_min=100)
    slow, fast = await door.connect(), await door.connect()
    for client in (slow, fast):
        await client.send(BODY + framing)
    begin = trio.current_time()

    async def upload(client, size, scope):
        with scope:
            while True:
                await client.send(b"1" * size)
                await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        dripping = trio.CancelScope()
        nursery.start_soon(upload, slow, 1, dripping)
        nursery.start_soon(upload, fast, 2000, trio.CancelScope())
        reply = await slow.reply()
        dripping.cancel()
        assert reply.status == 408
        assert b"less than 100 bytes per second" in reply.body
        assert 30 <= trio.current_time() - begin <= 41
        await trio.sleep(60)
        assert await is_open(fast)
        nursery.cancel_scope.cancel()


async def test_handshakes_make_room(open_door, tmp_path, autojump_clock):
    """Clients that connect to a TLS door and say nothing."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    tls = TlsSettings(server_cert=str(tmp_path / "cert"), server_key=str(tmp_path / "key"))
    door = await open_door(connection_count_max=3, probe_count_max=0, head_timeout=60, tls=tls)
    silent = [await door.connect() for _ in range(3)]
    await door.until(lambda: door.listener._tls.count == 3)
    await trio.sleep(2)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    stream = trio.SSLStream(
        await trio.open_tcp_stream("127.0.0.1", door.port), context, server_hostname="127.0.0.1", https_compatible=True
    )
    await stream.send_all(META)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    assert [await is_open(client) for client in silent] == [False, True, True]


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_hypercorns_idle_connections_make_room(open_door, autojump_clock, server):
    """The oldest of those without a request ends for a new one, over HTTP/2 and HTTP/1.1."""
    door = await open_door(connection_count_max=2, server=server)
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    clients = []
    for _ in range(3):
        clients.append(await door.connect())
        await clients[-1].send(hello)
        assert await clients[-1].stream.receive_some()
        await trio.sleep(1.5)
    with trio.fail_after(5):
        await clients[0].ended()
    assert [await is_open(client) for client in clients[1:]] == [True, True]
