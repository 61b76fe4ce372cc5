"""A few megabytes that become gigabytes: refused at a small price, while everybody else is served."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
import zlib

import grpc
import hpack
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conformance.servers import running_despina
from tests.conformance.test_wire_http2 import DATA, HEADERS, INFER, PREFACE, SETTINGS, WINDOW_UPDATE, fields, frame
from tests.conformance.wire import READY, WAIT_S, connect, cpu_seconds, memory_bytes, reset_peak, wire_models

MIB = 1 << 20
BOMB_MIB = 3000
"""Beyond the largest message that is taken, of 2 GiB."""
PEAK_MAX, LEFT_MAX = 256 * MIB, 96 * MIB
WAITED_S_MAX = 1.0
"""By a bystander for one answer. It takes a thousandth; a door that inflates by itself makes it wait for seconds."""
FRAME_BYTES = 16_384


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    with running_despina(wire_models(folder), folder) as running:
        yield running


def bomb():
    """BOMB_MIB of zeros, compressed: the same piece over and over, which a full flush allows."""
    engine = zlib.compressobj(9)
    start = engine.compress(b"") + engine.flush(zlib.Z_FULL_FLUSH)
    pieces = zlib.compressobj(9, zlib.DEFLATED, -15)
    return start + (pieces.compress(bytes(MIB)) + pieces.flush(zlib.Z_FULL_FLUSH)) * BOMB_MIB


def send_call(sock, message):
    """One call with a compressed message, on a new connection."""
    block = hpack.Encoder().encode([*fields(INFER), ("grpc-encoding", "deflate")])
    wide = frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
    sock.sendall(PREFACE + wide + frame(HEADERS, 4, 1, block))
    body = struct.pack(">BI", 1, len(message)) + message
    frames = [body[at : at + FRAME_BYTES] for at in range(0, len(body), FRAME_BYTES)]
    for number, part in enumerate(frames):
        sock.sendall(frame(DATA, int(number == len(frames) - 1), 1, part))


def trailers(sock):
    """What the call's last HEADERS frame says."""
    decoder, data = hpack.Decoder(), b""
    sock.settimeout(60)
    while True:
        while len(data) >= 9:
            word, flags, _ = struct.unpack_from(">IBI", data)
            end = 9 + (word >> 8)
            if len(data) < end:
                break
            payload, data = data[9:end], data[end:]
            if word & 255 == HEADERS:
                found = dict(decoder.decode(payload))
                if flags & 1:
                    return found
        piece = sock.recv(65536)
        assert piece, "the connection ended"
        data += piece


@contextlib.contextmanager
def watched(server):
    """Two clients ask for health all the time, one at each door; a list gets the longest that each had to wait."""
    longest, over = [0.0, 0.0], threading.Event()

    def ask(index, question):
        while not over.is_set():
            begin = time.monotonic()
            question()
            longest[index] = max(longest[index], time.monotonic() - begin)
            over.wait(0.002)

    with (
        connect(server.http_port) as sock,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        threads = [
            threading.Thread(target=ask, args=(0, lambda: (sock.sendall(READY), sock.recv(65536)))),
            threading.Thread(
                target=ask, args=(1, lambda: stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=WAIT_S))
            ),
        ]
        for thread in threads:
            thread.start()
        try:
            yield longest
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_a_bomb_is_refused_at_a_small_price(server):
    """Three calls at one time: RESOURCE_EXHAUSTED, nobody waits for them, and their memory goes with them."""
    message = bomb()
    before = memory_bytes(server.pid)
    reset_peak(server.pid)
    with watched(server) as longest, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server.grpc_port)) for _ in range(3)]
        for sock in socks:
            send_call(sock, message)
        for sock in socks:
            found = trailers(sock)
            assert (found["grpc-status"], "larger than max" in found["grpc-message"]) == ("8", True)
    assert memory_bytes(server.pid, "VmHWM") - before < PEAK_MAX
    assert memory_bytes(server.pid) - before < LEFT_MAX
    assert max(longest) < WAITED_S_MAX, longest


def test_a_bomb_whose_sender_leaves(server):
    """The worker stops soon after the connection is gone."""
    before = memory_bytes(server.pid)
    with connect(server.grpc_port) as sock:
        send_call(sock, bomb())
    give_up = time.monotonic() + WAIT_S
    idle = 0
    while idle < 5 and time.monotonic() < give_up:
        idle = idle + 1 if used(server) < 0.02 else 0
    assert idle == 5, "something still runs"
    assert memory_bytes(server.pid) - before < LEFT_MAX


def used(server):
    """CPU seconds of the process within a twentieth of a second."""
    begin = cpu_seconds(server.pid)
    time.sleep(0.05)
    return cpu_seconds(server.pid) - begin
