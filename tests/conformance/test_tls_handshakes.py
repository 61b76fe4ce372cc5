"""Handshakes with the real process: who is let in, what is agreed upon, and what is no handshake at all."""

from __future__ import annotations

import contextlib
import ssl
import warnings

import httpx
import numpy as np
import pytest
import tritonclient.http
import trustme

from tests.certificates import Certificates
from tests.conformance.inputs import sums, tensor
from tests.conformance.processes import command, serving, started
from tests.conformance.secured import KINDS, client_of, options, protocol_of
from tests.conformance.wire import READY, WAIT_S, connect, read_to_end, wire_models


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
