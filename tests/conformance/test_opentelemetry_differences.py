"""The spans of this project beside the reference server's, request by request."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import urllib.request

import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.conformance.collector import Collector
from tests.conformance.inputs import one_number, sums
from tests.conformance.known_differences import OPENTELEMETRY_DIFFERENCES
from tests.conformance.servers import asked_again, reference_script, running_despina, running_reference
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

SERIAL = {"triton.trace_id", "triton.request_id"}
"""Attributes that differ from run to run."""


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
    result = infer(server, door, "context", one_number(KINDS[door], "X"), request_id=request_id, headers=headers)
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
            "attributes": {
                key: value
                for key, value in one.attributes.items()
                if key not in SERIAL and not key.startswith("despina.")  # what we tell besides
            },
            "service": one.resource["service.name"],
            "scope": one.scope,
        }
        for name, one in family.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_same_spans_as_the_reference_server(tmp_path):
    """Goal: the same names, parents, events and attributes as the reference server's, but for the known differences,
    each of which is one."""
    models = traced_models(tmp_path)

    def told_by(run, folder):
        with Collector().running() as own, run(models, folder, options(own.url, delay_ms=10)) as server:
            return conversation(server, own)

    def unexpected(folder):
        """What differs and is not known, and the known differences that are none."""
        expected = told_by(running_reference, folder)
        differing = {name for name in expected if ours[name] != expected[name]}
        known = {pattern: fnmatch.filter(differing, pattern) for pattern in OPENTELEMETRY_DIFFERENCES}
        unknown = differing.difference(*known.values())
        return {name: (expected[name], ours[name]) for name in unknown}, [one for one in known if not known[one]]

    ours = told_by(running_despina, tmp_path)
    assert asked_again(unexpected, ({}, []), tmp_path) == ({}, [])
