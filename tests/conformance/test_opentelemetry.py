"""Spans of the real process as a collector gets them, whoever asks, and whose requests they tell of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import time
import urllib.request

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.conformance.collector import Collector
from tests.conformance.inputs import nap, one_number, sums
from tests.conformance.napping import occupy, until_waiting
from tests.conformance.processes import serving
from tests.conformance.traced_requests import (
    CONTEXTS,
    DOORS,
    KINDS,
    address,
    caller,
    fresh,
    infer,
    mark,
    options,
    traced_models,
)
from tests.conformance.wire import WAIT_S

MOMENTS = {
    "http": ["HTTP_RECV_START", "HTTP_RECV_END", "INFER_RESPONSE_COMPLETE", "HTTP_SEND_START", "HTTP_SEND_END"],
    "grpc": ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "INFER_RESPONSE_COMPLETE", "GRPC_SEND_START", "GRPC_SEND_END"],
}
COMPUTE = ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"]
CLOCK_NS = 50_000_000
"""How far the server's idea of a time may be from ours."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """simple, nap, count and context."""
    return traced_models(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def collector():
    """What the server sends to."""
    with Collector().running() as running:
        yield running


@pytest.fixture(scope="module")
def server(models, collector, tmp_path_factory):
    """A server that sends all spans to the collector."""
    more = ["opentelemetry,resource=deployment=test", "opentelemetry,resource=service.name=ours"]
    with serving(models, tmp_path_factory.mktemp("server") / "log", *options(collector.url, *more)) as running:
        yield running


@pytest.mark.parametrize("kind", list(KINDS))
def test_spans_of_a_request(server, collector, kind):
    """Goal: the caller's span, which came as a header or as metadata, over InferRequest over the model over compute;
    with the protocol's attributes and events, and times that can be."""
    parent, trace, span = caller()
    request_id = fresh()
    before = time.time_ns()
    infer(server, kind, request_id=request_id, headers={"traceparent": parent, "tracestate": "a=b,c=d"})
    after = time.time_ns()
    found = collector.of_request(request_id)
    root, model, compute = found["InferRequest"], found["simple"], found["compute"]
    assert set(found) == {"InferRequest", "simple", "compute"}
    assert {one.trace_id for one in found.values()} == {trace}
    assert (root.parent_id, model.parent_id, compute.parent_id) == (span, root.span_id, model.span_id)
    assert len({span, *(one.span_id for one in found.values())}) == 4
    assert {one.state for one in found.values()} == {"a=b,c=d"}
    assert {one.kind for one in found.values()} == {2}
    assert root.moments == MOMENTS[kind.partition(".")[0]]
    assert model.moments == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]
    assert compute.moments == COMPUTE
    number = model.attributes.pop("triton.trace_id")
    assert number > 0
    assert model.attributes == {
        "triton.model_name": "simple",
        "triton.model_version": 1,
        "triton.trace_parent_id": 0,
        "triton.request_id": request_id,
    }
    assert root.resource["service.name"] == "ours"
    assert root.resource["deployment"] == "test"
    assert root.scope == "triton-server"
    assert collector.requests[0] == ("/v1/traces", "application/x-protobuf")
    assert before - CLOCK_NS <= root.start_ns <= model.start_ns <= compute.start_ns
    assert compute.start_ns <= compute.end_ns <= model.end_ns <= root.end_ns <= after + CLOCK_NS
    for one in found.values():
        times = [ns for _, ns in one.events]
        assert times == sorted(times)
        assert (one.start_ns, one.end_ns) == (times[0], times[-1]) or one is root


def test_queue_and_compute(server, collector):
    """Goal: the spans tell waiting from executing. Method: a request of 200 ms, and one that waits behind it."""
    with tritonclient.grpc.InferenceServerClient(address(server, "grpc")) as client:
        begin = len(collector.wait(lambda spans: True))
        answers = occupy(server, client, 0.2)
        assert [answers.get(timeout=WAIT_S) for _ in range(2)] == [None, None]
        client.stop_stream()

    def both(spans):
        found = [one for one in spans[begin:] if one.name == "nap"]
        return len(found) == 2 and len([one for one in spans[begin:] if one.name == "compute"]) == 2

    spans = collector.wait(both)[begin:]
    models = sorted((one for one in spans if one.name == "nap"), key=lambda one: one.start_ns)
    first, second = (next(one for one in spans if one.parent_id == model.span_id) for model in models)
    assert first.end_ns - first.start_ns >= 200e6
    assert first.at("COMPUTE_OUTPUT_START") - first.at("COMPUTE_INPUT_END") >= 200e6 - 1e6
    assert second.start_ns >= first.end_ns
    assert second.start_ns - models[1].at("QUEUE_START") >= 100e6
    assert second.end_ns - second.start_ns < first.end_ns - first.start_ns


