"""HTTP/1.1 that two parsers could read differently, against the real process: refused, closed, nobody else notices."""

from __future__ import annotations

import contextlib
import re
import time

import pytest

from tests.conformance.servers import running_despina
from tests.conformance.wire import READY, WAIT_S, assert_http_served, connect, read_to_end, wire_models

GET = b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /v2/repository/index HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
"""Follows what is refused: it must not be answered."""

TABLE = {
    "CL differs": POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + SMUGGLED,
    "CL twice the same": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "CL list": POST + b"Content-Length: 2, 2\r\n\r\n{}" + SMUGGLED,
    "CL signed": POST + b"Content-Length: +2\r\n\r\n{}" + SMUGGLED,
    "CL with an underscore": POST + b"Content-Length: 0_2\r\n\r\n{}" + SMUGGLED,
    "CL in other digits": POST + b"Content-Length: \xd9\xa2\r\n\r\n{}" + SMUGGLED,
    "CL empty": POST + b"Content-Length: \r\n\r\n" + SMUGGLED,
    "CL huge": POST + b"Content-Length: 18446744073709551618\r\n\r\n{}" + SMUGGLED,
    "TE twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE chunked, then identity": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "TE identity, then chunked": POST
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "TE unknown": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE gzip below chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + SMUGGLED,
    "TE, blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n" + SMUGGLED,
    "folded header": GET + b"A: b\r\n c\r\n\r\n" + SMUGGLED,
    "folded first header": b"GET /v2 HTTP/1.1\r\n Host: h\r\n\r\n" + SMUGGLED,
    "bare LF after the request line": b"GET /v2 HTTP/1.1\nHost: h\r\n\r\n" + SMUGGLED,
    "bare LF after a header": GET + b"A: b\nC: d\r\n\r\n" + SMUGGLED,
    "bare LF ends the head": GET + b"A: b\r\n\n" + SMUGGLED,
    "bare CR in a header": GET + b"A: b\rC: d\r\n\r\n" + SMUGGLED,
    "NUL in a value": GET + b"A: b\0c\r\n\r\n" + SMUGGLED,
    "NUL in a name": GET + b"A\0: b\r\n\r\n" + SMUGGLED,
    "NUL in the target": b"GET /v2\0 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "header without a name": GET + b": b\r\n\r\n" + SMUGGLED,
    "header without a colon": GET + b"A\r\n\r\n" + SMUGGLED,
    "header name in brackets": GET + b"[A]: b\r\n\r\n" + SMUGGLED,
    "huge head without an end": GET + b"A: " + b"b" * 1_000_000,
    "huge head": GET + b"A: " + b"b" * 1_000_000 + b"\r\n\r\n" + SMUGGLED,
    "huge target": b"GET /" + b"b" * 1_000_000 + b" HTTP/1.1\r\n\r\n" + SMUGGLED,
    "many headers": GET + b"A: b\r\n" * 3000 + b"\r\n" + SMUGGLED,
    "method in small letters": b"get /v2 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "method unknown": b"BREW /v2 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "method with a bracket": b"GE(T /v2 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "method huge": b"G" * 1_000_000,
    "no target": b"GET HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "two blanks in the target": b"GET /v2 a HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "version 0.9": b"GET /v2\r\n\r\n" + SMUGGLED,
    "version 1.2": b"GET /v2 HTTP/1.2\r\nHost: h\r\n\r\n" + SMUGGLED,
    "version 2.0": b"GET /v2 HTTP/2.0\r\nHost: h\r\n\r\n" + SMUGGLED,
    "version of two digits": b"GET /v2 HTTP/1.10\r\nHost: h\r\n\r\n" + SMUGGLED,
    "version of another protocol": b"GET /v2 ICY/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "chunk size empty": CHUNKED + b"\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size negative": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size with a prefix": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size with an underscore": CHUNKED + b"0_2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size after a blank": CHUNKED + b" 2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size of no digit": CHUNKED + b"g\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size beyond 64 bits": CHUNKED + b"10000000000000002\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size ended by LF": CHUNKED + b"2\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk longer than its size": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "chunk ended by LF": CHUNKED + b"2\r\n{}\n0\r\n\r\n" + SMUGGLED,
    "chunk without an end": CHUNKED + b"2\r\n{}0\r\n\r\n" + SMUGGLED,
    "extension with LF": CHUNKED + b"2;a\nb\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "extension with NUL": CHUNKED + b"2;a\0b\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "extension huge": CHUNKED + b"2;" + b"a" * 1_000_000 + b"\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "extensions in numbers": CHUNKED + (b"1;" + b"a" * 1000 + b"\r\n \r\n") * 100 + b"0\r\n\r\n" + SMUGGLED,
    "trailer without a colon": CHUNKED + b"2\r\n{}\r\n0\r\nA\r\n\r\n" + SMUGGLED,
    "trailer ended by LF": CHUNKED + b"2\r\n{}\r\n0\r\nA: b\n\r\n" + SMUGGLED,
    "trailer with NUL": CHUNKED + b"2\r\n{}\r\n0\r\nA: b\0\r\n\r\n" + SMUGGLED,
    "trailers in numbers": CHUNKED + b"2\r\n{}\r\n0\r\n" + b"A: bbbbbbbbbbbbbbbbbbbb\r\n" * 20_000 + b"\r\n" + SMUGGLED,
}


