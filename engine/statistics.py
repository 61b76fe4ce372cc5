"""Counters of one model version. Plain integers, written on the trio thread only, read by anybody.

Statistics restart with each load; the metrics page goes on over an overlapping reload, so `carried` keeps what the
predecessor had counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from ..schema.fault import Cancelled, DeadlineExceeded
from ..schema.wire.generated.inference import (
    InferBatchStatistics,
    InferStatistics,
    ModelStatistics,
    StatisticDuration,
)
from .backend import Batch
from .response_statistics import ResponseStatistics

if TYPE_CHECKING:
    from .job import Job
    from .stream import StreamJob

FailureReason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]
FAILURE_REASONS: tuple[FailureReason, ...] = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


_LEFT = (Cancelled, DeadlineExceeded)


class ModelStats:
    """All durations are nanoseconds of the monotonic clock."""

    __slots__ = (
        "batch_reasons",
        "batches",
        "execution_count",
        "fail_count",
        "fail_ns",
        "failures",
        "infer_ns",
        "inference_count",
        "input_ns",
        "last_inference_ms",
        "output_ns",
        "queue_ns",
        "responses",
        "success_count",
        "success_ns",
    )

    def __init__(self) -> None:
        self.success_count = 0
        self.success_ns = 0
        self.fail_count = 0
        self.fail_ns = 0
        self.failures: dict[str, int] = dict.fromkeys(FAILURE_REASONS, 0)
        self.queue_ns = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0
        self.inference_count = 0
        self.execution_count = 0
        self.last_inference_ms = 0
        self.batches: dict[int, list[int]] = {}
        """Rows of a batch -> [executions, input ns, infer ns, output ns]."""
        self.batch_reasons: dict[str, int] = {}
        """Why batches were closed -> how many."""
        self.responses = ResponseStatistics()
        """Of decoupled models; empty for others."""

    def executed(self, batch: Batch) -> None:
        """Counts one execution and each of its jobs, by what the backend answered."""
        started, ended = batch.started_ns, batch.ended_ns
        ready = batch.inputs_ready_ns or started
        outputs = batch.outputs_started_ns or ended
        input_ns, infer_ns, output_ns = ready - started, outputs - ready, ended - outputs
        row = self.batches.get(batch.size)
        if row is None:
            row = self.batches[batch.size] = [0, 0, 0, 0]
        row[0] += 1
        row[1] += input_ns
        row[2] += infer_ns
        row[3] += output_ns
        reason = batch.reason
        self.batch_reasons[reason] = self.batch_reasons.get(reason, 0) + 1
        self.execution_count += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        now = time.monotonic_ns()
        jobs = batch.jobs
        if len(jobs) == 1 and jobs[0].fault is None:
            job = jobs[0]
            self.inference_count += job.batch_size
            self.success_count += 1
            self.success_ns += now - job.received_ns
            self.queue_ns += started - job.received_ns
            self.input_ns += input_ns
            self.infer_ns += infer_ns
            self.output_ns += output_ns
            return
        succeeded = 0
        for job in jobs:
            if job.fault is not None:
                self.failed(job, "CANCELED" if isinstance(job.fault, DeadlineExceeded) else "BACKEND", now)
                continue
            succeeded += 1
            self.inference_count += job.batch_size
            self.success_ns += now - job.received_ns
            self.queue_ns += started - job.received_ns
        self.success_count += succeeded
        self.input_ns += succeeded * input_ns
        self.infer_ns += succeeded * infer_ns
        self.output_ns += succeeded * output_ns

    def executed_streams(self, batch: Batch) -> None:
        """Counts one execution whose jobs are counted as their streams end."""
        execution = Batch([], batch.size, batch.reason)
        execution.started_ns, execution.ended_ns = batch.started_ns, batch.ended_ns
        execution.inputs_ready_ns, execution.outputs_started_ns = batch.inputs_ready_ns, batch.outputs_started_ns
        self.executed(execution)

    def streamed(self, job: StreamJob, batch: Batch) -> None:
        """Counts one request that was answered as a stream: it failed if any of its answers was an error."""
        now = time.monotonic_ns()
        if job.failure is not None:
            self.failed(job, "CANCELED" if isinstance(job.failure, _LEFT) else "BACKEND", now)
            return
        ready = batch.inputs_ready_ns or batch.started_ns
        self.success_count += 1
        self.inference_count += job.batch_size
        self.success_ns += now - job.received_ns
        self.queue_ns += batch.started_ns - job.received_ns
        self.input_ns += ready - batch.started_ns
        self.infer_ns += max(0, job.ended_ns - ready)

    def answered_first(self, job: StreamJob) -> None:
        """A stream's first response is on its way. Of interest to distributions only, see latencies.py."""

    def failed(self, job: Job, reason: FailureReason, now_ns: int) -> None:
        """Counts one request that failed after it was accepted."""
        self.fail_count += 1
        self.fail_ns += now_ns - job.received_ns
        self.failures[reason] += 1

    def add(self, other: ModelStats) -> None:
        """Takes over another's sums."""
        for name in (
            "success_count", "success_ns", "fail_count", "fail_ns", "queue_ns", "input_ns", "infer_ns", "output_ns",
            "inference_count", "execution_count",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.failures.items():
            self.failures[reason] += count

    def message(self, name: str, version: str) -> ModelStatistics:
        """The statistics extension's element for this model version."""

        def spent(count: int, ns: int) -> StatisticDuration:
            return StatisticDuration(count=count, ns=ns)

        success = self.success_count
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=self.last_inference_ms,
            inference_count=self.inference_count,
            execution_count=self.execution_count,
            inference_stats=InferStatistics(
                success=spent(success, self.success_ns),
                fail=spent(self.fail_count, self.fail_ns),
                queue=spent(success, self.queue_ns),
                compute_input=spent(success, self.input_ns),
                compute_infer=spent(success, self.infer_ns),
                compute_output=spent(success, self.output_ns),
                cache_hit=spent(0, 0),
                cache_miss=spent(0, 0),
            ),
            batch_stats=[
                InferBatchStatistics(
                    batch_size=rows,
                    compute_input=spent(count, input_ns),
                    compute_infer=spent(count, infer_ns),
                    compute_output=spent(count, output_ns),
                )
                for rows, (count, input_ns, infer_ns, output_ns) in sorted(self.batches.items())
            ],
            response_stats=self.responses.message(),
        )