@pytest.mark.parametrize("kind", list(KINDS))
def test_context_in_the_model(server, collector, kind):
    """Goal: a model sees the trace in which it executes, to hand it on to whom it asks."""
    parent, trace, _ = caller()
    request_id = fresh()
    headers = {"traceparent": parent, "tracestate": "a=b"}
    result = infer(server, kind, "context", one_number(KINDS[kind], "X"), request_id=request_id, headers=headers)
    seen = json.loads(result.as_numpy("CONTEXT")[0])
    model = collector.of_request(request_id)["context"]
    assert seen == {"traceparent": f"00-{trace}-{model.span_id}-01", "tracestate": "a=b"}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", list(CONTEXTS))
def test_contexts(server, collector, door, name):
    """Goal: a valid context is the parent, sampled or not, as in the reference server; another one is as good as
    none, and never an error."""
    form, is_valid = CONTEXTS[name]
    _, trace, span = caller()
    request_id = fresh()
    infer(server, door, request_id=request_id, headers={"traceparent": form.format(trace=trace, span=span)})
    root = collector.of_request(request_id)["InferRequest"]
    if is_valid:
        assert (root.trace_id, root.parent_id) == (trace, span)
    else:
        assert root.trace_id not in {trace, "0" * 32}
        assert root.parent_id == ""


@pytest.mark.parametrize("door", DOORS)
def test_traces_of_their_own(server, collector, door):
    """Goal: requests without a context begin traces of their own."""
    ids = [fresh() for _ in range(3)]
    for request_id in ids:
        infer(server, door, request_id=request_id)
    roots = [collector.of_request(request_id)["InferRequest"] for request_id in ids]
    assert len({root.trace_id for root in roots}) == 3
    assert {(root.parent_id, root.state) for root in roots} == {("", "")}


@pytest.mark.parametrize("door", [*DOORS, "stream"])
def test_refused_requests(server, collector, door):
    """Goal: a request that a model refuses has its door's span, under its caller's."""
    parent, trace, span = caller()
    named = {"headers": {"traceparent": parent}}
    if door == "stream":
        with tritonclient.grpc.InferenceServerClient(address(server, "grpc")) as client:
            client.start_stream(lambda result, error: None, **named)
            client.async_stream_infer("simple", sums(tritonclient.grpc)[:1])
            client.stop_stream()
    else:
        with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1"):
            infer(server, door, inputs=sums(KINDS[door])[:1], **named)
    found = collector.wait(lambda spans: [one for one in spans if one.trace_id == trace])
    (root,) = [one for one in found if one.trace_id == trace]
    assert (root.name, root.parent_id) == ("InferRequest", span)


def test_requests_that_never_execute(server, collector):
    """Goal: requests whose client left, or whose deadline passed, while they waited have a span without `compute`."""
    left, late = caller(), caller()
    with tritonclient.grpc.InferenceServerClient(address(server, "grpc")) as client:
        answers = occupy(server, client, 1)
        done = queue.SimpleQueue()
        longer = nap(tritonclient.grpc, 5)
        call = client.async_infer(
            "nap", longer, lambda result, error: done.put(error), headers={"traceparent": left[0]}
        )
        until_waiting(server, 2)
        call.cancel()
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer("nap", longer, client_timeout=0.1, headers={"traceparent": late[0]})
        assert [answers.get(timeout=WAIT_S) for _ in range(2)] == [None, None]
        client.stop_stream()
    mark(server, collector)
    for _, trace, span in (left, late):
        found = {one.name: one for one in collector.spans if one.trace_id == trace}
        assert set(found) == {"InferRequest", "nap"}
        assert found["InferRequest"].parent_id == span
        assert found["nap"].moments == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]


