"""A real process whose connections are all taken, by idle, dripping or busy clients: nobody new is shut out by the
first two, and no health probe by any."""

from __future__ import annotations

import time

import pytest

from tests.conformance.napping import nap_request, until_waiting
from tests.conformance.processes import serving
from tests.conformance.wire import READY, assert_http_served, connect, read_to_end, wire_models

COUNT = 16
META = b"GET /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
POST = b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: h\r\n"


@pytest.fixture
def full_server(tmp_path):
    """Room for 16 connections, and two more for probes."""
    options = (f"--http-connection-count-max={COUNT}", "--http-probe-count-max=2", "--http-idle-timeout=600")
    with serving(wire_models(tmp_path), tmp_path / "log", *options) as server:
        yield server


def asked(server, request):
    with connect(server.http_port) as sock:
        sock.sendall(request)
        return read_to_end(sock)


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"GET /v2/hea"],
        [POST + b"Content-Length: 300000\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
    ],
    ids=["idle", "heads", "bodies"],
)
def test_who_does_nothing_shuts_nobody_out(full_server, parts):
    """Twice as many clients as there is room for, silent or dripping: others are served beside them all the time."""
    socks = []
    for place in range(2 * COUNT):
        socks.append(connect(full_server.http_port))
        socks[-1].sendall(parts[place % len(parts)])
    time.sleep(1.2)  # connections as young as that are spared
    for _ in range(COUNT):
        assert asked(full_server, META).startswith(b"HTTP/1.1 200 ")
        assert_http_served(full_server)
    for sock in socks:
        sock.close()


def test_probes_are_answered_when_everybody_is_at_work(full_server):
    """Inference on every connection: health is answered, the rest refused; all that was asked before is answered."""
    socks = [connect(full_server.http_port) for _ in range(COUNT)]
    for sock in socks:
        sock.sendall(nap_request(0.5))
    until_waiting(full_server, COUNT - 1)
    for _ in range(4):
        assert_http_served(full_server)
        assert asked(full_server, META).startswith(b"HTTP/1.1 503 ")
    assert asked(full_server, READY).startswith(b"HTTP/1.1 200 ")
    for sock in socks[:2]:
        assert read_to_end(sock).startswith(b"HTTP/1.1 200 ")
    assert asked(full_server, META).startswith(b"HTTP/1.1 200 ")
