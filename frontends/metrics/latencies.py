"""Families beyond the counters: summaries and histograms of latencies, of models whose engine keeps them, and what
models and backends count themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import Exemplar, Metric

from . import families

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...engine.observe.custom_metrics import CustomMetrics
    from ...engine.observe.latencies import Histogram, ObservedStats, Summary
    from .families import Family

_SUMMARIES = (
    (families.REQUEST_SUMMARY, "request"),
    (families.QUEUE_SUMMARY, "queue"),
    (families.INPUT_SUMMARY, "input"),
    (families.INFER_SUMMARY, "infer"),
    (families.OUTPUT_SUMMARY, "output"),
    (families.CACHE_HIT_SUMMARY, "hits"),
    (families.CACHE_MISS_SUMMARY, "misses"),
)

_OWN_NAMES = frozenset(value.name for value in vars(families).values() if isinstance(value, families.Family))

Row = tuple[dict[str, str], "ObservedStats"]


def latency_families(rows: Sequence[Row], quantiles: Sequence[float], now_s: float) -> Iterator[Metric]:
    """The histograms, then the summaries. `now_s` is on the monotonic clock."""
    yield from _made(families.DURATIONS, [(labels, stats.durations) for labels, stats in rows], (), now_s)
    yield from _made(families.FIRST_RESPONSE, [(labels, stats.first_response) for labels, stats in rows], (), now_s)
    for family, name in _SUMMARIES:
        yield from _made(family, [(labels, getattr(stats, name)) for labels, stats in rows], quantiles, now_s)


def custom_families(custom: CustomMetrics) -> Iterator[Metric]:
    """What models and backends count themselves, but for names that are the server's own: a page has each once."""
    for family in custom.families():
        if family.name in _OWN_NAMES:
            continue
        metric = Metric(family.name, family.text, family.kind)
        for kept in family.metrics():
            if kept.histogram is None:
                metric.add_sample(family.name, kept.labels, kept.value())
            else:
                _add_histogram(metric, kept.labels, kept.histogram)
        yield metric


def _made(
    family: Family,
    rows: Sequence[tuple[dict[str, str], Summary | Histogram | None]],
    quantiles: Sequence[float],
    now_s: float,
) -> Iterator[Metric]:
    metric = Metric(family.name, family.text, family.kind)
    for labels, kept in rows:
        if kept is None:
            continue
        if family.kind == "summary":
            _add_summary(metric, labels, kept, quantiles, now_s)  # type: ignore[arg-type]  # told by the family
        else:
            _add_histogram(metric, labels, kept)  # type: ignore[arg-type]  # told by the family
    if metric.samples:
        yield metric


def _add_summary(
    metric: Metric, labels: dict[str, str], summary: Summary, quantiles: Sequence[float], now_s: float
) -> None:
    metric.add_sample(f"{metric.name}_count", labels, summary.count)
    metric.add_sample(f"{metric.name}_sum", labels, summary.sum_us)
    for quantile, value in zip(quantiles, summary.quantiles(quantiles, now_s), strict=True):
        metric.add_sample(metric.name, {**labels, "quantile": f"{quantile:g}"}, value)


def _add_histogram(metric: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    counts = list(histogram.counts)
    metric.add_sample(f"{metric.name}_count", labels, sum(counts))
    metric.add_sample(f"{metric.name}_sum", labels, histogram.sum)
    below = 0
    examples = histogram.examples.copy()
    for index, (bound, count) in enumerate(zip((*histogram.bounds, None), counts, strict=True)):
        below += count
        le = "+Inf" if bound is None else f"{bound:g}"
        example = examples.get(index)
        exemplar = None
        if example is not None:
            exemplar = Exemplar({"trace_id": example.trace_id}, example.value, example.time_s)
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": le}, below, exemplar=exemplar)
