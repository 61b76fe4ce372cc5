"""Counters of one model version. Plain integers, written on the trio thread only, read by anybody.

Statistics restart with each load; the metrics page goes on over an overlapping reload, so `carried` keeps what the
predecessor had counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ...schema.fault import Cancelled, DeadlineExceeded, Fault
from ...schema.wire.generated.inference import (
    InferBatchStatistics,
    InferStatistics,
    ModelStatistics,
    StatisticDuration,
)
from ..port.work import BackendJob
from .response_statistics import ResponseStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..port.work import Batch

FailureReason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]
FAILURE_REASONS: tuple[FailureReason, ...] = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

UnservedReason = Literal[
    "queue_full", "queue_timeout", "deadline_queued", "deadline_executing", "given_up", "left_queued", "left_executing"
]
"""Why nobody got an answer, or nobody in time: refused on arrival, waited too long, the caller's deadline passed in the
queue or while executing, it could not have been met any more, the caller left the queue or an execution."""
UNSERVED_REASONS: tuple[UnservedReason, ...] = get_args(UnservedReason)


_LEFT = (Cancelled, DeadlineExceeded)
"""How requests end whose callers did not wait for the answer."""


class CountedStream(BackendJob, Protocol):
    """What is counted of a stream that is over."""

    ended_ns: int
    """When the final answer was sent."""
    failure: Fault | None
    """The first error among the answers: the request counts as failed."""


class CountedHit(BackendJob, Protocol):
    """What is counted of a request that was answered from the cache."""

    looked_ns: int
    """When it was looked up."""
    hit_ns: int
    """How long that took."""


_KINDS_MAX = 1024
"""Of executions that are told apart before those with the same rows are put together."""

_PLAIN_SUMS = (
    "success_ns", "fail_count", "fail_ns", "queue_ns", "hit_count", "hit_ns", "miss_count", "miss_ns", "inline_count",
)  # fmt: skip
_SUMS = ("success_count", "input_ns", "infer_ns", "output_ns", "inference_count", "execution_count")


class Executions:
    """Those with the same rows, the same number of jobs that succeeded, and closed for the same reason."""

    __slots__ = ("_more", "count", "infer_ns", "input_ns", "jobs", "output_ns", "rows")

    def __init__(self, rows: int, jobs: int) -> None:
        self.rows = rows
        self.jobs = jobs
        self._more = (0, 0, 0, 0)
        self.count = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0

    def of_jobs(self) -> tuple[int, int, int, int]:
        """Jobs that succeeded, and the sums over them of their executions' times: input, infer, output."""
        jobs, more = self.jobs, self._more
        return (
            jobs * self.count + more[0],
            jobs * self.input_ns + more[1],
            jobs * self.infer_ns + more[2],
            jobs * self.output_ns + more[3],
        )

    def take_over(self, other: Executions) -> None:
        """Adds others, with another number of jobs."""
        first, second, third, fourth = self._more
        jobs, input_ns, infer_ns, output_ns = other.of_jobs()
        self._more = (first + jobs, second + input_ns, third + infer_ns, fourth + output_ns)
        self.count += other.count
        self.input_ns += other.input_ns
        self.infer_ns += other.infer_ns
        self.output_ns += other.output_ns


