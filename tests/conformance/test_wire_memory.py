"""Bodies for which a real process has no memory: refused one by one, while it serves everybody else."""

from __future__ import annotations

import contextlib
import resource
import zlib

import pytest

from tests.conformance.servers import running_despina
from tests.conformance.wire import assert_http_served, connect, memory_bytes, read_to_end, wire_models

MIB = 1 << 20
SIZE_MAX = 2**31 - 1
POST = (
    b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: h\r\nConnection: close\r\nInference-Header-Content-Length: 0\r\n"
)


@contextlib.contextmanager
def limited(folder, headroom, *options):
    """A server that can get `headroom` bytes of address space more than it has once it serves."""
    options = (f"--http-max-input-size={SIZE_MAX}", *options)
    with running_despina(wire_models(folder), folder, options) as server:
        for _ in range(3):  # what the first requests import and start does not count
            assert_http_served(server)
        limit = memory_bytes(server.pid, "VmSize") + headroom
        resource.prlimit(server.pid, resource.RLIMIT_AS, (limit, limit))
        yield server


def refusal(server, *parts):
    """What comes back for a body."""
    with connect(server.http_port) as sock:
        sock.sendall(POST)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
        return read_to_end(sock)


def assert_refused(server, reply):
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"no memory for a request body of " in reply
    assert "MemoryError" in server.log.read_text()
    assert_http_served(server)


def test_heads_that_promise_more_than_there_is(tmp_path):
    """Eight heads announce two GiB each, where there is room for one: the others get 413 at once, and a bystander is
    served all the time."""
    with limited(tmp_path, 3 << 30) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server.http_port)) for _ in range(8)]
        for sock in socks:
            sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % SIZE_MAX)
            assert_http_served(server)
        for sock in socks[1:]:
            assert_refused(server, read_to_end(sock))
        socks[0].sendall(b"x")
        assert_http_served(server)


def test_chunks_beyond_the_memory(tmp_path):
    """The chunk for which there is no room any more ends the request."""
    with limited(tmp_path, 256 * MIB) as server:
        assert_refused(
            server, refusal(server, b"Transfer-Encoding: chunked\r\n\r\n", *[b"100000\r\n", bytes(MIB), b"\r\n"] * 400)
        )


def test_compressed_bodies_beyond_the_memory(tmp_path):
    """Half a megabyte that becomes 512 MiB."""
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    body = b"".join([*(stream.compress(bytes(MIB)) for _ in range(512)), stream.flush()])
    with limited(tmp_path, 256 * MIB) as server:
        head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert_refused(server, refusal(server, head, body))


@pytest.mark.slow
def test_parts_that_cannot_be_joined(tmp_path):
    """hypercorn brings a body in parts: there is room for them once, and not twice."""
    with limited(tmp_path, 320 * MIB, "--http-server=hypercorn") as server:
        head = b"Content-Length: %d\r\n\r\n" % (200 * MIB)
        assert_refused(server, refusal(server, head, *[bytes(MIB)] * 200))