@pytest.fixture(scope="module")
def wire_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    with running_despina(wire_models(folder), folder) as running:
        yield running


def refused(port, data):
    """What came back up to the end of the stream, or in 3 s. A reset is an end too, for programs that do not linger."""
    with connect(port) as sock:
        sock.settimeout(3)
        reply = b""
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := sock.recv(65536):
                reply += piece
        return reply


@pytest.mark.parametrize("name", TABLE)
def test_refused_and_closed(wire_server, name):
    """4xx, nothing after it, the end of the stream, well below any timeout; the next connection is served."""
    begin = time.monotonic()
    with connect(wire_server.http_port) as sock:
        sock.sendall(TABLE[name])
        reply = read_to_end(sock)
    assert reply.startswith(b"HTTP/1.1 4"), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in reply
    assert time.monotonic() - begin < WAIT_S / 2
    assert_http_served(wire_server)


@pytest.mark.parametrize(
    "fields",
    [[b"Content-Length: 5", b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: chunked", b"Content-Length: 5"]],
)
def test_a_length_beside_chunks(wire_server, fields):
    """Served as chunks, as the reference does, and the end: what is hidden behind it is not answered."""
    with connect(wire_server.http_port) as sock:
        sock.sendall(POST + b"\r\n".join(fields) + b"\r\n\r\n0\r\n\r\n" + SMUGGLED)
        reply = read_to_end(sock)
    assert reply.startswith(b"HTTP/1.1 200"), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in reply


def test_what_was_asked_before_is_answered(wire_server):
    """A good request ahead of a bad one on the same connection gets its answer."""
    with connect(wire_server.http_port) as sock:
        sock.sendall(READY + TABLE["CL differs"])
        reply = read_to_end(sock)
    assert reply.startswith(b"HTTP/1.1 200")
    assert reply.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400" in reply


def test_a_refused_upload_reads_its_answer(wire_server):
    """The client goes on sending 16 MB after the refusal: lingering keeps the answer from being lost to a reset."""
    with connect(wire_server.http_port) as sock:
        sock.sendall(POST + b"Content-Length: -1\r\n\r\n" + bytes(16_000_000))
        assert read_to_end(sock).startswith(b"HTTP/1.1 400")


def test_lingering_ends(wire_server):
    """A client that never closes after a refusal is cut off all the same."""
    with connect(wire_server.http_port) as sock:
        sock.sendall(b"BREW / HTTP/1.1\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 400")
        give_up = time.monotonic() + WAIT_S
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < give_up:
                sock.sendall(b"x")
                time.sleep(0.05)  # the pace of a client that trickles
        assert time.monotonic() < give_up


def test_slow_connections_are_reaped_and_idle_ones_disturb_nobody(tmp_path):
    """Heads and bodies that stall get 408, silence gets the end; meanwhile others, beside 200 idle ones, are served."""
    options = ("--http-head-timeout=1", "--http-body-stall-timeout=1", "--http-idle-timeout=3")
    with running_despina(wire_models(tmp_path), tmp_path, options) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(server.http_port)) for _ in range(200)]
        slow = {}
        for begun in (b"GET /v2/hea", POST + b"Content-Length: 9\r\n\r\n{", CHUNKED + b"5\r\n{"):
            slow[begun] = sock = stack.enter_context(connect(server.http_port))
            sock.sendall(begun)
        for _ in range(200):
            assert_http_served(server)
        for sock in slow.values():
            assert read_to_end(sock).startswith(b"HTTP/1.1 408")
        for sock in idle:
            assert read_to_end(sock) == b""
        assert_http_served(server)


