"""TLS and mutual TLS on both doors of the real process, as the four real clients and bare sockets meet them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import queue
import ssl
import time
import warnings

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
import trustme
from tritonclient.utils import InferenceServerException

from tests.certificates import Certificates
from tests.conformance.napping import nap, nap_request, occupy, until_waiting
from tests.conformance.processes import command, serving, started
from tests.conformance.servers import reference_script, running_reference
from tests.conformance.wire import READY, WAIT_S, connect, read_to_end, wire_models

KINDS = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
REFUSED = (InferenceServerException, OSError, http.client.HTTPException)
"""What clients raise without a connection; aiohttp's errors of connections are OSErrors, gevent's too."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Of the servers, of one client, and of a client that nobody knows."""
    return Certificates.write(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """simple, identity_any, nap and count."""
    return wire_models(tmp_path_factory.mktemp("tls"))


def options(certificates, *doors, mutual=False):
    """The command line's part on TLS. Mutual TLS needs no word that it is TLS."""
    made = []
    for door in doors:
        made += [f"--{door}-server-cert={certificates.path('server.pem')}"]
        made += [f"--{door}-server-key={certificates.path('server.key')}"]
        made += [f"--{door}-root-cert={certificates.path('root.pem')}"]
        made += [f"--{door}-use-ssl-mutual=true" if mutual else f"--{door}-use-ssl=true"]
    return made


@pytest.fixture(scope="module")
def secure(certificates, models, tmp_path_factory):
    """A server with TLS on both doors."""
    with serving(models, tmp_path_factory.mktemp("secure") / "log", *options(certificates, "http", "grpc")) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(certificates, models, tmp_path_factory):
    """A server with mutual TLS on both doors."""
    made = options(certificates, "http", "grpc", mutual=True)
    with serving(models, tmp_path_factory.mktemp("mutual") / "log", *made) as server:
        yield server


class Waiting:
    """An asyncio client whose calls return when they are done."""

    def __init__(self, runner, client):
        self._runner, self._client = runner, client

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *arguments, **named: self._runner.run(waited(method(*arguments, **named)))


async def waited(coroutine):
    """The result, which may not take longer than WAIT_S."""
    return await asyncio.wait_for(coroutine, WAIT_S)


@contextlib.contextmanager
def client_of(kind, server, certificates=None, who="", root="root.pem"):
    """A client of that kind with the certificate of `who`, who trusts `root`; without certificates one that speaks no
    TLS. asyncio's calls wait."""
    module = KINDS[kind]
    address = f"localhost:{server.http_port if kind.startswith('http') else server.grpc_port}"
    if certificates is None:
        named = {}
    elif kind.startswith("grpc"):
        named = {"ssl": True, "root_certificates": certificates.path(root)}
        if who:
            named |= {
                "private_key": certificates.path(f"{who}.key"),
                "certificate_chain": certificates.path(f"{who}.pem"),
            }
    elif kind == "http":
        named = {"ssl": True, "ssl_options": {"ca_certs": certificates.path(root)}, "connection_timeout": WAIT_S}
        if who:
            named["ssl_options"] |= {
                "certfile": certificates.path(f"{who}.pem"),
                "keyfile": certificates.path(f"{who}.key"),
            }
            named["ssl_context_factory"] = functools.partial(certificates.client_context, who)
    else:
        context = ssl.create_default_context(cafile=certificates.path(root))
        if who:
            context.load_cert_chain(certificates.path(f"{who}.pem"), certificates.path(f"{who}.key"))
        named = {"ssl": True, "ssl_context": context}
    if not kind.endswith("aio"):
        with module.InferenceServerClient(address, **named) as client:
            yield client
        return
    with asyncio.Runner() as runner:

        async def opened():
            return module.InferenceServerClient(address, **named)

        client = runner.run(opened())
        try:
            yield Waiting(runner, client)
        finally:
            runner.run(client.close())


def tensor(module, name, datatype, values):
    """An input with its data set."""
    made = module.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def sums(module, value=1):
    """The inputs of `simple`; OUTPUT0 is 0 ... 15, each with `value` added."""
    rows = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), value, np.int32)
    return [tensor(module, f"INPUT{place}", "INT32", row) for place, row in enumerate(rows)]


