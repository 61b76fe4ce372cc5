"""Tracing: which requests are traced, and what is noted of each on its way.

    door ──sample──▶ Trace on the request ──stamps by door and model──▶ finish ──▶ TraceWorker's thread ──▶ sink

A request that is not traced costs its door one look at `Tracer.active` and the model one look at `request.trace`.
Everything here runs on the trio thread, but for `Trace.context`, which may be called from any.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Final

from ...schema.fault import InvalidArgument
from ...schema.text import encodable
from ..port.sink import BatchFacts, CapturedTensor, FinishedTrace
from .generation import Generation
from .trace_context import parse_traceparent
from .trace_settings import FIELDS, Setting, changed
from .trace_worker import TraceWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ...schema.fault import Fault
    from ...schema.inference import InferenceResponse
    from ...schema.tensor import Tensor
    from ..port.settings import TraceChanges, TraceSettings
    from ..port.sink import Note, TraceParent, TraceSink
    from ..port.work import BackendJob, Batch
    from .status import ActorStatus

MODEL_KNOWN: Final = "\0about"
"""The note of the moment from which the model's version and the request's id are known."""
CHILDREN_MAX: Final = 1000
"""Requests that one traced request causes are traced up to so many: a stream may be endless, its trace may not."""


class Trace:
    """What is noted of one request. The door that sampled it finishes it; the model finishes one whose caller left."""

    __slots__ = (
        "_children",
        "_finish",
        "_ids",
        "_notes",
        "has_tensors",
        "has_timestamps",
        "id",
        "model_name",
        "model_span_id",
        "model_version",
        "parent",
        "parent_id",
        "request_id",
        "setting",
        "span_id",
        "trace_id",
    )

    def __init__(
        self,
        id: int,
        setting: Setting,
        model_name: str,
        finish: Callable[[Trace, list[Note]], None],
        ids: Iterator[int],
        parent_id: int = 0,
    ) -> None:
        """`ids` is where requests that this one causes get theirs."""
        self.id = id
        self.parent_id = parent_id
        """The trace of the request that caused this one; 0 for none."""
        self.setting = setting
        self.has_timestamps = "TIMESTAMPS" in setting.level
        self.has_tensors = "TENSORS" in setting.level
        self.model_name = model_name
        self.model_version = 0
        self.request_id = ""
        self.parent: TraceParent | None = None
        """The caller's span."""
        self.trace_id = self.span_id = self.model_span_id = 0
        """Of OpenTelemetry; 0 in the other mode."""
        self._finish: Callable[[Trace, list[Note]], None] | None = finish
        self._ids = ids
        self._notes: list[Note] = []
        self._children: list[FinishedTrace] = []

    def stamp(self, name: str, ns: int = 0) -> None:
        """Notes a moment of the monotonic clock, now if not given."""
        if self.has_timestamps:
            self._notes.append((name, ns or time.monotonic_ns()))

    def capture(self, activity: str, tensor: Tensor) -> None:
        """Notes a copy of a tensor's bytes: what they are a view of may change before they are written."""
        if self.has_tensors:
            memory = bytes(tensor.memory())
            self._notes.append(CapturedTensor(activity, tensor.name, tensor.datatype, tuple(tensor.shape), memory))

    def child(self, model_name: str) -> Trace | None:
        """The trace of a request that this one causes, to be finished before this one; None if there are too many."""
        if len(self._children) >= CHILDREN_MAX:
            return None
        child = Trace(next(self._ids), self.setting, model_name, self._adopt, self._ids, self.id)
        child.has_tensors = self.has_tensors
        if self.trace_id:
            child.trace_id, child.parent, child.span_id = self.trace_id, self.parent, self.model_span_id
            child.model_span_id = random.getrandbits(64) or 1
        return child

    def _adopt(self, child: Trace, notes: list[Note]) -> None:
        self._children.append(FinishedTrace(child, notes, self.setting, False, tuple(child._children)))

    def answered(self) -> None:
        """An answer is complete. Of the whole request, as the reference server has it."""
        if not self.parent_id:
            self.stamp("INFER_RESPONSE_COMPLETE")

    def executed_in(self, batch: Batch) -> None:
        """Notes what the request shared its execution with, and why with no more."""
        if self.has_timestamps:
            self._notes.append(BatchFacts(batch.size, len(batch.jobs), batch.reason))

    def begin(self, version: int, request_id: str, received_ns: int) -> None:
        """The request was accepted by that version."""
        self.model_version, self.request_id = version, encodable(request_id)
        if not self.parent_id:
            self.setting.begun += 1
        self._notes.append((MODEL_KNOWN, 0))
        self.stamp("REQUEST_START", received_ns)
        self.stamp("QUEUE_START", received_ns)

    def finish(self) -> None:
        """Hands the trace over to be written. Idempotent; what is noted later is lost."""
        if self._finish is not None:
            finish, self._finish = self._finish, None
            notes, self._notes = self._notes, []
            finish(self, notes)

    def context(self) -> str | None:
        """The W3C context in which the model executes, as JSON of its headers; None outside OpenTelemetry mode."""
        if not self.trace_id:
            return None
        headers = {"traceparent": f"00-{self.trace_id:032x}-{self.model_span_id:016x}-01"}
        if self.parent is not None and self.parent.state:
            headers["tracestate"] = self.parent.state
        return json.dumps(headers, separators=(",", ":"))


