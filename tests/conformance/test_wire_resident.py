"""What stays in memory after a rush of large bodies: the process is given back what it took, soon."""

from __future__ import annotations

import contextlib
import resource
import time
import zlib

import pytest

from tests.conformance.servers import running_despina
from tests.conformance.wire import WAIT_S, connect, memory_bytes, wire_models

MIB = 1 << 20
COUNT = 500
HEAD = b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: 0\r\n"


def request(framing):
    """A body of one MiB, which the model refuses when it is whole."""
    body = b"\1" * MIB
    if framing == "chunked":
        return (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + body[:65536] + b"\r\n") * 16 + b"0\r\n\r\n"
        )
    if framing == "gzip":
        stream = zlib.compressobj(1, zlib.DEFLATED, 31)
        body = stream.compress(body) + stream.flush()
        return HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return HEAD + b"Content-Length: %d\r\n\r\n" % MIB + body


@pytest.fixture
def many_files():
    """Descriptors for as many connections, here and in the server."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("framing", ["length", "chunked", "gzip"])
def test_a_rush_of_bodies_is_given_back(tmp_path, framing):
    """500 bodies of one MiB arrive at one time, on connections that stay open: a moment later the process is hardly
    larger than after one of them."""
    wire = request(framing)
    options = ("--http-recycled-idle=1",)
    with running_despina(wire_models(tmp_path), tmp_path, options) as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(server.http_port))
        first.sendall(wire)
        assert first.recv(65536).startswith(b"HTTP/1.1 400 ")
        before = memory_bytes(server.pid)
        socks = [stack.enter_context(connect(server.http_port)) for _ in range(COUNT)]
        for sock in socks:
            sock.sendall(wire[:-1])
        for sock in socks:
            sock.sendall(wire[-1:])
        for sock in socks:
            assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert memory_bytes(server.pid, "VmHWM") - before > 100 * MIB
        give_up = time.monotonic() + WAIT_S
        while memory_bytes(server.pid) - before > 40 * MIB:
            assert time.monotonic() < give_up, f"{(memory_bytes(server.pid) - before) / MIB:.0f} MiB stay"
            time.sleep(0.1)