_LENIENT = "h11 accepts it, in the way that RFC 9112 lets a recipient"
_CODING = "h11 answers an unknown transfer coding 501, as RFC 9112 suggests"
_WAITS = "h11 has no bound on numbers: it waits for the body"
_SERVED = [200, 200]
HYPERCORN_DIFFERS = {
    "CL twice the same": (_SERVED, _LENIENT),
    "CL list": (_SERVED, _LENIENT + " if all are the same"),
    "CL huge": ([], _WAITS),
    "TE twice": ([501], _CODING),
    "TE chunked, then identity": ([501], _CODING),
    "TE identity, then chunked": ([501], _CODING),
    "TE unknown": ([501], _CODING),
    "TE gzip below chunked": ([501], _CODING),
    "TE not last": ([501], _CODING),
    "TE in quotes": ([501], _CODING),
    "TE folded": (_SERVED, _LENIENT),
    "folded header": (_SERVED, _LENIENT),
    "bare LF after the request line": (_SERVED, _LENIENT),
    "bare LF after a header": (_SERVED, _LENIENT),
    "bare LF ends the head": (_SERVED, _LENIENT),
    "many headers": (_SERVED, "h11 bounds a head's bytes only"),
    "method in small letters": (_SERVED, "hypercorn writes methods in capitals"),
    "method unknown": ([405, 200], "any token is a method to h11; ours to refuse, and the connection goes on"),
    "version 1.2": (_SERVED, "h11 takes every version of one digit"),
    "version 2.0": (_SERVED, "h11 takes every version of one digit"),
    "chunk size beyond 64 bits": ([], _WAITS),
    "extension with NUL": (_SERVED, "h11 looks at no extension"),
    "extensions in numbers": ([500, 200], "h11 does not count extensions; the body is no JSON"),
    "trailer ended by LF": (_SERVED, _LENIENT),
}
"""Name to the statuses that come back (none: no answer while the connection lasts) and why."""


@pytest.mark.slow
def test_through_hypercorn(tmp_path):
    """The same table through hypercorn, whose h11 draws some lines elsewhere: HYPERCORN_DIFFERS says where."""
    with running_despina(wire_models(tmp_path), tmp_path, ("--http-server=hypercorn",)) as server:
        differing = {}
        for name, data in TABLE.items():
            statuses = [int(found) for found in re.findall(rb"HTTP/1.1 (\d{3})", refused(server.http_port, data))]
            if len(statuses) != 1 or not 400 <= statuses[0] < 500:
                differing[name] = statuses
        assert_http_served(server)
    assert differing == {name: statuses for name, (statuses, _) in HYPERCORN_DIFFERS.items()}