class ModelStats:
    """All durations are nanoseconds of the monotonic clock.

    An execution is counted once, in its `Executions`; what follows from those is worked out when somebody asks.
    """

    __slots__ = (
        "_executions",
        "_kinds_max",
        "_last_ended_ns",
        "_last_inference_ms",
        "_more",
        "_more_reasons",
        "fail_count",
        "fail_ns",
        "failures",
        "has_cache",
        "hit_count",
        "hit_ns",
        "inline_count",
        "miss_count",
        "miss_ns",
        "queue_ns",
        "responses",
        "success_ns",
        "unserved",
    )

    def __init__(self) -> None:
        self.success_ns = 0
        self.fail_count = 0
        self.fail_ns = 0
        self.failures: dict[str, int] = dict.fromkeys(FAILURE_REASONS, 0)
        self.unserved: dict[str, int] = dict.fromkeys(UNSERVED_REASONS, 0)
        self.inline_count = 0
        """Of the executions those on the trio thread."""
        self.queue_ns = 0
        self.has_cache = False
        """Whether its answers are kept."""
        self.hit_count = 0
        self.hit_ns = 0
        self.miss_count = 0
        """Answers that were not found, and that nobody has kept meanwhile."""
        self.miss_ns = 0
        """Looking up, and keeping."""
        self.responses = ResponseStatistics()
        """Of decoupled models; empty for others."""
        self._executions: dict[tuple[int, int, str], Executions] = {}
        """By rows, jobs that succeeded, and reason. Replaced, never changed, by a kind that is new: any thread may be
        reading it."""
        self._kinds_max = _KINDS_MAX
        self._more = dict.fromkeys(_SUMS, 0)
        """What does not follow from executions, or corrects it."""
        self._more_reasons: dict[str, int] = {}
        self._last_ended_ns = 0
        self._last_inference_ms = (0, 0)
        """An end of the last execution and the time of day that it was."""

    def executed(self, batch: Batch, jobs: Sequence[BackendJob] | None = None) -> None:
        """Counts one execution and each of its jobs, or of those given, by what the backend answered."""
        now = time.monotonic_ns()
        if jobs is None:
            jobs = batch.jobs
        succeeded = len(jobs)
        received = 0
        for job in jobs:
            if job.fault is None:
                received += job.received_ns
            else:
                succeeded -= 1
                self._more["inference_count"] -= job.batch_size
                self.failed(job, "CANCELED" if job.is_cancelled() else "BACKEND", now)
        self.success_ns += succeeded * now - received
        started, ended = batch.started_ns, batch.ended_ns
        self.queue_ns += succeeded * started - received
        ready = batch.inputs_ready_ns or started
        outputs = batch.outputs_started_ns or ended
        key = (batch.size, succeeded, batch.reason)
        executions = self._executions.get(key)
        if executions is None:
            if len(self._executions) >= self._kinds_max:
                self._put_together()
            executions = Executions(batch.size, succeeded)
            self._executions = {**self._executions, key: executions}
        executions.count += 1
        executions.input_ns += ready - started
        executions.infer_ns += outputs - ready
        executions.output_ns += ended - outputs
        self._last_ended_ns = ended

    def nobodys(self, rows: int) -> None:
        """So many rows of the execution that is about to be counted were of no request."""
        self._more["inference_count"] -= rows

    def _put_together(self) -> None:
        """Tells executions apart by rows and reason only, so that many kinds of them need no more room than that."""
        together: dict[tuple[int, int, str], Executions] = {}
        for (rows, _, reason), each in self._executions.items():
            total = together.get((rows, 0, reason))
            if total is None:
                total = together[rows, 0, reason] = Executions(rows, 0)
            total.take_over(each)
        self._executions = together
        self._kinds_max = max(_KINDS_MAX, 2 * len(together))

    def executed_before(self, spent_ns: int) -> None:
        """A request that is about to be counted as a success has been executed before: it did not wait meanwhile."""
        self.queue_ns -= spent_ns
        self._more["infer_ns"] += spent_ns

    def executed_streams(self, batch: Batch, executed_again: int = 0) -> None:
        """Counts one execution whose jobs are counted as their streams end, or go on with another execution."""
        self._more["inference_count"] += executed_again - batch.size
        ModelStats.executed(self, batch, ())

    def streamed(self, job: CountedStream, batch: Batch) -> None:
        """Counts one request that was answered as a stream: it failed if any of its answers was an error."""
        now = time.monotonic_ns()
        if job.failure is not None:
            left = job.is_cancelled() and isinstance(job.failure, _LEFT)
            self.failed(job, "CANCELED" if left else "BACKEND", now)
            return
        ready = batch.inputs_ready_ns or batch.started_ns
        self.success_ns += now - job.received_ns
        self.queue_ns += batch.started_ns - job.received_ns
        if job.executed_ns:
            self.executed_before(job.executed_ns)
        more = self._more
        more["success_count"] += 1
        more["inference_count"] += job.batch_size
        more["input_ns"] += ready - batch.started_ns
        more["infer_ns"] += max(0, job.ended_ns - ready)

    def answered_first(self, job: BackendJob) -> None:
        """A stream's first response is on its way. Of interest to distributions only, see latencies.py."""

    def keeps(self) -> None:
        """Once, before anything is counted: the model's answers are kept."""
        self.has_cache = True

    def hit(self, job: CountedHit, now_ns: int) -> None:
        """Counts one request that was answered from the cache."""
        self._more["success_count"] += 1
        self.success_ns += now_ns - job.received_ns
        self.queue_ns += job.looked_ns - job.received_ns
        self.hit_count += 1
        self.hit_ns += job.hit_ns

    def missed(self, spent_ns: int) -> None:
        """An answer was not found and is kept, if there is room: looking it up and keeping it took so long."""
        self.success_ns += spent_ns
        self.miss_count += 1
        self.miss_ns += spent_ns

    def failed(self, job: BackendJob, reason: FailureReason, now_ns: int) -> None:
        """Counts one request that failed after it was accepted."""
        self.fail_count += 1
        self.fail_ns += now_ns - job.received_ns
        self.failures[reason] += 1

    def add(self, other: ModelStats) -> None:
        """Takes over another's sums."""
        for name in _PLAIN_SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _SUMS:
            self._more[name] += getattr(other, name)
        for reason, count in other.failures.items():
            self.failures[reason] += count
        for reason, count in other.unserved.items():
            self.unserved[reason] += count
        for reason, count in other.batch_reasons.items():
            self._more_reasons[reason] = self._more_reasons.get(reason, 0) + count

    def _each(self) -> Iterable[Executions]:
        return self._executions.values()

    @property
    def success_count(self) -> int:
        """Requests."""
        return self._more["success_count"] + sum(each.of_jobs()[0] for each in self._each())

    @property
    def inference_count(self) -> int:
        """Rows of the requests that succeeded."""
        return self._more["inference_count"] + sum(each.rows * each.count for each in self._each())

    @property
    def execution_count(self) -> int:
        return self._more["execution_count"] + sum(each.count for each in self._each())

    @property
    def input_ns(self) -> int:
        """Each request that succeeded is counted with all of its execution's time; so are the next two."""
        return self._more["input_ns"] + sum(each.of_jobs()[1] for each in self._each())

    @property
    def infer_ns(self) -> int:
        return self._more["infer_ns"] + sum(each.of_jobs()[2] for each in self._each())

    @property
    def output_ns(self) -> int:
        return self._more["output_ns"] + sum(each.of_jobs()[3] for each in self._each())

    @property
    def batches(self) -> dict[int, tuple[int, int, int, int]]:
        """Rows of a batch -> executions, input ns, infer ns, output ns. Ascending."""
        found: dict[int, tuple[int, int, int, int]] = {}
        for each in self._each():
            count, input_ns, infer_ns, output_ns = found.get(each.rows, (0, 0, 0, 0))
            found[each.rows] = (
                count + each.count,
                input_ns + each.input_ns,
                infer_ns + each.infer_ns,
                output_ns + each.output_ns,
            )
        return dict(sorted(found.items()))

    @property
    def batch_reasons(self) -> dict[str, int]:
        """Why batches were closed -> how many."""
        found = self._more_reasons.copy()
        for (_, _, reason), each in self._executions.items():
            found[reason] = found.get(reason, 0) + each.count
        return found

    @property
    def last_ended_ns(self) -> int:
        """The end of the last execution, on the monotonic clock; 0 before the first."""
        return self._last_ended_ns

    @property
    def last_inference_ms(self) -> int:
        """The time of day of the last execution's end, in ms since the epoch; 0 before the first."""
        ended = self._last_ended_ns
        if self._last_inference_ms[0] != ended:
            self._last_inference_ms = (ended, (time.time_ns() - time.monotonic_ns() + ended) // 1_000_000)
        return self._last_inference_ms[1]

    def message(self, name: str, version: str) -> ModelStatistics:
        """The statistics extension's element for this model version."""

        def spent(count: int, ns: int) -> StatisticDuration:
            return StatisticDuration(count=count, ns=ns)

        success = self.success_count
        computed = success - self.hit_count
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
                compute_input=spent(computed, self.input_ns),
                compute_infer=spent(computed, self.infer_ns),
                compute_output=spent(computed, self.output_ns),
                cache_hit=spent(self.hit_count, self.hit_ns),
                cache_miss=spent(self.miss_count, self.miss_ns),
            ),
            batch_stats=[
                InferBatchStatistics(
                    batch_size=rows,
                    compute_input=spent(count, input_ns),
                    compute_infer=spent(count, infer_ns),
                    compute_output=spent(count, output_ns),
                )
                for rows, (count, input_ns, infer_ns, output_ns) in self.batches.items()
            ],
            response_stats=self.responses.message(),
        )
