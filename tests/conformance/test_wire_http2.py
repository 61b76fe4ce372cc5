"""HTTP/2 against the real process: other people's clients pass; floods end their own connection and nothing else."""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import subprocess
import threading
import time
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import hpack
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conformance.servers import running_despina
from tests.conformance.wire import WAIT_S, connect, memory_bytes, wire_models

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
MIB = 1 << 20
GROWTH_MAX = 96 * MIB
"""How much the process may grow while it is attacked: bounded backlogs, and what an allocator keeps."""
STALL_S = 45.0
"""The door's write stall of 30 s, which no option sets, an inspection and slack."""


@pytest.fixture(scope="module")
def wire_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    with running_despina(wire_models(folder), folder) as running:
        yield running


def infer_request(model="simple", size=0):
    """`simple` with ones, or `identity_any` with `size` bytes."""
    if size:
        message = service_pb2.ModelInferRequest(model_name="identity_any", raw_input_contents=[bytes(size)])
        message.inputs.add(name="IN_UINT8", datatype="UINT8", shape=[1, size])
        return message.SerializeToString()
    message = service_pb2.ModelInferRequest(model_name=model)
    for name in ("INPUT0", "INPUT1"):
        message.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        message.raw_input_contents.append(np.ones((1, 16), np.int32).tobytes())
    return message.SerializeToString()


def framed(message):
    return struct.pack(">BI", 0, len(message)) + message


def frame(kind, flags, stream_id, payload=b""):
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def fields(path, *extra):
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    ]


def call(encoder, stream_id, path, message):
    block = encoder.encode(fields(path))
    return frame(HEADERS, 4, stream_id, block) + frame(DATA, 1, stream_id, framed(message))


# Other people's clients.


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian package nghttp2-client)")
    return path


