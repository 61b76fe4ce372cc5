"""Distributions of latencies: quantiles over the last minute, and counts per bucket of times to a first response.

Kept only where asked for: then a model's statistics are `ObservedStats`, else plain `ModelStats`, which know nothing of
this. Written on the trio thread, read by anybody.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from .statistics import ModelStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...schema.wire.generated.inference import ModelConfig
    from ..port.settings import LatencySettings
    from ..port.work import BackendJob, Batch
    from .statistics import CountedHit, CountedStream

FIRST_RESPONSE: Final = "nv_inference_first_response_histogram_ms"
BUCKETS_MS: Final[Sequence[float]] = (100.0, 500.0, 2000.0, 5000.0)
"""Upper bounds where the model's configuration names none."""

DURATION_BUCKETS_S: Final[Sequence[float]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of whole requests, in seconds."""

AGE_MAX_S: Final = 60
"""What is older does not count for quantiles."""
SLOTS: Final = 5
"""The minute moves in so many steps."""
GROWTH: Final = 1.01
"""Each bucket of a quantile sketch reaches 1 % further than the one before, so a quantile is off by 0.5 % at most."""
_LOG_GROWTH: Final = math.log(GROWTH)


class Summary:
    """Quantiles of whole numbers of microseconds over the last minute; sum and count over all time.

    The rank of a quantile is exact; its value is rounded to the buckets, so it is off by at most 0.5 % and half a us.
    Memory: at most some 2,100 buckets for each of five slots.
    """

    __slots__ = ("_slots", "_started_s", "count", "sum_us")

    def __init__(self, now_s: float) -> None:
        self.count = 0
        self.sum_us = 0
        self._slots: list[dict[int, int]] = [{}]
        """Bucket -> observations, the latest slot first."""
        self._started_s = now_s
        """When the first of them began."""

    def observe(self, value_us: int, now_s: float) -> None:
        self.count += 1
        self.sum_us += value_us
        if now_s - self._started_s >= AGE_MAX_S / SLOTS:
            self._turn(now_s)
        slot = self._slots[0]
        bucket = math.ceil(math.log(value_us) / _LOG_GROWTH) if value_us > 0 else -1
        slot[bucket] = slot.get(bucket, 0) + 1

    def quantiles(self, wanted: Sequence[float], now_s: float) -> list[float]:
        """The values at these ranks, in microseconds; NaN where nothing was observed in the last minute."""
        outdated = max(0, int((now_s - self._started_s) // (AGE_MAX_S / SLOTS)))
        merged: dict[int, int] = {}
        for slot in self._slots[: max(0, SLOTS - outdated)]:
            for bucket, count in slot.copy().items():
                merged[bucket] = merged.get(bucket, 0) + count
        total = sum(merged.values())
        if not total:
            return [math.nan] * len(wanted)
        buckets = sorted(merged.items())
        return [_value_at(buckets, math.ceil(quantile * total) or 1) for quantile in wanted]

    def _turn(self, now_s: float) -> None:
        length = AGE_MAX_S / SLOTS
        steps = int((now_s - self._started_s) // length)
        self._started_s += steps * length
        self._slots = ([{} for _ in range(min(steps, SLOTS))] + self._slots)[:SLOTS]


def _value_at(buckets: Sequence[tuple[int, int]], rank: int) -> float:
    below = 0
    for bucket, count in buckets:
        below += count
        if below >= rank:
            return float(round(GROWTH ** (bucket - 0.5))) if bucket > 0 else float(bucket == 0)
    return math.nan


class Example(NamedTuple):
    """One observation whose trace shows what it was."""

    trace_id: str
    """32 hexadecimal digits."""
    value: float
    time_s: float
    """Time of day, in seconds since the epoch."""


class Histogram:
    """Counts per bucket, in whatever unit its bounds have."""

    __slots__ = ("bounds", "counts", "examples", "sum")

    def __init__(self, bounds: Sequence[float] = BUCKETS_MS) -> None:
        self.bounds = tuple(sorted(set(bounds)))
        self.counts = [0] * (len(self.bounds) + 1)
        """The last is for what exceeds every bound."""
        self.sum = 0.0
        self.examples: dict[int, Example] = {}
        """The latest of each bucket, by its index in `counts`."""

    def observe(self, value: float, trace_id: int = 0) -> None:
        """`trace_id` is that of the trace which has it, 0 for none."""
        self.sum += value
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        if trace_id:
            self.examples[index] = Example(f"{trace_id:032x}", value, time.time())


class ObservedStats(ModelStats):
    """Counters of a model version with the distributions behind them."""

    __slots__ = ("durations", "first_response", "hits", "infer", "input", "misses", "output", "queue", "request")

    def __init__(self, settings: LatencySettings, config: ModelConfig) -> None:
        super().__init__()
        now_s = time.monotonic()
        made = settings.summaries
        self.request = Summary(now_s) if made else None
        self.queue = Summary(now_s) if made else None
        self.input = Summary(now_s) if made else None
        self.infer = Summary(now_s) if made else None
        self.output = Summary(now_s) if made else None
        self.hits: Summary | None = None
        self.misses: Summary | None = None
        decoupled = config.model_transaction_policy is not None and config.model_transaction_policy.decoupled
        self.durations = Histogram(DURATION_BUCKETS_S) if settings.histograms else None
        """Of requests that succeeded, in seconds."""
        self.first_response = Histogram(_bounds(config)) if settings.histograms and decoupled else None

    def keeps(self) -> None:
        super().keeps()
        if self.request is not None:
            self.request = None  # the protocol's choice
            self.hits, self.misses = Summary(time.monotonic()), Summary(time.monotonic())

    def hit(self, job: CountedHit, now_ns: int) -> None:
        super().hit(job, now_ns)
        if self.durations is not None:
            self.durations.observe((now_ns - job.received_ns) * 1e-9, _trace_id(job))
        if self.queue is not None and self.hits is not None:
            self.queue.observe((job.looked_ns - job.received_ns) // 1000, now_ns * 1e-9)
            self.hits.observe(job.hit_ns // 1000, now_ns * 1e-9)

    def missed(self, spent_ns: int) -> None:
        super().missed(spent_ns)
        if self.misses is not None:
            self.misses.observe(spent_ns // 1000, time.monotonic())

    def executed(self, batch: Batch, jobs: Sequence[BackendJob] | None = None) -> None:
        super().executed(batch, jobs)
        self.observe([job for job in (batch.jobs if jobs is None else jobs) if job.fault is None], batch)

    def streamed(self, job: CountedStream, batch: Batch) -> None:
        super().streamed(job, batch)
        if job.failure is None:
            self.observe([job], batch)

    def answered_first(self, job: BackendJob) -> None:
        if self.first_response is not None:
            self.first_response.observe((time.monotonic_ns() - job.received_ns) / 1e6, _trace_id(job))

    def observe(self, jobs: Sequence[BackendJob], batch: Batch) -> None:
        """Adds requests that succeeded just now."""
        if self.durations is not None:
            ended_ns = time.monotonic_ns()
            for job in jobs:
                self.durations.observe((ended_ns - job.received_ns) * 1e-9, _trace_id(job))
        if self.queue is None or self.input is None or self.infer is None:
            return
        assert self.output is not None, "all summaries are kept, or none"
        now = time.monotonic_ns()
        now_s = now * 1e-9
        started, ended = batch.started_ns, batch.ended_ns
        ready = batch.inputs_ready_ns or started
        outputs = batch.outputs_started_ns or ended
        for job in jobs:
            if self.request is not None:
                self.request.observe((now - job.received_ns) // 1000, now_s)
            self.queue.observe((started - job.received_ns - job.executed_ns) // 1000, now_s)
            self.input.observe((ready - started) // 1000, now_s)
            self.infer.observe((outputs - ready) // 1000, now_s)
            self.output.observe((ended - outputs) // 1000, now_s)


def _trace_id(job: BackendJob) -> int:
    """0 for a request that is not traced, or not by OpenTelemetry."""
    trace = job.request.trace
    return 0 if trace is None else trace.trace_id


def stats_for(settings: LatencySettings, config: ModelConfig) -> ModelStats:
    """The statistics of a new model version."""
    return ObservedStats(settings, config) if settings.summaries or settings.histograms else ModelStats()


def _bounds(config: ModelConfig) -> Sequence[float]:
    """The buckets that `model_metrics` gives this histogram."""
    for control in config.model_metrics.metric_control if config.model_metrics is not None else ():
        if (
            control.metric_identifier is not None
            and control.metric_identifier.family == FIRST_RESPONSE
            and control.histogram_options is not None
            and control.histogram_options.buckets
        ):
            return list(control.histogram_options.buckets)
    return BUCKETS_MS
