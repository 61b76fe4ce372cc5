"""Collectors that are well, down or silent: no request waits for one, nor does the end of the process."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tests.conformance.collector import Collector
from tests.conformance.inputs import sums
from tests.conformance.processes import serving
from tests.conformance.traced_requests import DOORS, KINDS, address, infer, options, traced_models
from tests.conformance.wire import WAIT_S


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """simple, nap, count and context."""
    return traced_models(tmp_path_factory.mktemp("traced"))


def test_last_spans(models, tmp_path):
    """Goal: what waits for its turn to be sent is sent when the server stops, and costs no time."""
    with (
        Collector().running() as collector,
        serving(models, tmp_path / "log", *options(collector.url, delay_ms=60_000)) as server,
    ):
        for door in DOORS:
            infer(server, door, request_id=f"last {door}")
        begin = time.monotonic()
        server.terminate()
        assert server.ended()[0] == 0
        assert time.monotonic() - begin < 30
        for door in DOORS:
            found = collector.of_request(f"last {door}")
            assert found["InferRequest"].resource["service.name"] == "triton-inference-server"


def longest_s(server, count):
    """The longest that one of so many requests took, by turns over both doors."""
    longest = 0.0
    with contextlib.ExitStack() as stack:
        modules = [KINDS[door] for door in DOORS]
        clients = [
            stack.enter_context(module.InferenceServerClient(address(server, door)))
            for door, module in zip(DOORS, modules, strict=True)
        ]
        for number in range(count):
            begin = time.monotonic()
            clients[number % 2].infer("simple", sums(modules[number % 2]))
            longest = max(longest, time.monotonic() - begin)
    return longest


def test_collector_that_is_down(models, tmp_path):
    """Goal: requests are answered as soon as ever while nobody takes their spans, and so is SIGTERM."""
    small = ["opentelemetry,bsp_max_queue_size=64", "opentelemetry,bsp_max_export_batch_size=16"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces"
        with serving(models, tmp_path / "log", *options(url, *small)) as server:
            assert longest_s(server, 200) < 8
            server.said("(Transient error|Failed to export)")
            begin = time.monotonic()
            server.terminate()
            code, _ = server.ended()
            assert code == 0
            assert time.monotonic() - begin < 9


def test_collector_that_does_not_answer(models, tmp_path):
    """Goal: neither requests nor SIGTERM wait for a collector that takes messages and says nothing; what does not fit
    the queue is dropped; when the collector is well again it gets what comes then."""
    small = ["opentelemetry,bsp_max_queue_size=64", "opentelemetry,bsp_max_export_batch_size=16"]
    with (
        Collector().running() as collector,
        serving(models, tmp_path / "log", *options(collector.url, *small)) as server,
    ):
        collector.hold.clear()
        assert longest_s(server, 200) < 8
        assert collector.held.wait(WAIT_S)
        collector.hold.set()
        infer(server, "http", request_id="well again")
        collector.of_request("well again")
        assert len(collector.spans) <= 64 + 16 + 3 + 16
        collector.hold.clear()
        collector.held.clear()
        infer(server, "grpc")
        assert collector.held.wait(WAIT_S)
        begin = time.monotonic()
        server.terminate()
        code, said = server.ended()
        assert code == 0
        assert time.monotonic() - begin < 9
        assert "the collector did not take the last spans" in said
