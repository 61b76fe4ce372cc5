"""Chunked uploads against the real process: time linear in their length, memory bounded by what is allowed."""

from __future__ import annotations

import contextlib
import os
import struct
import time

import pytest
from despina.frontends.http.connection.chunked import ChunkedBody

from tests import in_process
from tests.conformance.servers import running_despina
from tests.conformance.wire import (
    WAIT_S,
    assert_http_served,
    connect,
    cpu_seconds,
    memory_bytes,
    read_to_end,
    reset_peak,
    wire_models,
)

MIB = 1 << 20
CHUNKED = b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
INDEX = b"POST /v2/repository/index" + CHUNKED
PIECE = b"10000\r\n" + bytes(65_536) + b"\r\n"


@pytest.fixture(scope="module")
def wire_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    with running_despina(wire_models(folder), folder, ("--http-body-bytes-max=67108864",)) as running:
        yield running


def upload(port, *parts):
    """The answer, or what came of it before a reset."""
    with connect(port) as sock:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
        return read_to_end(sock)


def assert_given_back(server, before, growth_max):
    """Memory is free again a moment after the answer has been read."""
    give_up = time.monotonic() + WAIT_S
    while memory_bytes(server.pid) - before >= growth_max:
        assert time.monotonic() < give_up, "the body's memory is not given back"
        time.sleep(0.01)


def test_chunks_of_one_byte_cost_linear_time(wire_server):
    """Four times as many chunks, up to the protocol's limit of them, cost about four times the CPU time."""
    cost = {}
    for count in (16_384, 65_536):
        body = b'{"ready":true'.ljust(count - 1) + b"}"
        wire = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        assert upload(wire_server.http_port, INDEX, wire).startswith(b"HTTP/1.1 200")
        begin = cpu_seconds(wire_server.pid)
        for _ in range(8):
            upload(wire_server.http_port, INDEX, wire)
        cost[count] = cpu_seconds(wire_server.pid) - begin
    assert cost[65_536] < 8 * max(cost[16_384], 0.02)  # below two ticks of its clock nothing is measured


def test_one_mebibyte_of_chunks_of_one_byte_is_refused_at_the_limit(wire_server):
    """The protocol's words come while the client is still sending, and soon."""
    begin = time.monotonic()
    reply = upload(wire_server.http_port, INDEX, b"1\r\n \r\n" * MIB, b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400")
    assert b"Chunked request body exceeds maximum of 65536 non-empty chunks" in reply
    assert time.monotonic() - begin < WAIT_S / 2
    assert_http_served(wire_server)


def test_decoding_beyond_the_limit_is_linear_too():
    """The decoder by itself, without the limit on their number: 1 MiB against 256 KiB in chunks of one byte."""
    cost = {}
    for size in (MIB // 4, MIB):
        wire = b"1\r\nx\r\n" * size + b"0\r\n\r\n"
        body = ChunkedBody(bytes_max=size, count_max=size, overhead_max=0)
        begin = time.thread_time()
        for at in range(0, len(wire), 65_536):
            end = body.feed(wire[at : at + 65_536], 0)
        cost[size] = time.thread_time() - begin
        assert end >= 0
        assert len(body.body) == size
    assert cost[MIB] < 8 * cost[MIB // 4]


def test_one_gibibyte_in_large_chunks_is_refused_at_the_limit(wire_server):
    """Beyond 64 MiB, as this server allows, comes the refusal; the rest is not read, memory stays near the limit."""
    reset_peak(wire_server.pid)
    before = memory_bytes(wire_server.pid)
    sent = 0
    with connect(wire_server.http_port) as sock:
        sock.sendall(INDEX)
        with contextlib.suppress(ConnectionError):
            for _ in range(16_384):
                sock.sendall(PIECE)
                sent += 65_536
                if memory_bytes(wire_server.pid) - before > 256 * MIB:
                    break
        with contextlib.suppress(ConnectionError):  # a client that sends on and on is cut off, after lingering
            reply = read_to_end(sock)
            assert reply.startswith(b"HTTP/1.1 400")
            assert b"request body exceeds the maximum of 67108864 bytes" in reply
    assert sent >= 64 * MIB
    assert memory_bytes(wire_server.pid, "VmHWM") - before < 160 * MIB
    assert_http_served(wire_server)


def test_the_refusal_can_be_read(wire_server):
    """A client that sends a little more than is allowed, and then looks, finds out why."""
    reply = upload(wire_server.http_port, INDEX, PIECE * 1100, b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400")
    assert b"request body exceeds the maximum of 67108864 bytes" in reply


def test_allowed_uploads_are_streamed_into_their_buffer(wire_server):
    """60 MiB in 64 KiB chunks: the process grows by no more than twice the body, and gives it back."""
    upload(wire_server.http_port, b"POST /v2/nothing" + CHUNKED, PIECE, b"0\r\n\r\n")
    reset_peak(wire_server.pid)
    before = memory_bytes(wire_server.pid)
    for _ in range(3):
        reply = upload(wire_server.http_port, b"POST /v2/nothing" + CHUNKED, PIECE * 960, b"0\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 404")
    assert memory_bytes(wire_server.pid, "VmHWM") - before < 120 * MIB
    assert_given_back(wire_server, before, 60 * MIB)


_SUM_CONFIG = """
backend: "python"
input [ { name: "IN" data_type: TYPE_UINT8 dims: [ -1 ] } ]
output [ { name: "SEEN" data_type: TYPE_INT64 dims: [ 2 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
_SUM_MODEL = '''
"""The size of a tensor, and the sum of one byte in 65536."""
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        seen = [np.array([array.size, array[::65536].sum()], np.int64) for array in arrays]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SEEN", one)]) for one in seen]
'''


@pytest.mark.slow
@pytest.mark.parametrize(("framing", "size"), [("chunked", 1024 * MIB), ("length", 256 * MIB)])
def test_a_large_tensor_takes_its_own_size_and_no_more(tmp_path, framing, size):
    """Goal: where the limit allows it, 1 GiB in pieces of 64 KiB reaches its model in the buffer that it is received
    into: the process grows by the body and a few MiB, which a second copy of even a tenth of it would exceed."""
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 2 * size:
        pytest.skip("less than 2 GiB of memory are free")
    folder = tmp_path / "models" / "sum" / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(_SUM_CONFIG + in_process.PARAMETER)
    (folder / "model.py").write_text(_SUM_MODEL)
    head = (
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: 0\r\nConnection: close\r\n"
    )
    body = b"\1" * 65_536
    if framing == "chunked":
        head, piece, end = head + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + body + b"\r\n", b"0\r\n\r\n"
    else:
        head, piece, end = head + b"Content-Length: %d\r\n\r\n" % size, body, b""
    with running_despina(tmp_path / "models", tmp_path, (f"--http-max-input-size={size}",)) as server:
        # What the first request imports and allocates does not count.
        assert upload(server.http_port, head.replace(b"%d" % size, b"3"), b"3\r\n" * (end != b""), b"abc", b"\r\n", end)
        reset_peak(server.pid)
        before = memory_bytes(server.pid)
        with connect(server.http_port) as sock:
            sock.settimeout(60)
            sock.sendall(head)
            for _ in range(size // len(body)):
                sock.sendall(piece)
            sock.sendall(end)
            reply = read_to_end(sock)
        assert reply.startswith(b"HTTP/1.1 200")
        assert reply.endswith(struct.pack("<qq", size, size // 65_536))
        assert memory_bytes(server.pid, "VmHWM") - before < size + 16 * MIB
        assert_given_back(server, before, 272 * MIB)  # up to 256 MiB are kept for the next large body
