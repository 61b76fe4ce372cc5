"""Spans of the real process as a collector gets them, whoever asks and whatever becomes of the collector."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import random
import socket
import time
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.conformance.known_differences import OPENTELEMETRY_DIFFERENCES
from tests.conformance.napping import nap, occupy
from tests.conformance.processes import serving
from tests.conformance.servers import reference_script, running_despina, running_reference
from tests.conformance.wire import WAIT_S, wire_models

Collector = pytest.importorskip("tests.conformance.collector", reason="the extra `otel` is not installed").Collector

KINDS = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
DOORS = ["http", "grpc"]
MOMENTS = {
    "http": ["HTTP_RECV_START", "HTTP_RECV_END", "INFER_RESPONSE_COMPLETE", "HTTP_SEND_START", "HTTP_SEND_END"],
    "grpc": ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "INFER_RESPONSE_COMPLETE", "GRPC_SEND_START", "GRPC_SEND_END"],
}
COMPUTE = ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"]
SERIAL = {"triton.trace_id", "triton.request_id"}
"""Attributes that differ from run to run."""
CLOCK_NS = 50_000_000
"""How far the server's idea of a time may be from ours."""

CONTEXT_CONFIG = """
name: "context" backend: "python" max_batch_size: 0
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "CONTEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
CONTEXT_MODEL = '''
"""Tells in which trace it executes."""
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        texts = [np.array([request.trace().get_context() or ""], np.object_) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("CONTEXT", text)]) for text in texts]
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """simple, nap, count, and context, which tells in which trace it executes."""
    models = wire_models(tmp_path_factory.mktemp("traced"))
    (models / "context" / "1").mkdir(parents=True)
    (models / "context" / "config.pbtxt").write_text(CONTEXT_CONFIG)
    (models / "context" / "1" / "model.py").write_text(CONTEXT_MODEL)
    return models


def options(url, *more, rate=1, delay_ms=20):
    """Everything is traced, unless `rate` says otherwise, and sent soon."""
    settings = ["mode=opentelemetry", "level=TIMESTAMPS", f"rate={rate}", f"opentelemetry,url={url}"]
    settings += [f"opentelemetry,bsp_schedule_delay={delay_ms}", *more]
    return [f"--trace-config={setting}" for setting in settings]


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


def caller(flags="01"):
    """The context of some span, which nobody else has: traceparent, trace id, span id."""
    trace, span = f"{random.getrandbits(128) or 1:032x}", f"{random.getrandbits(64) or 1:016x}"
    return f"00-{trace}-{span}-{flags}", trace, span


def fresh():
    """An id for a request."""
    return f"{random.getrandbits(64):x}"


def address(server, kind):
    return f"127.0.0.1:{server.http_port if kind.startswith('http') else server.grpc_port}"


def sums(module):
    """The inputs of `simple`."""
    made = [module.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for one in made:
        one.set_data_from_numpy(np.ones((1, 16), np.int32))
    return made


def one_number(module, name="X"):
    """The input of `context`; of `count` by the name of N."""
    made = module.InferInput(name, [1], "INT32")
    made.set_data_from_numpy(np.ones(1, np.int32))
    return [made]


def infer(server, kind, model="simple", inputs=None, **named):
    """One request of that client."""
    module = KINDS[kind]
    arguments = (model, inputs or sums(module))

    async def ask():
        async with module.InferenceServerClient(address(server, kind)) as client:
            return await client.infer(*arguments, **named)

    if kind.endswith("aio"):
        return asyncio.run(asyncio.wait_for(ask(), WAIT_S))
    with module.InferenceServerClient(address(server, kind)) as client:
        return client.infer(*arguments, **named)


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
    result = infer(server, kind, "context", one_number(KINDS[kind]), request_id=request_id, headers=headers)
    seen = json.loads(result.as_numpy("CONTEXT")[0])
    model = collector.of_request(request_id)["context"]
    assert seen == {"traceparent": f"00-{trace}-{model.span_id}-01", "tracestate": "a=b"}


CONTEXTS = {
    "sampled": ("00-{trace}-{span}-01", True),
    "not sampled": ("00-{trace}-{span}-00", True),
    "other flags": ("00-{trace}-{span}-ff", True),
    "a later version": ("01-{trace}-{span}-01-more", True),
    "version ff": ("ff-{trace}-{span}-01", False),
    "too much": ("00-{trace}-{span}-01-more", False),
    "no trace": ("00-" + "0" * 32 + "-{span}-01", False),
    "no span": ("00-{trace}-" + "0" * 16 + "-01", False),
    "short": ("00-{trace}-12-01", False),
    "no hexadecimal": ("00-{trace}-{span}-0g", False),
    "empty": ("", False),
}


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


def mark(server, collector):
    """Returns when all that was traced before has come: spans are sent in order."""
    parent, _, _ = caller()
    infer(server, "http", request_id=(request_id := fresh()), headers={"traceparent": parent})
    collector.of_request(request_id)


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


def test_last_spans(models, collector, tmp_path):
    """Goal: what waits for its turn to be sent is sent when the server stops, and costs no time."""
    with serving(models, tmp_path / "log", *options(collector.url, delay_ms=60_000)) as server:
        for door in DOORS:
            infer(server, door, request_id=f"last {door}")
        begin = time.monotonic()
        server.terminate()
        assert server.ended()[0] == 0
        assert time.monotonic() - begin < 5
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
            assert longest_s(server, 200) < 2
            server.said("(Transient error|Failed to export)")
            begin = time.monotonic()
            server.terminate()
            code, _ = server.ended()
            assert code == 0
            assert time.monotonic() - begin < 6


def test_collector_that_does_not_answer(models, tmp_path):
    """Goal: neither requests nor SIGTERM wait for a collector that takes messages and says nothing; what does not fit
    the queue is dropped; when the collector is well again it gets what comes then."""
    small = ["opentelemetry,bsp_max_queue_size=64", "opentelemetry,bsp_max_export_batch_size=16"]
    with (
        Collector().running() as collector,
        serving(models, tmp_path / "log", *options(collector.url, *small)) as server,
    ):
        collector.hold.clear()
        assert longest_s(server, 200) < 2
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
        assert time.monotonic() - begin < 6
        assert "the collector did not take the last spans" in said


def conversation(server, collector):
    """What becomes of the same requests: by their names the family of spans, without ids and times; and what the model
    sees. Over gRPC the reference server now and then forgets a context, and mostly its state, so that it may be asked
    five times, without state."""
    contexts = CONTEXTS | {"none": ("", False), "capitals": ("00-{trace}-{span}-01", True)}
    said = {}
    for door in DOORS:
        for name, (form, is_valid) in contexts.items():
            for _ in range(5 if door == "grpc" and is_valid else 1):
                answer = said[f"{door} {name}"] = ask(server, collector, door, name, form)
                if answer[1]:
                    break
        said[f"{door} refused"] = refused(server, collector, door)
        said[f"{door} in pieces"] = in_pieces(server, collector, door)
    return said


def refused(server, collector, door):
    """The spans of a request that the model refuses. Nothing comes of it that could be waited for: of another one."""
    parent, trace, _ = caller()
    with contextlib.suppress(InferenceServerException):
        infer(server, door, inputs=sums(KINDS[door])[:1], headers={"traceparent": parent})
    mark(server, collector)
    return [one.name for one in collector.spans if one.trace_id == trace]


def in_pieces(server, collector, door):
    """The family of a request to a decoupled model, which answers twice; how often each moment is noted aside."""
    request_id = fresh()
    if door == "grpc":
        with tritonclient.grpc.InferenceServerClient(address(server, door)) as client:
            client.start_stream(lambda result, error: None)
            client.async_stream_infer("count", one_number(tritonclient.grpc, "N"), request_id=request_id)
            client.stop_stream()
    else:
        url = f"http://{address(server, door)}/v2/models/count/generate_stream"
        with urllib.request.urlopen(url, json.dumps({"N": 1, "id": request_id}).encode(), timeout=WAIT_S) as reply:
            reply.read()
    family = told(collector.of_request(request_id), "")
    return {name: {**one, "moments": sorted(set(one["moments"]))} for name, one in family.items()}


def ask(server, collector, door, name, form):
    """One request of `context`: its family of spans, whether it is the caller's, and what the model saw."""
    _, trace, span = caller()
    if name == "capitals":
        trace, span = trace.upper(), span.upper()
    headers = {"traceparent": form.format(trace=trace, span=span)} if form else {}
    if door == "http":
        headers["tracestate"] = "a=b,c=d"
    request_id = fresh()
    result = infer(server, door, "context", one_number(KINDS[door]), request_id=request_id, headers=headers)
    family = collector.of_request(request_id)
    seen = json.loads(result.as_numpy("CONTEXT")[0])
    version, trace_id, span_id, flags = seen.pop("traceparent").split("-")
    names = {one.span_id: one.name for one in family.values()}
    seen |= {"version": version, "span": names[span_id], "flags": flags}
    assert trace_id == family["InferRequest"].trace_id
    return told(family, span.lower()), trace_id == trace.lower(), seen