@pytest.mark.parametrize("streams", [1, 100])
def test_h2load_grpc(wire_server, tmp_path, streams):
    """2000 inferences over 4 connections: every one succeeds with status 200."""
    body = tmp_path / "body"
    body.write_bytes(framed(infer_request()))
    command = [tool("h2load"), "-n2000", "-c4", f"-m{streams}", "-d", str(body)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{wire_server.grpc_port}{INFER}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout
    assert "status codes: 2000 2xx" in done.stdout


def test_nghttp_grpc(wire_server, tmp_path):
    """One inference, frame by frame: 200, then trailers with grpc-status 0."""
    body = tmp_path / "body"
    body.write_bytes(framed(infer_request()))
    command = [tool("nghttp"), "-nv", "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{wire_server.grpc_port}{INFER}"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert ":status: 200" in shown
    assert "grpc-status: 0" in shown
    assert "error_code=NO_ERROR" in shown


def test_nghttp_and_h2load_http(wire_server):
    """The HTTP door by prior knowledge of HTTP/2."""
    url = f"http://127.0.0.1:{wire_server.http_port}/v2/health/ready"
    done = subprocess.run([tool("nghttp"), "-nv", url], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert ":status: 200" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    done = subprocess.run(
        [tool("h2load"), "-n200", "-c2", "-m10", url], capture_output=True, text=True, timeout=60, check=True
    )
    assert "200 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout


@pytest.mark.parametrize("count", [1, 100])
def test_hyper_h2(wire_server, count):
    """hyper-h2, which checks every frame that it gets, with `count` calls at one time."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    replies, ended = {}, {}
    with connect(wire_server.grpc_port) as sock:
        client.initiate_connection()
        for _ in range(count):
            stream_id = client.get_next_available_stream_id()
            client.send_headers(stream_id, fields(INFER))
            client.send_data(stream_id, framed(infer_request()), end_stream=True)
        sock.sendall(client.data_to_send())
        while len(ended) < count:
            data = sock.recv(65536)
            assert data, "the connection ended before all answers"
            for event in client.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    replies[event.stream_id] = replies.get(event.stream_id, b"") + event.data
                    client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    ended[event.stream_id] = dict(event.headers)
                assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated))
            sock.sendall(client.data_to_send())
    for stream_id, trailers in ended.items():
        assert trailers[b"grpc-status"] == b"0"
        reply = service_pb2.ModelInferResponse.FromString(replies[stream_id][5:])
        assert set(np.frombuffer(reply.raw_output_contents[0], np.int32)) == {2}


# Floods.


@contextlib.contextmanager
def served_meanwhile(server):
    """A gRPC client asks all the time on one connection: it gets its answers, each within a bounded time."""
    problems, asked, over = [], [0], threading.Event()

    def ask():
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            message = service_pb2.ModelInferRequest.FromString(infer_request())
            while not over.is_set():
                try:
                    stub.ModelInfer(message, timeout=WAIT_S / 2)
                except grpc.RpcError as problem:
                    problems.append(problem)
                    return
                asked[0] += 1
                over.wait(0.002)

    thread = threading.Thread(target=ask)
    before = memory_bytes(server.pid)
    thread.start()
    try:
        yield
        seen, give_up = asked[0], time.monotonic() + WAIT_S
        while asked[0] < seen + 5 and not problems and time.monotonic() < give_up:
            time.sleep(0.01)
        assert asked[0] >= seen + 5 or problems, "the other client waits"
    finally:
        over.set()
        thread.join()
    assert not problems
    assert memory_bytes(server.pid) - before < GROWTH_MAX


def drain(sock, wait_s=WAIT_S):
    """Reads to the connection's end, which must come. Returns what came."""
    data = b""
    give_up = time.monotonic() + wait_s
    with contextlib.suppress(ConnectionError):
        while True:
            sock.settimeout(max(0.01, give_up - time.monotonic()))
            piece = sock.recv(65536)
            if not piece:
                break
            data = data[-MIB:] + piece
    return data


def flood(port, pieces):
    """Sends `pieces` without reading, until the server ends the connection; it must, before they end."""
    with connect(port) as sock:
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
        sock.settimeout(2)
        try:
            for piece in pieces:
                sock.sendall(piece)
        except (ConnectionError, TimeoutError):
            pass
        return drain(sock)


def resets():
    encoder = hpack.Encoder()
    for stream_id in range(1, 40_001, 2):
        yield call(encoder, stream_id, INFER, infer_request()) + frame(RST, 0, stream_id, struct.pack(">I", 8))


def bombs():
    """A table entry of 4 KB, referred to by one byte, again and again."""
    encoder = hpack.Encoder()
    first = encoder.encode([("x-bomb", "b" * 3900)])
    block = encoder.encode([*fields(LIVE), *[("x-bomb", "b" * 3900)] * 10_000])
    yield frame(HEADERS, 5, 1, encoder.encode(fields(LIVE)) + first)
    yield frame(HEADERS, 5, 3, block)


def continuations(end):
    block = hpack.Encoder().encode(fields(LIVE))
    yield frame(HEADERS, 0, 1, block[:10])
    for _ in range(100_000):
        yield frame(CONTINUATION, end, 1, b"" if not end else b"\x00\x01a\x01b")


FLOODS = {
    "rapid reset": resets,
    "CONTINUATION, empty": lambda: continuations(0),
    "CONTINUATION, large": lambda: iter(
        [frame(HEADERS, 0, 1)] + [frame(CONTINUATION, 0, 1, b"\x00" * 16_000)] * 10_000
    ),
    "PING": lambda: (frame(PING, 0, 0, bytes(8)) * 100 for _ in range(10_000)),
    "SETTINGS": lambda: (frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 100 for _ in range(10_000)),
    "SETTINGS, empty": lambda: (frame(SETTINGS, 0, 0) * 100 for _ in range(10_000)),
    "PRIORITY": lambda: (frame(PRIORITY, 0, 1, bytes(4) + b"\x10") * 100 for _ in range(10_000)),
    "empty DATA": lambda: iter(
        [frame(HEADERS, 4, 1, hpack.Encoder().encode(fields(INFER)))] + [frame(DATA, 0, 1) * 100] * 10_000
    ),
    "unknown frames": lambda: (frame(200, 0, 0) * 100 for _ in range(10_000)),
    "WINDOW_UPDATE beyond the window": lambda: (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") for _ in range(10_000)),
    "header bomb": bombs,
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(wire_server, name):
    """The flooding connection is ended; everybody else is served meanwhile; memory is bounded."""
    with served_meanwhile(wire_server):
        flood(wire_server.grpc_port, FLOODS[name]())


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_the_http_door(wire_server, name):
    """The same by prior knowledge of HTTP/2 on the other door, which another library reads."""
    with served_meanwhile(wire_server):
        flood(wire_server.http_port, FLOODS[name]())


def test_cancelling_often_but_slowly(wire_server):
    """The budget of resets refills with time: 400 cancelled calls at 80 a second, more than any burst, are forgiven."""
    encoder = hpack.Encoder()
    with connect(wire_server.grpc_port) as sock:
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
        begin = time.monotonic()
        for number in range(400):
            stream_id = 2 * number + 1
            wire = call(encoder, stream_id, INFER, infer_request()) + frame(RST, 0, stream_id, struct.pack(">I", 8))
            sock.sendall(wire)
            time.sleep(max(0.0, begin + number / 80 - time.monotonic()))  # the pace is the point
        sock.sendall(call(encoder, 801, LIVE, b""))
        data = b""
        while framed(b"\x08\x01") not in data:
            piece = sock.recv(65536)
            assert piece, "cut off"
            data += piece


@pytest.mark.slow
def test_peers_that_do_not_read(wire_server):
    """A shut window and an unread socket hold a bounded part of their answers, and end after the write stall."""
    big = infer_request(size=8 * MIB)
    open_wide = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
    open_wide += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 65536))
    before = descriptors(wire_server)
    with served_meanwhile(wire_server), contextlib.ExitStack() as stack:
        shut = stack.enter_context(connect(wire_server.grpc_port))
        shut.sendall(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        shut.sendall(call(hpack.Encoder(), 1, INFER, infer_request()))
        deaf = stack.enter_context(connect(wire_server.grpc_port, receive_buffer=4096))
        deaf.sendall(PREFACE + open_wide)
        deaf.sendall(frame(HEADERS, 4, 1, hpack.Encoder().encode(fields(INFER))))
        body = framed(big)
        for at in range(0, len(body), 16_384):
            deaf.sendall(frame(DATA, at + 16_384 >= len(body), 1, body[at : at + 16_384]))
        drain(shut, STALL_S)
        give_up = time.monotonic() + STALL_S
        while time.monotonic() < give_up and descriptors(wire_server) > before + 1:  # the other client's is one
            time.sleep(0.2)
        assert descriptors(wire_server) <= before + 1


def descriptors(server):
    """Sockets that the process has open. A peer that does not read cannot see that its own has been closed."""
    sockets = 0
    for path in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            sockets += str(path.readlink()).startswith("socket:")
    return sockets
