"""Batches of sequences' requests: with requests that are nobody's among them, and some that are executed once more.

| thread    | does                                                                                             |
|-----------|--------------------------------------------------------------------------------------------------|
| executing | `settle` sets `again`; the scheduler queues those when it is asked for the next batch            |
| trio      | `over` and `lose` end the others, before that or after                                           |
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ...schema.datatype import BY_NAME
from ...schema.fault import Cancelled
from ...schema.inference import InferenceRequest
from ...schema.tensor import Tensor
from ..request.batch import Batch
from ..request.job import Job, JobState, move
from ..request.ledger import End
from ..request.stream import UNATTENDED, StreamBatch, StreamJob
from .slots import Sequence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...schema.fault import Fault
    from ..request.ledger import Ledger


class SequenceBatch(Batch):
    """Of models that answer once."""

    __slots__ = ("again", "is_lost", "padding", "sequences")

    def __init__(self, jobs: list[Job], size: int, reason: str) -> None:
        super().__init__(jobs, size, reason)
        self.sequences: list[Sequence] = []
        """Of its jobs that are somebody's, in their order."""
        self.padding: Mapping[str, Tensor] | None = None
        """Where places count: the controls of what stands in for nobody."""
        self.again: list[Job] = []
        """Those that are to be executed once more."""
        self.is_lost = False

    def settle(self, error: Fault | None) -> None:
        self.ended_ns = time.monotonic_ns()
        if error is None and not self.is_lost:
            self.again = [job for job in self.jobs if _goes_on(job)]
        for job in self.jobs:
            if job.response is None and job.fault is None and job not in self.again:
                job.settle(error)

    def over(self, ledger: Ledger) -> None:
        real = [job for job in self.jobs if job.received_ns]
        ended = [job for job in real if job not in self.again] if self.again else real
        for job in ended:
            if job.executed_ns and job.fault is None:
                ledger.statistics.executed_before(job.executed_ns)
        ledger.statistics.nobodys(len(self.jobs) - len(real))
        ledger.end(ended, End.EXECUTED, self)

    def lose(self, ledger: Ledger, fault: Fault) -> None:
        self.is_lost, self.again = True, []
        self.ended_ns = time.monotonic_ns()
        ledger.end([job for job in self.jobs if job.received_ns], End.LOST, self, fault)

    def part(self, jobs: list[Job]) -> Batch:
        return super().part(_in_place(self.jobs, jobs, self.padding))


class SequenceStreamBatch(StreamBatch):
    """Of decoupled models: a sequence's next request may execute while the stream of the one before is still open."""

    __slots__ = ("again", "is_lost", "padding", "sequences")

    def __init__(self, jobs: list[Job], size: int, reason: str) -> None:
        super().__init__(jobs, size, reason)
        self.sequences: list[Sequence] = []
        self.padding: Mapping[str, Tensor] | None = None
        self.again: list[Job] = []
        self.is_lost = False

    def settle(self, error: Fault | None) -> None:
        if error is None and not self.is_lost:
            self.again = [job for job in self.jobs if _goes_on(job)]
        super().settle(error)
        for job in self._streams():
            if job.again and job not in self.again and not job.is_closed:
                job.settle(Cancelled(""))  # its caller has left, so no execution comes that would end it

    def over(self, ledger: Ledger) -> None:
        ledger.statistics.executed_streams(self, executed_again=len(self.again))
        for job in self._streams():
            if job.received_ns and job not in self.again:
                job.finish(self)

    def lose(self, ledger: Ledger, fault: Fault) -> None:
        self.is_lost, self.again = True, []
        super().lose(ledger, fault)

    def part(self, jobs: list[Job]) -> Batch:
        return super().part(_in_place(self.jobs, jobs, self.padding))


def nobodys(example: Job, controls: Mapping[str, Tensor]) -> Job:
    """A request for a place without one: inputs like the example's, all zero, but for these controls."""
    inputs = {name: _zeros(tensor) for name, tensor in example.request.inputs.items()}
    inputs.update(controls)
    request = InferenceRequest(example.request.model_name, inputs)
    if isinstance(example, StreamJob):
        job: Job = StreamJob(request, None, example.books, UNATTENDED)
    else:
        job = Job(request, None)
        job.ledger = example.ledger
    job.sequence = Sequence(0, example.sequence.states.of_nobody(), example.sequence.is_iterative)
    move((job,), JobState.EXECUTING)
    return job


def _goes_on(job: Job) -> bool:
    """Whether it was released to be executed once more, and somebody still waits for that."""
    if not (job.again and job.received_ns) or job.is_cancelled():
        return False
    if isinstance(job, StreamJob):
        return not job.is_closed
    return job.response is None and job.fault is None


def _in_place(all_jobs: list[Job], jobs: list[Job], padding: Mapping[str, Tensor] | None) -> list[Job]:
    """Some of them; where places count, with nobody in the places of the others."""
    if padding is None:
        return jobs
    return [job if job in jobs else nobodys(job, padding) for job in all_jobs]


def _zeros(tensor: Tensor) -> Tensor:
    element_bytes = BY_NAME[tensor.datatype].byte_size or 4  # an empty string is its length
    return Tensor(tensor.name, tensor.datatype, tensor.shape, bytes(element_bytes * math.prod(tensor.shape)))