def told(family, span):
    """A family of spans, without what differs from run to run. `span` is the caller's."""
    names = {one.span_id: one.name for one in family.values()} | {span: "the caller"}
    return {
        name: {
            "parent": names.get(one.parent_id, one.parent_id),
            "state": one.state,
            "kind": one.kind,
            "moments": one.moments,
            "attributes": {key: value for key, value in one.attributes.items() if key not in SERIAL},
            "service": one.resource["service.name"],
            "scope": one.scope,
        }
        for name, one in family.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_same_spans_as_the_reference_server(models, collector, tmp_path):
    """Goal: the same names, parents, events and attributes as the reference server's, but for the known differences,
    each of which is one."""
    found = []
    for name, run in (("reference", running_reference), ("despina", running_despina)):
        (tmp_path / name).mkdir()
        with Collector().running() as own, run(models, tmp_path / name, options(own.url, delay_ms=10)) as server:
            found.append(conversation(server, own))
    expected, ours = found
    differing = {name for name in expected if ours[name] != expected[name]}
    known = {pattern: fnmatch.filter(differing, pattern) for pattern in OPENTELEMETRY_DIFFERENCES}
    assert {name: (expected[name], ours[name]) for name in differing.difference(*known.values())} == {}
    assert [pattern for pattern, names in known.items() if not names] == []
