"""Keepalive, connection age, size limits and reflection of the gRPC door, for real clients and in raw frames."""

from __future__ import annotations

import queue
import shutil
import socket
import struct
import subprocess
import time
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from tests.conformance.inputs import nap, sums, tensor
from tests.conformance.servers import asked_again, reference_script, running_despina, running_reference
from tests.conformance.suites import HERE
from tests.conformance.wire import WAIT_S, connect, wire_models

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 4, 0, 0)
SETTINGS, PING, GOAWAY = 4, 6, 7
NO_ERROR, ENHANCE_YOUR_CALM = 0, 11
MAX_CONCURRENT_STREAMS = 3

PINGS = (
    "--grpc-keepalive-time=300",
    "--grpc-keepalive-timeout=400",
    "--grpc-keepalive-permit-without-calls=true",
    "--grpc-http2-min-recv-ping-interval-without-data=60000",
    "--grpc-http2-max-ping-strikes=2",
)
SIZES = (
    "--grpc-receive-bytes-max=100000",
    "--grpc-send-bytes-max=50000",
    "--grpc-concurrent-streams-max=4",
)
AGES = ("--grpc-max-connection-age=600", "--grpc-max-connection-age-grace=500")


@pytest.fixture(scope="module")
def pinging(tmp_path_factory):
    """Pings silent clients, counts clients' pings, and limits sizes."""
    folder = tmp_path_factory.mktemp("pinging")
    with running_despina(wire_models(folder), folder, PINGS + SIZES) as server:
        yield server


@pytest.fixture(scope="module")
def ageing(tmp_path_factory):
    """Connections last 0.6 s, and calls on them half a second longer."""
    folder = tmp_path_factory.mktemp("ageing")
    with running_despina(wire_models(folder), folder, AGES) as server:
        yield server


class Raw:
    """A connection that reads frames and answers none."""

    def __init__(self, port: int) -> None:
        self.sock = connect(port)
        self.sock.sendall(PREFACE)
        self._rest = b""

    def frame(self) -> tuple[int, int, bytes] | None:
        """Kind, flags and payload of the next one; None at the end."""
        while True:
            if len(self._rest) >= 9:
                word, flags, _ = struct.unpack_from(">IBI", self._rest)
                end = 9 + (word >> 8)
                if len(self._rest) >= end:
                    payload, self._rest = self._rest[9:end], self._rest[end:]
                    return word & 255, flags, payload
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._rest += data

    def until(self, kind: int) -> tuple[int, int, bytes]:
        while (frame := self.frame()) is not None:
            if frame[0] == kind:
                return frame
        raise AssertionError(f"the connection ended before a frame of kind {kind}")

    def ping(self) -> None:
        self.sock.sendall(struct.pack(">IBI", 8 << 8 | PING, 0, 0) + b"12345678")

    def goodbye(self) -> tuple[int, bytes]:
        """Code and text of the last GOAWAY before the end of the connection."""
        said = None
        while (frame := self.frame()) is not None:
            if frame[0] == GOAWAY:
                said = int.from_bytes(frame[2][4:8], "big"), frame[2][8:]
        assert said is not None
        return said


def test_a_silent_client_is_pinged_and_let_go(pinging):
    """Goal: after the keepalive time comes a PING; without an answer to it the connection ends."""
    client = Raw(pinging.grpc_port)
    start = time.monotonic()
    _, flags, payload = client.until(PING)
    assert (flags, len(payload)) == (0, 8)
    assert 0.25 <= time.monotonic() - start < WAIT_S
    while client.frame() is not None:
        pass


def test_a_client_that_answers_stays(pinging):
    """Goal: the real client's channel outlives many keepalive times without reconnecting."""
    states = []
    with triton.InferenceServerClient(f"127.0.0.1:{pinging.grpc_port}") as client:
        client._channel.subscribe(states.append)
        for _ in range(3):
            result = client.infer("simple", sums(triton))
            assert result.as_numpy("OUTPUT0")[0, 0] == 1
            time.sleep(0.8)
        assert states.count(grpc.ChannelConnectivity.READY) == 1


def strikes(port: int) -> tuple[int, bytes]:
    client = Raw(port)
    client.until(SETTINGS)
    for _ in range(5):
        client.ping()
    return client.goodbye()


def test_pings_beyond_the_strikes_end_the_connection(pinging):
    """Goal: as gRPC says it, and nobody else's connection."""
    with triton.InferenceServerClient(f"127.0.0.1:{pinging.grpc_port}") as client:
        assert client.is_server_live()
        assert strikes(pinging.grpc_port) == (ENHANCE_YOUR_CALM, b"too_many_pings")
        assert client.is_server_live()


