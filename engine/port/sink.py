"""What keeps traces: the port of trace files and of exporters.

Called on one thread of its own; see observe/trace_worker.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class CapturedTensor:
    """A tensor as it was at that point; `memory` is its wire form."""

    activity: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    memory: bytes


@attrs.frozen
class BatchFacts:
    """What a request was executed in, noted before its COMPUTE_START."""

    rows: int
    requests: int
    reason: str
    """Why it was not larger: see `Batch.reason`."""


Note = tuple[str, int] | CapturedTensor | BatchFacts
"""A moment's name and its monotonic ns, or a tensor, or about the batch."""


@attrs.frozen
class TraceParent:
    """A span of the caller's."""

    trace_id: int
    span_id: int
    state: str = ""


class TraceFacts(Protocol):
    """What a finished trace says of its request."""

    id: int
    parent_id: int
    """The trace of the request that caused this one; 0 for none."""
    model_name: str
    model_version: int
    request_id: str
    parent: TraceParent | None
    """The caller's span."""
    trace_id: int
    span_id: int
    model_span_id: int
    """Of OpenTelemetry; 0 in the other mode."""


class TraceGroup(Protocol):
    """The setting that chose a trace: those of one setting are kept together."""

    log_frequency: int
    """Traces per numbered file; 0 puts all into one."""


@attrs.frozen(eq=False)
class FinishedTrace:
    """A trace that nobody notes anything in any more."""

    trace: TraceFacts
    notes: list[Note]
    setting: TraceGroup
    is_last: bool
    """The setting's count is used up with this one."""
    children: Sequence[FinishedTrace] = ()
    """Of the requests that this one has caused, in the order of their ends."""

    def byte_size(self) -> int:
        own = sum(len(note.memory) for note in self.notes if isinstance(note, CapturedTensor))
        return own + sum(child.byte_size() for child in self.children)


class TraceSink(Protocol):
    """Where traces are kept. Called on one thread; what it raises is logged and costs the trace in hand only."""

    def take(self, finished: FinishedTrace) -> None: ...

    def retire(self, setting: TraceGroup) -> None:
        """No more traces of this setting follow."""
        ...

    def close(self) -> None: ...
