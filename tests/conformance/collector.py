"""A collector of OpenTelemetry traces: an HTTP server that keeps the spans it is sent, as protobuf or as JSON."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import attrs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ARRIVE_S_MAX = 30.0
"""Spans come when the exporter's thread finds the time."""


@attrs.frozen(eq=False)
class Span:
    """A span as both encodings have it. Ids are hexadecimal, times ns since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    kind: int
    start_ns: int
    end_ns: int
    events: list[tuple[str, int]]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str

    @property
    def moments(self) -> list[str]:
        """The names of the events."""
        return [name for name, _ in self.events]

    def at(self, name: str) -> int:
        """When the event of that name was."""
        return dict(self.events)[name]


class Collector:
    """Give its `url` to a server, then `wait` for what comes."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.requests: list[tuple[str, str]] = []
        """The path and the content type of each message."""
        self.hold = threading.Event()
        """While it is clear, messages are read and not answered."""
        self.hold.set()
        self.status = 200
        self.held = threading.Event()
        """A message has come that had to wait."""
        self._news = threading.Condition()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def wait(self, enough: Callable[[list[Span]], Any]) -> list[Span]:
        """The spans, once `enough` is true of them. AssertionError where it never is."""
        with self._news:
            met = self._news.wait_for(lambda: enough(self.spans), ARRIVE_S_MAX)
            assert met, [(span.name, span.moments) for span in self.spans]
            return list(self.spans)

    def of_request(self, request_id: str) -> dict[str, Span]:
        """The spans of the request with that id, by their names, once its whole family is there."""

        def family(spans: list[Span]) -> dict[str, Span]:
            for model in spans:
                if model.attributes.get("triton.request_id") == request_id:
                    kin = {model.span_id, model.parent_id}
                    found = {one.name: one for one in spans if kin & {one.span_id, one.parent_id}}
                    if {"InferRequest", "compute"} <= set(found):
                        return found
            return {}

        return family(self.wait(family))

    def _take(self, path: str, content_type: str, body: bytes) -> None:
        spans = spans_of(content_type, body)
        with self._news:
            self.requests.append((path, content_type))
            self.spans += spans
            self._news.notify_all()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not collector.hold.is_set():
                    collector.held.set()
                collector.hold.wait()
                if collector.status == 200:
                    collector._take(self.path, self.headers["Content-Type"], body)
                with contextlib.suppress(OSError):
                    self.send_response(collector.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    @contextlib.contextmanager
    def running(self) -> Iterator[Collector]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.hold.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def spans_of(content_type: str, body: bytes) -> list[Span]:
    """What one message holds."""
    return _from_json(json.loads(body)) if "json" in content_type else _from_protobuf(body)


def _from_json(message: Any) -> list[Span]:
    def attributes(of: Any) -> dict[str, Any]:
        values = {one["key"]: next(iter(one["value"].items())) for one in of.get("attributes", ())}
        return {key: int(value) if kind == "intValue" else value for key, (kind, value) in values.items()}

    return [
        Span(
            span["name"],
            span["traceId"],
            span["spanId"],
            span.get("parentSpanId", ""),
            span.get("traceState", ""),
            span["kind"],
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            [(event["name"], int(event["timeUnixNano"])) for event in span.get("events", ())],
            attributes(span),
            attributes(resource["resource"]),
            scope["scope"]["name"],
        )
        for resource in message["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def _from_protobuf(body: bytes) -> list[Span]:
    def attributes(of: Any) -> dict[str, Any]:
        return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}

    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.trace_state,
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            [(event.name, event.time_unix_nano) for event in span.events],
            attributes(span),
            attributes(resource.resource),
            scope.scope.name,
        )
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