@pytest.mark.slow
def test_strikes_are_those_of_the_reference(tmp_path, pinging):
    """Goal: the same code and text."""
    if reference_script() is None:
        pytest.skip("the reference server is not here: set DESPINA_REFERENCE_TRITON to the script that runs it")
    ours = strikes(pinging.grpc_port)

    def reference(folder):
        with running_reference(HERE / "models", folder, (*PINGS, "--model-control-mode=explicit")) as server:
            return strikes(server.grpc_port)

    assert ours == asked_again(reference, ours, tmp_path)


def test_limits_of_sizes(pinging):
    """Goal: a message too large, either way, is that call's error; the next is served."""
    with triton.InferenceServerClient(f"127.0.0.1:{pinging.grpc_port}") as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("identity_any", [tensor(triton, "IN_FP32", "FP32", np.zeros((1, 50_000), np.float32))])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert "Received message larger than max" in caught.value.message()
        with pytest.raises(InferenceServerException) as caught:
            client.infer("identity_any", [tensor(triton, "IN_FP32", "FP32", np.zeros((1, 15_000), np.float32))])
        assert "exceeds gRPC's byte size limit 50000" in caught.value.message()
        assert client.infer("simple", sums(triton)).as_numpy("OUTPUT0")[0, 15] == 16


def test_the_number_of_calls_is_announced(pinging):
    """Goal: SETTINGS say how many calls a connection may have; more than that wait in the real client."""
    _, _, payload = Raw(pinging.grpc_port).until(SETTINGS)
    settings = dict(struct.unpack_from(">HI", payload, at) for at in range(0, len(payload), 6))
    assert settings[MAX_CONCURRENT_STREAMS] == 4
    with triton.InferenceServerClient(f"127.0.0.1:{pinging.grpc_port}") as client:
        answers: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
        for index in range(20):

            def answered(result, error, index=index):
                answers.put((index, result, error))

            client.async_infer("simple", sums(triton, index), callback=answered)
        for _ in range(20):
            index, result, error = answers.get(timeout=WAIT_S)
            assert error is None
            assert result.as_numpy("OUTPUT0")[0, 0] == index


def test_old_connections_are_told_to_go(ageing):
    """Goal: GOAWAY without an error, and the end, though the client says nothing."""
    client = Raw(ageing.grpc_port)
    assert client.goodbye()[0] == NO_ERROR


def test_callers_do_not_notice_the_age_of_their_connections(ageing):
    """Goal: the real client reconnects by itself; no call fails."""
    until = time.monotonic() + 2.5
    with triton.InferenceServerClient(f"127.0.0.1:{ageing.grpc_port}") as client:
        while time.monotonic() < until:
            assert client.infer("simple", sums(triton)).as_numpy("OUTPUT0")[0, 0] == 1


def test_a_call_longer_than_the_grace_is_cut_off(ageing):
    """Goal: the grace is a limit; the caller hears that the server is unavailable."""
    with triton.InferenceServerClient(f"127.0.0.1:{ageing.grpc_port}") as client:
        start = time.monotonic()
        with pytest.raises(InferenceServerException) as caught:
            client.infer("nap", nap(triton, 6))
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert time.monotonic() - start < 5.5


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(pinging, version):
    """Goal: a client that knows nothing finds the service, its messages, and calls it by what it found."""
    with grpc.insecure_channel(f"127.0.0.1:{pinging.grpc_port}") as channel:
        if version == "v1":
            plain = channel

            class Renamed:
                """The client library knows the old name only; the messages are the same."""

                def stream_stream(self, path, *rest, **named):
                    return plain.stream_stream(path.replace("v1alpha", "v1"), *rest, **named)

            database = ProtoReflectionDescriptorDatabase(Renamed())
        else:
            database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("inference.GRPCInferenceService")
        assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= {method.name for method in service.methods}
        fields = service.methods_by_name["ModelInfer"].input_type.fields_by_name
        assert {"model_name", "inputs", "raw_input_contents"} <= set(fields)


def test_the_page_of_the_api_needs_nothing_from_elsewhere(pinging):
    """Goal: /docs comes whole: no address in it leads away from the server."""
    with socket.create_connection(("127.0.0.1", pinging.http_port), timeout=WAIT_S) as sock:
        sock.sendall(b"GET /docs HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        received = b""
        while data := sock.recv(65536):
            received += data
    head, _, page = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"text/html" in head
    assert b"http://" not in page.replace(b"http://www.w3.org", b"")
    assert b"https://" not in page
    assert b"openapi.json" in page


def test_the_page_of_the_api_in_a_browser(pinging):
    """Goal: a real browser makes of it what the document says."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium or Chrome here")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000")
    page = f"http://127.0.0.1:{pinging.http_port}/docs"
    shown = subprocess.run([browser, *flags, "--dump-dom", page], capture_output=True, text=True, timeout=60).stdout
    assert "/v2/models/{model}/versions/{version}/infer" in shown
    assert "Run a model that gives any number of answers" in shown
