"""HTTP over TLS: clients let in and turned away, bodies of every size, and ends that are told."""

import ssl
from functools import partial

import httpx
import numpy as np
import pytest
import trio
import tritonclient.http as triton
from despina.frontends import bulk
from despina.frontends.tls import BadCertificate, TlsSettings

from tests.certificates import Certificates

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates.write(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def tls_door(open_door, certificates):
    return await open_door(tls=certificates.settings())


async def secure(door, context):
    """A client's stream after its handshake."""
    plain = await trio.open_tcp_stream("127.0.0.1", door.port)
    stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return stream


@pytest.fixture
def connect(certificates):
    async def open_one(door, *protocols, who=""):
        stream = await secure(door, certificates.client_context(who, *protocols))
        kind = type(await door.connect())
        return kind(stream)

    return open_one


async def test_requests_on_one_connection(tls_door, connect, infer_bytes):
    """Goal: a connection serves request after request, pipelined ones too."""
    client = await connect(tls_door)
    with trio.fail_after(10):
        for _ in range(3):
            assert (await client.ask(LIVE)).status == 200
        await client.send(infer_bytes() * 5 + LIVE)
        for _ in range(6):
            assert (await client.reply()).status == 200


async def ask_for_sums(client, data, rows):
    """Sends a request of so many rows with another behind it; both answers must be right."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, data + LIVE)
            reply = await client.reply()
        assert reply.status == 200
        length = int(reply.headers["inference-header-content-length"])
        values = np.frombuffer(reply.body[length:], np.int32)
        assert (values[: rows * 16] == 2 * np.arange(rows * 16)).all()
        assert (values[rows * 16 :] == 0).all()
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("rows", [1, 2000, 100_000])
async def test_bodies_of_every_size(tls_door, connect, infer_bytes, rows):
    """Goal: bodies below and above a record, and of 12 MB, arrive whole both ways, with a request right behind."""
    client = await connect(tls_door)
    tls_door.engine.models["addsub"].config.max_batch_size = rows
    await ask_for_sums(client, infer_bytes(rows=rows), rows)


async def test_a_turn_that_ends_amid_a_record(tls_door, connect, infer_bytes, monkeypatch):
    """Goal: what the record holds beyond it is the body's still. Method: turns of an odd number of bytes."""
    monkeypatch.setattr(bulk, "PASS_BYTES", 100_003)
    rows = 10_000
    client = await connect(tls_door)
    tls_door.engine.models["addsub"].config.max_batch_size = rows
    await ask_for_sums(client, infer_bytes(rows=rows), rows)


async def test_close_is_told(tls_door, connect):
    """Goal: after `Connection: close` the end comes as TLS says it, not as a cut."""
    client = await connect(tls_door)
    with trio.fail_after(5):
        await client.ask(LIVE.replace(b"Host: h", b"Host: h\r\nConnection: close"))
        assert await client.stream.receive_some() == b""


async def test_not_tls_is_turned_away(tls_door):
    """Goal: plain HTTP, and noise, on a TLS port ends the connection, never hangs it; others are served on."""
    for noise in (LIVE, b"\0" * 100, b"\x16\x03\x01\x40\x00" + b"x" * 100):
        client = await tls_door.connect()
        await client.send(noise)
        with trio.fail_after(5):
            if noise[:1] == b"\x16":
                await client.stream.send_eof()
            await client.ended()


async def test_slow_handshake_is_given_up(open_door, certificates):
    """Goal: a client that says nothing, or half a greeting, is closed after the head's timeout."""
    door = await open_door(tls=certificates.settings(), head_timeout=0.1)
    for beginning in (b"", b"\x16\x03\x01\x02\x00\x01"):
        client = await door.connect()
        if beginning:
            await client.send(beginning)
        with trio.fail_after(5):
            assert await client.ended() == b""


async def test_mutual(open_door, certificates, connect):
    """Goal: with mutual TLS only a client with a certificate of the right authority gets an answer."""
    door = await open_door(tls=certificates.settings(mutual=True))
    assert (await ask_live(connect, door, "client")).status == 200
    for who in ("", "stranger"):
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
            await ask_live(connect, door, who)


async def ask_live(connect, door, who):
    """In TLS 1.3 a client learns that it is turned away when it reads."""
    client = await connect(door, who=who)
    return await client.ask(LIVE)


async def test_drain_gives_up_handshakes_and_answers_requests(tls_door, connect, infer_bytes):
    """Goal: draining waits for the request in flight, not for somebody who never shook hands."""
    await tls_door.connect()
    client = await connect(tls_door)
    model = tls_door.engine.models["addsub"]
    model.is_held = True
    await client.send(infer_bytes())
    await tls_door.until(lambda: model.waiting)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls_door.server.drain, trio.current_time() + 60)
            await tls_door.until(lambda: tls_door.listener.draining)
            model.release()
            reply = await client.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("server", ["native", "hypercorn"])
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_negotiated_protocols(open_door, certificates, server, protocol):
    """Goal: ALPN lets a client choose HTTP/2 or HTTP/1.1, on both servers; both answer through the real clients."""
    door = await open_door(tls=certificates.settings(), server=server)

    async def ask():
        context = certificates.client_context()
        async with httpx.AsyncClient(verify=context, http2=protocol == "h2", trust_env=False) as client:
            return await client.get(f"https://localhost:{door.port}/v2")

    with trio.fail_after(10):
        answer = await ask()
    assert answer.status_code == 200
    assert answer.http_version == {"h2": "HTTP/2", "http/1.1": "HTTP/1.1"}[protocol]


async def test_triton_client(tls_door, certificates):
    """Goal: tritonclient with ssl=True, in both directions with compression."""

    def work():
        client = triton.InferenceServerClient(
            f"localhost:{tls_door.port}",
            ssl=True,
            ssl_context_factory=partial(certificates.client_context),
        )
        inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for one in inputs:
            one.set_data_from_numpy(np.ones((1, 16), np.int32))
        result = client.infer(
            "addsub", inputs, request_compression_algorithm="gzip", response_compression_algorithm="deflate"
        )
        client.close()
        return result.as_numpy("OUTPUT0")

    with trio.fail_after(20):
        assert (await trio.to_thread.run_sync(work) == 2).all()


def test_bad_files_are_named(certificates, tmp_path):
    """Goal: a missing file, no PEM, and a key of another certificate are complaints that name the file."""
    (tmp_path / "no.pem").write_text("nothing")
    for cert, key, root in (
        ("server.pem", str(tmp_path / "missing"), ""),
        ("server.pem", "client.key", ""),
        ("server.pem", "server.key", str(tmp_path / "no.pem")),
    ):
        settings = TlsSettings(
            server_cert=certificates.path(cert), server_key=certificates.path(key), root_cert=root, mutual=bool(root)
        )
        with pytest.raises(BadCertificate, match="cannot use"):
            settings.open_context(())


def test_old_versions_are_refused(certificates):
    """Goal: nothing below TLS 1.2."""
    assert certificates.settings().open_context(("h2",)).minimum_version == ssl.TLSVersion.TLSv1_2
