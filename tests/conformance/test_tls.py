"""TLS and mutual TLS on both doors of the real process, as the four real clients and bare sockets meet them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import queue
import ssl
import time

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.certificates import Certificates
from tests.conformance.inputs import nap, one_number, sums, tensor
from tests.conformance.napping import nap_request, occupy, until_waiting
from tests.conformance.processes import serving
from tests.conformance.secured import KINDS, client_of, options, protocol_of, secured
from tests.conformance.servers import asked_again, reference_script, running_reference
from tests.conformance.wire import READY, WAIT_S, connect, read_to_end, wire_models

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
        client.async_stream_infer("count", one_number(tritonclient.grpc, "N"))
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
        assert time.monotonic() - begin < 15


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
    ours = outcomes(request.getfixturevalue("mutual" if is_mutual else "secure"), certificates)

    def reference(folder):
        with running_reference(models, folder, options(certificates, "grpc", mutual=is_mutual)) as server:
            return outcomes(server, certificates)

    assert ours == asked_again(reference, ours, tmp_path)
