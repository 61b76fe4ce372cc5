"""The jobs of one execution, as the engine has them: begun, executed and ended together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .ledger import End

if TYPE_CHECKING:
    from ...schema.fault import Fault
    from .job import Job
    from .ledger import Ledger


class Batch:
    """See port/work.py. Of models that answer once; stream.py has the others'."""

    __slots__ = ("ended_ns", "inputs_ready_ns", "jobs", "outputs_started_ns", "reason", "size", "started_ns")

    def __init__(self, jobs: list[Job], size: int, reason: str) -> None:
        self.jobs = jobs
        self.size = size
        self.reason = reason
        self.started_ns = 0
        self.inputs_ready_ns = 0
        self.outputs_started_ns = 0
        self.ended_ns = 0

    def begin(self) -> None:
        """`execute` is about to be called, on the executing thread."""
        self.started_ns = time.monotonic_ns()

    def settle(self, error: Fault | None) -> None:
        """`execute` has returned, on the executing thread: every job has an answer from here on."""
        self.ended_ns = time.monotonic_ns()
        for job in self.jobs:
            if job.response is None and job.fault is None:
                job.settle(error)

    def over(self, ledger: Ledger) -> None:
        """Ends the jobs of an executed batch, on the trio thread."""
        ledger.end(self.jobs, End.EXECUTED, self)

    def lose(self, ledger: Ledger, fault: Fault) -> None:
        """Ends the jobs of a batch whose executor does not come back, on the trio thread."""
        self.ended_ns = time.monotonic_ns()
        ledger.end(self.jobs, End.LOST, self, fault)

    def spent_ns(self) -> tuple[int, int, int]:
        """What it took: input, inference, output."""
        started, ended = self.started_ns, self.ended_ns
        if not started:
            return 0, 0, 0
        ready = self.inputs_ready_ns or started
        outputs = self.outputs_started_ns or ended
        return ready - started, outputs - ready, ended - outputs

    def part(self, jobs: list[Job]) -> Batch:
        """Some of its jobs, to execute in its place; `join` afterwards."""
        part = type(self)(jobs, sum(job.batch_size for job in jobs), self.reason)
        part.started_ns = self.started_ns
        return part

    def join(self, part: Batch) -> None:
        """What was executed of it is over: its time stamps are the batch's."""
        self.inputs_ready_ns = part.inputs_ready_ns
        self.outputs_started_ns = part.outputs_started_ns