@pytest.fixture(params=["tls", "mutual"])
def client(request, kind, certificates):
    """A client that gets in, of each kind, of either server."""
    server = request.getfixturevalue("secure" if request.param == "tls" else "mutual")
    with client_of(kind, server, certificates, "" if request.param == "tls" else "client") as made:
        yield made


@pytest.mark.parametrize("kind", list(KINDS))
def test_everyday_calls(client, kind):
    """Goal: health, metadata, configuration, index, statistics, an infer and an error, over TLS and mutual TLS."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    metadata = client.get_model_metadata("simple")
    assert (metadata["name"] if kind.startswith("http") else metadata.name) == "simple"
    client.get_server_metadata()
    client.get_model_config("simple")
    client.get_model_repository_index()
    client.get_inference_statistics("simple")
    result = client.infer("simple", sums(KINDS[kind], 5), request_id="mine")
    assert result.as_numpy("OUTPUT0").tolist() == [list(range(5, 21))]
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nope' is not found"):
        client.infer("nope", sums(KINDS[kind]))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [1 << 10, 8 << 20], ids=["1KiB", "8MiB"])
def test_binary_tensors(client, kind, size):
    """Goal: tensors smaller and much larger than a record come back as they went, three times on one connection.
    Their pattern repeats, for asyncio's client of HTTP asks for compressed answers."""
    values = np.resize(np.random.default_rng(size).standard_normal(997, np.float32), (1, size // 4))
    for _ in range(3):
        result = client.infer("identity_any", [tensor(KINDS[kind], "IN_FP32", "FP32", values)])
        assert np.array_equal(result.as_numpy("OUT_FP32"), values)


@pytest.mark.parametrize("who", ["", "client"], ids=["tls", "mutual"])
def test_streams(secure, mutual, certificates, who):
    """Goal: a stream carries many requests, a decoupled model's answers among them, in order."""
    server = mutual if who else secure
    seen = queue.SimpleQueue()
    with client_of("grpc", server, certificates, who) as client:
        client.start_stream(lambda result, error: seen.put((result, error)))
        for number in range(20):
            client.async_stream_infer("simple", sums(tritonclient.grpc, number), request_id=str(number))
        answers = [seen.get(timeout=WAIT_S) for _ in range(20)]
        client.async_stream_infer("count", [tensor(tritonclient.grpc, "N", "INT32", np.array([1], np.int32))])
        counted = [seen.get(timeout=WAIT_S) for _ in range(2)]
        client.stop_stream()
    assert [error for _, error in answers + counted] == [None] * 22
    assert [result.get_response().id for result, _ in answers] == [str(number) for number in range(20)]
    assert [result.as_numpy("OUTPUT0")[0, 0] for result, _ in answers] == list(range(20))
    assert [int(result.as_numpy("I")[0]) for result, _ in counted] == [0, 1]


def test_asyncio_stream_and_many_at_once(secure, certificates):
    """Goal: 64 calls at a time over many connections of HTTP and one of gRPC, and asyncio's stream."""

    async def main():
        context = certificates.client_context()
        over_http = tritonclient.http.aio.InferenceServerClient(
            f"localhost:{secure.http_port}", ssl=True, ssl_context=context
        )
        over_grpc = tritonclient.grpc.aio.InferenceServerClient(
            f"localhost:{secure.grpc_port}", ssl=True, root_certificates=certificates.path("root.pem")
        )

        async def requests():
            for number in range(5):
                yield {"model_name": "simple", "inputs": sums(tritonclient.grpc.aio, number)}

        async with over_http, over_grpc:
            for module, client in ((tritonclient.http.aio, over_http), (tritonclient.grpc.aio, over_grpc)):
                calls = [client.infer("simple", sums(module, number)) for number in range(64)]
                results = await asyncio.gather(*calls)
                assert [one.as_numpy("OUTPUT0")[0, 0] for one in results] == list(range(64))
            streamed = [result.as_numpy("OUTPUT0")[0, 0] async for result, _ in over_grpc.stream_infer(requests())]
            assert streamed == list(range(5))

    asyncio.run(asyncio.wait_for(main(), 30))


def leave_call(server, certificates):
    """Asks over gRPC, and cancels."""
    with client_of("grpc", server, certificates) as client:
        done = queue.SimpleQueue()
        call = client.async_infer("nap", nap(tritonclient.grpc, 60), lambda result, error: done.put(error))
        until_waiting(server, 2)
        call.cancel()
        assert "cancel" in str(done.get(timeout=WAIT_S)).lower()


def leave_stream(server, certificates):
    """Asks on a stream, and closes it with the request in it."""
    with client_of("grpc", server, certificates) as client:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("nap", nap(tritonclient.grpc, 60))
        until_waiting(server, 2)
        client.stop_stream(cancel_requests=True)


def leave_socket(server, certificates):
    """Asks over HTTP, and closes the connection."""
    with secured(server.http_port, certificates.client_context()) as sock:
        sock.sendall(nap_request(60))
        until_waiting(server, 2)


def test_leaving_frees_the_place(secure, certificates):
    """Goal: a cancelled call, a closed stream and a closed connection take their requests of a minute out of the queue.
    Method: they queue behind a request that executes; what comes next does not wait for them."""
    with client_of("grpc", secure, certificates) as client:
        answers = occupy(secure, client, 2)
        for leave in (leave_call, leave_stream, leave_socket):
            leave(secure, certificates)
            until_waiting(secure, 1)
        assert [answers.get(timeout=WAIT_S) for _ in range(2)] == [None, None]
        client.infer("nap", nap(tritonclient.grpc, 0.01), client_timeout=WAIT_S)
        client.stop_stream()


@contextlib.contextmanager
def secured(port, context, session=None):
    """A bare connection after its handshake, with the session of one before."""
    with connect(port) as plain, context.wrap_socket(plain, server_hostname="localhost", session=session) as sock:
        yield sock


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("who", ["", "stranger"])
def test_without_the_right_certificate(mutual, certificates, kind, who):
    """Goal: mutual TLS refuses clients without a certificate and those of another authority; the next one is served."""
    with client_of(kind, mutual, certificates, who) as client, pytest.raises(REFUSED):
        client.get_server_metadata()
    with client_of(kind, mutual, certificates, "client") as client:
        client.get_server_metadata()


@pytest.mark.parametrize("kind", list(KINDS))
def test_server_that_the_client_does_not_trust(secure, certificates, kind):
    """Goal: a client that trusts another authority does not talk to this server; the next one is served."""
    with client_of(kind, secure, certificates, root="stranger.pem") as client, pytest.raises(REFUSED):
        client.get_server_metadata()
    with client_of(kind, secure, certificates) as client:
        client.get_server_metadata()


@pytest.mark.parametrize("kind", list(KINDS))
def test_plain_client(secure, certificates, kind):
    """Goal: a client that does not speak TLS gets an error soon, and the next one is served."""
    with client_of(kind, secure) as client, pytest.raises(REFUSED):
        client.get_server_metadata()
    with client_of(kind, secure, certificates) as client:
        client.get_server_metadata()


NOISE = {
    "HTTP/1.1": READY,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "zeros": bytes(1000),
    "a record that is no greeting": b"\x17\x03\x03\x00\x20" + bytes(32),
    "a greeting of noise": b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c" + b"x" * 60,
    "SSL 2": b"\x80\x2e\x01\x00\x02" + b"x" * 43,
}


@pytest.mark.parametrize("door", ["http", "grpc"])
@pytest.mark.parametrize("noise", list(NOISE))
def test_noise(secure, certificates, door, noise):
    """Goal: what is no handshake ends its connection at once, with no answer in plain text."""
    port = getattr(secure, f"{door}_port")
    with connect(port) as sock:
        sock.sendall(NOISE[noise])
        try:
            said = read_to_end(sock)
        except ConnectionError:
            said = b""
    assert said == b"" or said[0] == 21, said  # an alert
    assert_served(secure, certificates)


def assert_served(server, certificates):
    """Both doors answer."""
    assert protocol_of(server.http_port, certificates.client_context()) is None
    assert protocol_of(server.grpc_port, certificates.client_context("", "h2")) == "h2"


def protocol_of(port, context):
    """What ALPN came to. Raises OSError if the handshake fails."""
    with secured(port, context) as sock:
        return sock.selected_alpn_protocol()


def test_silent_clients_are_in_nobodys_way(secure, certificates):
    """Goal: hundreds of clients that never shake hands, or stop in the middle, keep nobody else out of either door."""
    with contextlib.ExitStack() as stack:
        for port in (secure.http_port, secure.grpc_port):
            for number in range(100):
                sock = stack.enter_context(connect(port))
                if number % 2:
                    sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        for kind in KINDS:
            with client_of(kind, secure, certificates) as client:
                client.get_server_metadata()


OFFERS = [
    ("grpc", ["h2"], "h2"),
    ("grpc", ["http/1.1", "h2"], "h2"),
    ("http", ["http/1.1"], "http/1.1"),
    ("http", ["h2"], "h2"),
    ("http", ["http/1.1", "h2"], "h2"),
    ("http", ["spdy/3"], None),
    ("http", [], None),
]


@pytest.mark.parametrize(("door", "offered", "chosen"), OFFERS)
def test_protocols(secure, certificates, door, offered, chosen):
    """Goal: ALPN: HTTP/2 for gRPC; on the HTTP door what the client offers, the newer first, or HTTP/1.1 unsaid."""
    assert protocol_of(getattr(secure, f"{door}_port"), certificates.client_context("", *offered)) == chosen


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_chosen_protocol_is_spoken(secure, certificates, version):
    """Goal: a client of HTTP that offers both versions, and one that offers the older only, send and get 1 KiB and
    8 MiB on one connection."""
    triton = tritonclient.http.InferenceServerClient
    context = certificates.client_context()
    with httpx.Client(verify=context, http2=version == "HTTP/2", trust_env=False, timeout=WAIT_S) as client:
        for size in (1 << 10, 8 << 20):
            values = np.arange(size // 4, dtype=np.float32).reshape(1, -1)
            body, length = triton.generate_request_body([tensor(tritonclient.http, "IN_FP32", "FP32", values)])
            answer = client.post(
                f"https://localhost:{secure.http_port}/v2/models/identity_any/infer",
                content=body,
                headers={"Inference-Header-Content-Length": str(length), "Accept-Encoding": "identity"},
            )
            assert (answer.status_code, answer.http_version) == (200, version)
            length = int(answer.headers["inference-header-content-length"])
            back = triton.parse_response_body(answer.content, header_length=length).as_numpy("OUT_FP32")
            assert np.array_equal(back, values)


@pytest.mark.parametrize("door", ["http", "grpc"])
@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_versions(secure, certificates, door, version):
    """Goal: TLS 1.2 and 1.3 are spoken; older is refused."""
    context = certificates.client_context("", "h2")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    port = getattr(secure, f"{door}_port")
    if version == "TLSv1_1":
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            protocol_of(port, context)
    else:
        assert protocol_of(port, context) == "h2"


@pytest.mark.parametrize("who", ["", "client"], ids=["tls", "mutual"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_resumed_sessions(secure, mutual, certificates, who, version):
    """Goal: a client that comes back with its session is served, also where its certificate was asked for."""
    context = certificates.client_context(who)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    port = (mutual if who else secure).http_port
    session = None
    for number in range(3):
        with secured(port, context, session) as sock:
            sock.sendall(READY)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")  # the ticket of TLS 1.3 comes with it
            assert sock.session_reused == bool(number)
            session = sock.session


def test_chain_of_authorities(models, tmp_path):
    """Goal: the server sends the authorities between its certificate and the root, on both doors; a client that knows
    the root only is content. Method: hypercorn on the HTTP door, which must speak the same TLS."""
    root = trustme.CA()
    between = root.create_child_ca()
    issued = between.issue_cert("localhost")
    root.cert_pem.write_to_path(tmp_path / "root.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    (tmp_path / "server.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    certificates = Certificates(tmp_path)
    made = [*options(certificates, "http", "grpc"), "--http-server=hypercorn"]
    with serving(models, tmp_path / "log", *made) as server:
        for kind in KINDS:
            with client_of(kind, server, certificates) as client:
                result = client.infer("simple", sums(KINDS[kind], 5))
                assert result.as_numpy("OUTPUT0")[0, 0] == 5
        for protocol in ("h2", "http/1.1"):
            assert protocol_of(server.http_port, certificates.client_context("", protocol)) == protocol


def test_stopping(models, certificates, tmp_path):
    """Goal: SIGTERM answers the requests under way on both doors, tells the clients of TLS the end, and waits neither
    for idle connections nor for handshakes."""
    with contextlib.ExitStack() as stack:
        made = options(certificates, "http", "grpc")
        server = stack.enter_context(serving(models, tmp_path / "log", *made))
        client = stack.enter_context(client_of("grpc", server, certificates))
        sock = stack.enter_context(secured(server.http_port, certificates.client_context()))
        for port in (server.http_port, server.grpc_port):
            stack.enter_context(connect(port))
            stack.enter_context(secured(port, certificates.client_context("", "h2")))
        answers = occupy(server, client, 1)
        sock.sendall(nap_request(0.1))
        until_waiting(server, 2)
        begin = time.monotonic()
        server.terminate()
        client.stop_stream()
        assert [answers.get(timeout=WAIT_S) for _ in range(2)] == [None, None]
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")  # a cut would be an SSLEOFError
        assert server.ended()[0] == 0
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize(("door", "wrong"), [("grpc", "root-cert"), ("http", "pair")])
def test_wrong_files(certificates, models, tmp_path, door, wrong):
    """Goal: a missing file, or a key of another certificate, ends the start at once with its name."""
    made = options(certificates, door, mutual=True)
    name = certificates.path("client.key") if wrong == "pair" else str(tmp_path / "absent.pem")
    made.append(f"--{door}-{'server-key' if wrong == 'pair' else wrong}={name}")
    with started(command(models, *made), tmp_path / "log") as process:
        code, said = process.ended()
    assert code == 1
    assert name in said


def outcomes(server, certificates):
    """What clients of a gRPC door meet, by who they are and whom they trust. Texts that the client's own library makes
    up for a broken connection name addresses, and are left out."""
    found = {}
    for who in ("", "client", "stranger"):
        for root in ("root.pem", "stranger.pem"):
            with client_of("grpc", server, certificates, who, root) as client:
                found[who, root] = said_to(client, tritonclient.grpc)
    for offered in ([], ["h2"], ["http/1.1"], ["http/1.1", "h2"]):
        try:
            context = certificates.client_context("client", *offered)
            found[tuple(offered)] = protocol_of(server.grpc_port, context)
        except OSError as problem:
            found[tuple(offered)] = type(problem).__name__
    return found


def said_to(client, module):
    """Metadata, a sum, 8 MiB there and back, and an error: values, or the code and the text of a refusal."""
    try:
        metadata = client.get_model_metadata("simple", as_json=True)
    except InferenceServerException as error:
        return error.status()
    total = client.infer("simple", sums(module, 2)).as_numpy("OUTPUT0").tolist()
    values = np.arange(2 << 20, dtype=np.float32).reshape(1, -1)
    back = client.infer("identity_any", [tensor(module, "IN_FP32", "FP32", values)]).as_numpy("OUT_FP32")
    with pytest.raises(InferenceServerException) as refused:
        client.infer("nope", sums(module))
    return metadata, total, np.array_equal(values, back), refused.value.status(), refused.value.message()


@pytest.mark.slow
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
@pytest.mark.parametrize("is_mutual", [False, True], ids=["tls", "mutual"])
def test_same_as_the_reference_server(request, models, certificates, tmp_path, is_mutual):
    """Goal: the same clients get the same from the gRPC doors of both: answers, and the codes of being turned away."""
    ours = request.getfixturevalue("mutual" if is_mutual else "secure")
    with running_reference(models, tmp_path, options(certificates, "grpc", mutual=is_mutual)) as server:
        expected = outcomes(server, certificates)
    assert outcomes(ours, certificates) == expected
