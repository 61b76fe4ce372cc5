"""Traces as OpenTelemetry spans, sent to a collector over OTLP/HTTP. Needs the extra `otel`.

    InferRequest                    the door's moments as events, and each INFER_RESPONSE_COMPLETE
     └─ <model>                     REQUEST_START, QUEUE_START, REQUEST_END
         ├─ compute                 COMPUTE_START ... COMPUTE_END
         ├─ <x>                     a model's own <x>_START and <x>_END
         └─ <model of a step>       of an ensemble, with the same below it

Spans are made from finished traces, on the trace worker's thread; the SDK's batch processor sends them from its own.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState

from ..engine.observe.tracing import MODEL_KNOWN
from ..engine.port.sink import BatchFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.port.settings import TraceSettings
    from ..engine.port.sink import FinishedTrace, TraceFacts, TraceGroup

log = logging.getLogger("despina.otel")

SERVICE: Final = "triton-inference-server"
"""`service.name` unless the options say another: what dashboards for the reference server look for."""
SCOPE: Final = "triton-server"

CLOSE_S: Final = 2.0
"""How long stopping waits for a collector."""

_DOOR: Final = ("HTTP_", "GRPC_")
_ANSWERED: Final = "INFER_RESPONSE_COMPLETE"
"""Of the whole request, as the reference server has it."""
_COMPUTE: Final = ("COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")
_MODEL: Final = ("REQUEST_START", "QUEUE_START", "REQUEST_END")

Moment = tuple[str, int]
"""Name, and nanoseconds since 1970."""


def open_exporter(settings: TraceSettings) -> SpanExport:
    """For `Engine(open_traces=...)`, in OpenTelemetry mode. Opens no connection before there is a span."""
    options = settings.options
    url = options.get("url")
    exporter = OTLPSpanExporter(endpoint=f"http://{url}" if url and "://" not in url else url)

    def number(option: str) -> int | None:
        """None lets the SDK read its environment variable."""
        return int(options[option]) if option in options else None

    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=number("bsp_max_queue_size"),
        schedule_delay_millis=number("bsp_schedule_delay"),
        max_export_batch_size=number("bsp_max_export_batch_size"),
    )
    return SpanExport(processor, Resource.create({SERVICE_NAME: SERVICE, **settings.resource}))


class SpanExport:
    """A trace sink. What the collector does not take in time is dropped by the processor, which says so in the log."""

    def __init__(self, processor: BatchSpanProcessor, resource: Resource) -> None:
        self._processor = processor
        self._resource = resource
        self._scope = InstrumentationScope(SCOPE)
        self._ids = RandomIdGenerator()

    def take(self, finished: FinishedTrace) -> None:
        for span in self.spans_of(finished):
            self._processor.on_end(span)

    def retire(self, setting: TraceGroup) -> None:
        """Spans do not wait for the end of a setting."""

    def close(self) -> None:
        """Sends what waits. What the collector has not taken within CLOSE_S is lost: the SDK would try for up to 30 s,
        and nobody who stops a server waits for that. Its thread ends with the process."""
        ending = threading.Thread(target=self._processor.shutdown, name="despina/spans", daemon=True)
        ending.start()
        ending.join(CLOSE_S)
        if ending.is_alive():
            log.warning("the collector did not take the last spans within %g s: they are lost", CLOSE_S)

    def spans_of(self, finished: FinishedTrace) -> list[ReadableSpan]:
        """Parents before children."""
        spans = self._own_spans_of(finished)
        for child in finished.children:
            spans += self.spans_of(child)
        return spans

    def _own_spans_of(self, finished: FinishedTrace) -> list[ReadableSpan]:
        trace = finished.trace
        since_1970 = time.time_ns() - time.monotonic_ns()
        moments = [
            (note[0], note[1] + since_1970)
            for note in finished.notes
            if isinstance(note, tuple) and note[0] != MODEL_KNOWN
        ]
        if not moments:
            return []
        root = self._context(trace, trace.span_id)
        parent = trace.parent
        caller = None if parent is None else self._context(trace, parent.span_id, is_remote=True)
        door = [moment for moment in moments if _is_whole(moment[0])]
        # What a request causes has no door: its parent is the span of the model that caused it.
        spans = [] if trace.parent_id else [self._span("InferRequest", root, caller, door, within=moments)]
        rest = [moment for moment in moments if not _is_whole(moment[0])]
        if not rest:
            return spans  # refused before a model had it
        model = self._context(trace, trace.model_span_id)
        own = [moment for moment in rest if moment[0] in _MODEL]
        spans.append(self._span(trace.model_name, model, root, own, within=rest, attributes=_attributes(trace)))
        compute = [moment for moment in rest if moment[0] in _COMPUTE]
        if compute:
            spans.append(self._child(trace, "compute", model, compute, _batch_attributes(finished)))
        custom = [moment for moment in rest if moment[0] not in _MODEL and moment[0] not in _COMPUTE]
        ends = {name.removesuffix("_END"): (name, ns) for name, ns in custom if name.endswith("_END")}
        for name, ns in custom:
            title = name.removesuffix("_START")
            if title != name and title in ends:
                spans.append(self._child(trace, title, model, [(name, ns), ends[title]]))
        return spans

    def _child(
        self,
        trace: TraceFacts,
        name: str,
        parent: SpanContext,
        moments: Sequence[Moment],
        attributes: dict[str, str | int] | None = None,
    ) -> ReadableSpan:
        context = self._context(trace, self._ids.generate_span_id())
        return self._span(name, context, parent, moments, within=moments, attributes=attributes)

    def _context(self, trace: TraceFacts, span_id: int, *, is_remote: bool = False) -> SpanContext:
        parent = trace.parent
        state = TraceState.from_header([parent.state]) if parent is not None and parent.state else None
        return SpanContext(trace.trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED), state)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        moments: Sequence[Moment],
        *,
        within: Sequence[Moment],
        attributes: dict[str, str | int] | None = None,
    ) -> ReadableSpan:
        """A span that lasts as long as `within` and has the moments as events, in order of time."""
        times = [ns for _, ns in within]
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            [Event(title, timestamp=ns) for title, ns in sorted(moments, key=lambda moment: moment[1])],
            kind=SpanKind.SERVER,
            instrumentation_scope=self._scope,
            start_time=min(times),
            end_time=max(times),
        )


def _is_whole(name: str) -> bool:
    """Whether a moment is one of the whole request."""
    return name.startswith(_DOOR) or name == _ANSWERED


def _attributes(trace: TraceFacts) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "triton.model_name": trace.model_name,
        "triton.model_version": trace.model_version,
        "triton.trace_id": trace.id,
        "triton.trace_parent_id": trace.parent_id,
    }
    if trace.request_id:
        attributes["triton.request_id"] = trace.request_id
    return attributes


def _batch_attributes(finished: FinishedTrace) -> dict[str, str | int]:
    """What the request was executed in, and why that was not larger."""
    for note in finished.notes:
        if isinstance(note, BatchFacts):
            return {
                "despina.batch.rows": note.rows,
                "despina.batch.requests": note.requests,
                "despina.batch.reason": note.reason,
            }
    return {}
