"""A request's trace, in the C API's activities."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ...engine.observe.trace_settings import Setting
from ...engine.observe.tracing import Trace
from ...engine.port.sink import CapturedTensor
from ...native.extension_port import CHILD, CHILD_END, MOMENT, TENSOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...engine.port.settings import TraceLevel
    from ...engine.port.sink import FinishedTrace, Note
    from ...native.extension_port import Report

_ACTIVITIES = (
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
    "TENSOR_QUEUE_INPUT",
    "TENSOR_BACKEND_INPUT",
    "TENSOR_BACKEND_OUTPUT",
)
_NUMBERS = {name: number for number, name in enumerate(_ACTIVITIES)}
_TIMES = 1 | 2 | 4
_TENSORS = 8


class ApplicationTrace:
    """Collects what the engine notes of one request. `trace` goes onto the request."""

    def __init__(self, level: int, model_name: str) -> None:
        levels: list[TraceLevel] = []
        if level & _TIMES:
            levels.append("TIMESTAMPS")
        if level & _TENSORS:
            levels.append("TENSORS")
        setting = Setting("triton", {"level": tuple(levels), "rate": 1, "count": -1, "log_frequency": 0})
        self._reports: list[Report] = []
        self.trace = Trace(1, setting, model_name, self._take, itertools.count(2))

    def reports(self) -> Sequence[Report]:
        """Ends it."""
        self.trace.finish()
        return self._reports

    def _take(self, trace: Trace, notes: list[Note]) -> None:
        own = list(_told(notes))
        children = [report for child in trace._children for report in _child(child)]
        self._reports = [*own[:-1], *children, *own[-1:]]


def _child(finished: FinishedTrace) -> Iterator[Report]:
    facts = finished.trace
    yield CHILD, facts.model_name, facts.model_version, facts.request_id
    yield from _told(finished.notes)
    for child in finished.children:
        yield from _child(child)
    yield (CHILD_END,)


def _told(notes: Sequence[Note]) -> Iterator[Report]:
    for note in notes:
        if isinstance(note, CapturedTensor):
            yield TENSOR, _NUMBERS[note.activity], note.name, note.datatype, note.shape, note.memory
        elif isinstance(note, tuple) and note[0] in _NUMBERS:
            yield MOMENT, _NUMBERS[note[0]], note[1]