class Tracer:
    """The engine's trace settings and its sampling. `close` ends it, with everything written."""

    def __init__(
        self,
        settings: TraceSettings,
        is_model: Callable[[str], bool],
        open_sink: Callable[[TraceSettings], TraceSink],
        generation: Generation | None = None,
    ) -> None:
        """`is_model` tells names that have settings. `open_sink` is called, on the trio thread, for the first trace.
        `generation` ends when requests are traced from now on: nothing may be remembered that passes the tracer by."""
        self.settings = settings
        self.active = False
        """Whether any request can be chosen: what doors look at before they ask."""
        self._is_model = is_model
        self._open_sink = open_sink
        self._generation = generation or Generation()
        self._worker: TraceWorker | None = None
        self._ids = itertools.count(1)
        self._start: TraceChanges = {field: getattr(settings, field) for field in FIELDS}
        self._global = Setting(settings.mode, self._start)
        self._models: dict[str, Setting] = {}
        self._refresh()

    # --- For doors: requests

    def sample(self, model_name: str, traceparent: str | None = None, tracestate: str = "") -> Trace | None:
        """Counts a request for that model and gives it a trace if it is its turn. In OpenTelemetry mode a request
        that brings a valid W3C context is always traced, and uses up none of the count."""
        setting = self._models.get(model_name, self._global)
        if not setting.level:
            return None
        is_otel = setting.mode == "opentelemetry"
        parent = parse_traceparent(traceparent, tracestate) if is_otel and traceparent else None
        if parent is None:
            if setting.problem(self.settings.file) is not None or not setting.take():
                return None
            if setting.count == 0:
                self._refresh()
        trace = Trace(next(self._ids), setting, model_name, self._finished, self._ids)
        if is_otel:
            trace.has_tensors = False
            trace.parent = parent
            trace.trace_id = parent.trace_id if parent is not None else random.getrandbits(128) or 1
            trace.span_id = random.getrandbits(64) or 1
            trace.model_span_id = random.getrandbits(64) or 1
        return trace

    # --- For doors: settings

    def shown(self, model_name: str = "") -> dict[str, tuple[str, ...]]:
        """The settings in force, by the protocol's names and in its order. Raises InvalidArgument for no model."""
        self.check_model(model_name)
        setting = self._models.get(model_name, self._global)
        shown: dict[str, tuple[str, ...]] = {
            "trace_level": tuple(setting.level) or ("OFF",),
            "trace_rate": (str(setting.rate),),
            "trace_count": (str(setting.count),),
        }
        if setting.mode == "triton":
            shown |= {"log_frequency": (str(setting.log_frequency),), "trace_file": (encodable(self.settings.file),)}
        shown["trace_mode"] = (setting.mode,)
        return shown | {name: (value,) for name, value in self.settings.options.items()}

    def change(self, changes: TraceChanges, model_name: str = "") -> None:
        """TraceChanges the settings of one model, or of all that have none of their own; what is running is traced on.

        Raises InvalidArgument for no model and for settings by which nothing could be traced; nothing is changed then.
        """
        self.check_model(model_name)
        if not changes:
            return
        file = self.settings.file
        if model_name:
            current = self._models.get(model_name) or Setting(self.settings.mode, self._global.values())
            setting = changed(current, self._global.values(), changes, file)
            old = self._models.pop(model_name, None)
            if setting.pinned:
                self._models[model_name] = setting
            replaced = [old]
        else:
            setting = changed(self._global, self._start, changes, file)
            followers: dict[str, Setting] = {}
            for name, current in self._models.items():
                if len(current.pinned) < len(FIELDS):
                    with_new = {
                        field: getattr(current if field in current.pinned else setting, field) for field in FIELDS
                    }
                    followers[name] = Setting(current.mode, with_new, current.pinned)
            replaced = [self._global, *(self._models[name] for name in followers)]
            self._global = setting
            self._models |= followers
        for old in replaced:
            if old is not None:
                old.is_replaced = True
                self._retire(old)
        self._refresh()

    # --- The end

    @property
    def has_work(self) -> bool:
        """Whether there was a trace that may wait to be written."""
        return self._worker is not None

    def status(self) -> list[ActorStatus]:
        """What the writer of traces does, once there is one."""
        return [] if self._worker is None else [self._worker.status()]

    def close(self) -> None:
        """Writes everything. Blocks; call it on a worker thread, when no door is open any more."""
        worker, self._worker = self._worker, None
        self.active = False
        if worker is not None:
            worker.close()

    # --- Inside

    def check_model(self, model_name: str) -> None:
        """Raises InvalidArgument for a name that has no settings."""
        if model_name and not self._is_model(model_name):
            raise InvalidArgument(f"Request for unknown model : {model_name}")

    def _refresh(self) -> None:
        was_active = self.active
        self.active = any(
            setting.level and (setting.mode == "opentelemetry" or setting.problem(self.settings.file) is None)
            for setting in (self._global, *self._models.values())
        )
        if self.active and not was_active:
            self._generation.bump()

    def _finished(self, trace: Trace, notes: list[Note]) -> None:
        setting = trace.setting
        setting.finished += 1
        if self._worker is None:
            self._worker = TraceWorker(self._open_sink(self.settings))
        is_last = setting.count == 0 and setting.finished >= setting.begun
        self._worker.put(FinishedTrace(trace, notes, setting, is_last, tuple(trace._children)))
        self._retire(setting)

    def _retire(self, setting: Setting) -> None:
        if setting.is_replaced and setting.finished >= setting.begun and self._worker is not None:
            self._worker.retire(setting)