@pytest.mark.parametrize("door", ["stream", "generate_stream"])
def test_answers_in_pieces(server, collector, door):
    """Goal: a decoupled model's request is one family of spans, with each answer's completion."""
    parent, trace, span = caller()
    if door == "stream":
        with tritonclient.grpc.InferenceServerClient(address(server, "grpc")) as client:
            client.start_stream(lambda result, error: None, headers={"traceparent": parent})
            client.async_stream_infer("count", one_number(tritonclient.grpc, "N"))
            client.stop_stream()
    else:
        url = f"http://{address(server, 'http')}/v2/models/count/generate_stream"
        asked = urllib.request.Request(url, json.dumps({"N": 1}).encode(), {"traceparent": parent})
        with urllib.request.urlopen(asked, timeout=WAIT_S) as reply:
            assert reply.read().count(b"data: ") == 2

    def family(spans):
        found = {one.name: one for one in spans if one.trace_id == trace}
        return found if {"InferRequest", "count"} <= set(found) else None

    found = family(collector.wait(family))
    root, model = found["InferRequest"], found["count"]
    assert (root.parent_id, model.parent_id) == (span, root.span_id)
    assert root.moments.count("INFER_RESPONSE_COMPLETE") == 2
    assert root.moments[:2] == MOMENTS["grpc" if door == "stream" else "http"][:2]


@contextlib.contextmanager
def changed(server, model=None, **settings):
    """The server's trace settings, back as they were when the block is left."""
    with tritonclient.grpc.InferenceServerClient(address(server, "grpc")) as client:
        try:
            client.update_trace_settings(model, settings)
            yield
        finally:
            client.update_trace_settings(model, dict.fromkeys(settings))


def traced_of(server, collector, count, door="http", model="simple", inputs=None, **named):
    """Which of so many requests without a context are traced, by their places. A last one with a context closes."""
    ids = [fresh() for _ in range(count)]
    module = KINDS[door]
    with module.InferenceServerClient(address(server, door)) as client:
        for request_id in ids:
            client.infer(model, inputs or sums(module), request_id=request_id, **named)
    return ids, lambda: [
        place
        for place, request_id in enumerate(ids)
        if any(one.attributes.get("triton.request_id") == request_id for one in collector.spans)
    ]


@pytest.mark.parametrize("door", DOORS)
def test_rate_count_and_level(server, collector, door):
    """Goal: every third request is traced, the callers' own choice aside; a count ends it; rate 0 leaves only those
    with a context, and level OFF none. Method: a request that is traced marks the end of each phase."""
    with changed(server, trace_rate="3"):
        parent, _, _ = caller("00")
        _, traced = traced_of(server, collector, 3, door)
        infer(server, door, request_id=(chosen := fresh()), headers={"traceparent": parent})
        collector.of_request(chosen)
        assert traced() == [2]
        _, traced = traced_of(server, collector, 6, door)
        mark(server, collector)
        assert traced() == [2, 5]
    with changed(server, trace_count="2"):
        _, traced = traced_of(server, collector, 5, door)
        mark(server, collector)
        assert traced() == [0, 1]
    with changed(server, trace_rate="0"):
        _, traced = traced_of(server, collector, 5, door)
        mark(server, collector)
        assert traced() == []
    with changed(server, trace_level="OFF"):
        parent, trace, _ = caller()
        infer(server, door, headers={"traceparent": parent})
    mark(server, collector)
    assert not [one for one in collector.spans if one.trace_id == trace]


def test_settings_of_one_model(server, collector):
    """Goal: a model with a level of its own is traced, or not, whatever holds for the others."""
    with changed(server, trace_level="OFF"), changed(server, "simple", trace_level="TIMESTAMPS"):
        with tritonclient.http.InferenceServerClient(address(server, "http")) as client:
            client.infer("nap", nap(tritonclient.http, 0), request_id=(unseen := fresh()))
        mark(server, collector)
    assert not [one for one in collector.spans if one.attributes.get("triton.request_id") == unseen]


def test_many_at_once(server, collector):
    """Goal: of hundreds of requests at a time each has its own family, and none is lost."""
    ids = [fresh() for _ in range(200)]

    async def main():
        module = tritonclient.grpc.aio
        async with module.InferenceServerClient(address(server, "grpc")) as client:
            await asyncio.gather(*(client.infer("simple", sums(module), request_id=one) for one in ids))

    asyncio.run(asyncio.wait_for(main(), 30))

    def of_models(spans):
        return [one for one in spans if one.attributes.get("triton.request_id") in set(ids)]

    spans = collector.wait(lambda spans: len(of_models(spans)) >= len(ids))
    models = of_models(spans)
    by_id = {one.span_id: one for one in spans}
    assert len(models) == len({one.trace_id for one in models}) == 200
    assert all(by_id[one.parent_id].trace_id == one.trace_id for one in models)
