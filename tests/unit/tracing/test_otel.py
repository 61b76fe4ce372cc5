"""Spans as a collector receives them: a small HTTP server here takes what the exporter sends."""

from __future__ import annotations

import http.server
import json
import threading

import despina
import pytest
from despina.engine.port.settings import TraceSettings

from tests.fakes import FakeBackend, answer, chain, request, write_ensemble, write_model

otel = pytest.importorskip("despina.frontends.otel", reason="the extra `otel` is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector():
    """`.url` to send to, `.received` the messages that came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.received = []
    server.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings(collector, **options):
    return TraceSettings(mode="opentelemetry", level=["TIMESTAMPS"], rate=1, options={"url": collector.url}, **options)


def spans(collector):
    return {
        span.name: span
        for message in collector.received
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def events(span):
    return [event.name for event in span.events]


def attributes(span_or_resource):
    return {one.key: one.value.string_value or one.value.int_value for one in span_or_resource.attributes}


async def test_collector_without_a_scheme(collector, tmp_path):
    """Goal: an address without a scheme is http's, as the reference server takes it."""
    collector.url = collector.url.removeprefix("http://")
    write_model(tmp_path, "m")
    async with despina.open_engine(
        tmp_path, backends={"fake": FakeBackend()}, open_traces=otel.open_exporter, trace=settings(collector)
    ) as engine:
        await engine.infer_request(request())
    assert "m" in spans(collector)


async def test_spans_of_one_request(collector, tmp_path):
    """Goal: InferRequest over the model over compute, with the protocol's attributes and events, all of one trace; the
    model can read the context that it executes in."""
    contexts = []

    async def execute(batch):
        contexts.extend(job.request.trace.context() for job in batch.jobs)
        answer(batch)

    backend = FakeBackend()
    backend.execute = execute
    write_model(tmp_path, "m")
    trace = settings(collector, resource={"service.name": "ours", "a": "b"})
    async with despina.open_engine(
        tmp_path, backends={"fake": backend}, open_traces=otel.open_exporter, trace=trace
    ) as engine:
        chosen = request(id="r1")
        chosen.trace = engine.tracer.sample("m", PARENT, "k=v")
        chosen.trace.stamp("HTTP_RECV_START")
        await engine.infer_request(chosen)
        chosen.trace.stamp("HTTP_SEND_END")
        chosen.trace.stamp("MINE_START")
        chosen.trace.stamp("MINE_END")
        chosen.trace.finish()
    found = spans(collector)
    assert set(found) == {"InferRequest", "m", "compute", "MINE"}
    root, model, compute = found["InferRequest"], found["m"], found["compute"]
    assert {span.trace_id.hex() for span in found.values()} == {"0af7651916cd43dd8448eb211c80319c"}
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert (model.parent_span_id, compute.parent_span_id) == (root.span_id, model.span_id)
    assert found["MINE"].parent_span_id == model.span_id
    assert {span.kind for span in found.values()} == {2}
    assert root.trace_state == "k=v"
    assert events(root) == ["HTTP_RECV_START", "INFER_RESPONSE_COMPLETE", "HTTP_SEND_END"]
    assert events(model) == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]
    assert events(compute) == ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"]
    assert attributes(model) == {
        "triton.model_name": "m", "triton.model_version": 1, "triton.trace_id": 1, "triton.trace_parent_id": 0,
        "triton.request_id": "r1",
    }  # fmt: skip
    assert attributes(compute) == {
        "despina.batch.rows": 1, "despina.batch.requests": 1, "despina.batch.reason": "single",
    }  # fmt: skip
    assert root.start_time_unix_nano <= compute.start_time_unix_nano <= compute.end_time_unix_nano
    (resource,) = {message.resource_spans[0].resource.SerializeToString() for message in collector.received}
    first = collector.received[0].resource_spans[0]
    assert resource
    assert attributes(first.resource)["service.name"] == "ours"
    assert attributes(first.resource)["a"] == "b"
    assert first.scope_spans[0].scope.name == "triton-server"
    (context,) = contexts
    assert json.loads(context)["traceparent"] == f"00-{model.trace_id.hex()}-{model.span_id.hex()}-01"


async def test_a_trace_of_its_own(collector, tmp_path):
    """Goal: without a caller's context a trace begins here, and the service has the name dashboards look for."""
    write_model(tmp_path, "m")
    async with despina.open_engine(
        tmp_path, backends={"fake": FakeBackend()}, open_traces=otel.open_exporter, trace=settings(collector)
    ) as engine:
        await engine.infer_request(request())
    found = spans(collector)
    assert found["InferRequest"].parent_span_id == b""
    assert attributes(collector.received[0].resource_spans[0].resource)["service.name"] == "triton-inference-server"


async def test_spans_of_an_ensemble(collector, tmp_path):
    """Goal: below the ensemble's span those of its steps' models, each with its compute, all of one trace; one door."""
    contexts = []

    async def execute(batch):
        contexts.extend(job.request.trace.context() for job in batch.jobs)
        answer(batch)

    backend = FakeBackend()
    backend.execute = execute
    for name in "ab":
        write_model(tmp_path, name)
    write_ensemble(tmp_path, "e", steps=chain("a", "b"))
    async with despina.open_engine(
        tmp_path, backends={"fake": backend}, open_traces=otel.open_exporter, trace=settings(collector)
    ) as engine:
        await engine.infer_request(request("e"))
    all_spans = [
        span
        for message in collector.received
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    found = spans(collector)
    assert sorted(span.name for span in all_spans) == ["InferRequest", "a", "b", "compute", "compute", "e"]
    assert len({span.trace_id for span in all_spans}) == 1
    assert found["e"].parent_span_id == found["InferRequest"].span_id
    assert found["a"].parent_span_id == found["b"].parent_span_id == found["e"].span_id
    parents = {span.parent_span_id for span in all_spans if span.name == "compute"}
    assert parents == {found["a"].span_id, found["b"].span_id}
    inside = [json.loads(context)["traceparent"].split("-")[2] for context in contexts]
    assert inside == [found["a"].span_id.hex(), found["b"].span_id.hex()]
    assert attributes(found["a"])["triton.trace_parent_id"] == attributes(found["e"])["triton.trace_id"]
