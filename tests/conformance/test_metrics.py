"""The metrics door's own options, on the real process. What the page says after a conversation is compared with the
reference server's in test_differences.py (metrics_suite.py)."""

from __future__ import annotations

import json
import socket
import urllib.request

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from tests.conformance.metrics_suite import (
    METRICS_SUITES,
    WAIT_S,
    Conversation,
    by_model,
    families,
    listening,
    scrape,
    settled_page,
    wait,
)
from tests.conformance.servers import running_in_process

MODELS = METRICS_SUITES[0].models
NEWER = {"nv_model_load_duration_secs"}
"""Families of the newest release that the recorded one does not have."""
MACHINE = ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A server whose page is at an address of its own, shows histograms, and looks at the machine on every scrape."""
    options = ("--metrics-address=127.0.0.2", "--metrics-config=histogram_latencies=true", "--metrics-interval-ms=0")
    with running_in_process(MODELS, tmp_path_factory.mktemp("elsewhere"), options) as running:
        wait(lambda: listening(running.metrics_port, "127.0.0.2"))
        yield running


def machine(text):
    return {name: value for line in text.splitlines() for name, _, value in [line.partition(" ")] if name in MACHINE}


def test_nothing_more_than_the_protocols_families(tmp_path):
    """Goal: the page has the reference server's families and the newest release's, our own, which say so, and no
    others; and a long interval shows the machine as it was."""
    recorded = json.loads(METRICS_SUITES[0].golden.read_text())
    with running_in_process(MODELS, tmp_path, ("--metrics-interval-ms=3600000",)) as server:
        wait(lambda: listening(server.metrics_port))
        first = scrape(server)
        ours = {name for name in families(first) if name.startswith("despina_")}
        assert set(families(first)) - ours == set(recorded["fresh"]) | NEWER
        ballast = bytearray(b"x") * (64 << 20)  # it shows in the machine's memory, if that is looked at
        assert machine(scrape(server)) == machine(first)
        assert machine(first).keys() == set(MACHINE)
        del ballast


def test_address_and_interval(elsewhere):
    """Goal: the door is where it was asked to be and only there; an interval of 0 shows the machine as it is."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", elsewhere.metrics_port), WAIT_S)
    first = machine(scrape(elsewhere, "127.0.0.2"))
    wait(lambda: machine(scrape(elsewhere, "127.0.0.2")) != first)


def test_histogram_of_first_responses(elsewhere):
    """Goal: for decoupled models only, and once for each request that was answered, in the protocol's buckets."""
    with grpc.insecure_channel(f"127.0.0.1:{elsewhere.grpc_port}") as channel:
        conversation = Conversation(elsewhere, service_pb2_grpc.GRPCInferenceServiceStub(channel))
        for steps in (["a", "b"], ["a"], []):
            conversation.stream(steps)
        conversation.infer("fine")
    found = by_model(families(settled_page(elsewhere, "127.0.0.2")))
    assert found["nv_inference_first_response_histogram_ms"]["type"] == "histogram"
    assert not any(name.startswith("nv_inference_first_response_histogram_ms of tasks") for name in found)
    series = found["nv_inference_first_response_histogram_ms of pieces/1"]
    labels = '{model="pieces",version="1"'
    assert list(series) == [
        f"nv_inference_first_response_histogram_ms_count{labels}}}",
        f"nv_inference_first_response_histogram_ms_sum{labels}}}",
        *(
            f'nv_inference_first_response_histogram_ms_bucket{labels},le="{edge}"}}'
            for edge in ("100", "500", "2000", "5000", "+Inf")
        ),
    ]
    assert series[f"nv_inference_first_response_histogram_ms_count{labels}}}"] == 2
    assert series[f'nv_inference_first_response_histogram_ms_bucket{labels},le="+Inf"}}'] == 2


def test_no_page(tmp_path):
    """Goal: with --allow-metrics=false nothing listens there, and all else is served."""
    with running_in_process(MODELS, tmp_path, ("--allow-metrics=false",)) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/ready", timeout=WAIT_S) as reply:
            assert reply.status == 200
        wait(lambda: listening(server.grpc_port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.metrics_port), WAIT_S)
        log = server.log.read_text()
    assert "Started GRPCInferenceService" in log
    assert "Started Metrics Service" not in log