# --- For models. Called only for traced requests.


def trace_accepted(job: BackendJob, version: int) -> None:
    trace = job.request.trace
    assert trace is not None, "asked for traced requests only"
    trace.begin(version, job.request.id, job.received_ns)
    for tensor in job.request.inputs.values():
        trace.capture("TENSOR_QUEUE_INPUT", tensor)


def trace_batch(batch: Batch, jobs: Sequence[BackendJob]) -> int:
    """A batch was executed, and these of its requests are over. How many of them are traced."""
    count = 0
    for job in jobs:
        trace = job.request.trace
        if trace is not None:
            count += 1
            if job.response is not None:
                trace_response(trace, job.response)
            else:
                trace.answered()
            trace_computed(trace, batch)
    return count


def trace_response(trace: Trace, response: InferenceResponse) -> None:
    for tensor in response.outputs:
        trace.capture("TENSOR_BACKEND_OUTPUT", tensor)
    trace.answered()


def trace_composed(trace: Trace, response: InferenceResponse | None, fault: Fault | None) -> None:
    """A request is over that other models have answered. Streams have neither here: their answers come one by one."""
    if response is not None:
        trace_response(trace, response)
    elif fault is not None:
        trace.answered()
    trace.stamp("REQUEST_END")


def trace_answered(trace: Trace, response: InferenceResponse | None) -> None:
    """A request was answered without an execution."""
    if response is not None:
        trace_response(trace, response)
    trace.stamp("REQUEST_END")


def trace_computed(trace: Trace, batch: Batch) -> None:
    started, ended = batch.started_ns, batch.ended_ns
    trace.executed_in(batch)
    trace.stamp("COMPUTE_START", started)
    trace.stamp("COMPUTE_INPUT_END", batch.inputs_ready_ns or started)
    trace.stamp("COMPUTE_OUTPUT_START", batch.outputs_started_ns or ended)
    trace.stamp("COMPUTE_END", ended)
    trace.stamp("REQUEST_END")
