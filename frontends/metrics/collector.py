"""The engine's counters as Prometheus families, read at the moment of the scrape. Nothing is counted here.

prometheus_client's own counters add `_total` to names and `_created` series, which the protocol's do not have, so the
families are made from bare `Metric` objects, and exposition.py writes them under their names as they are.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from ...engine.observe.latencies import ObservedStats
from . import families
from .latencies import custom_families, latency_families
from .settings import MetricsSettings
from .workload import build_info, workload_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...engine.model.cache.keeper import Keeper
    from ...engine.model.hosted import HostedVersion
    from ...engine.observe.custom_metrics import CustomMetrics
    from .families import Family
    from .gpu import Gpus
    from .machine import Machine
    from .workload import Row

REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
GONE_MAX = 1000
"""Unloaded model versions whose failures are still shown."""

_DURATIONS = (
    (families.REQUEST_DURATION, "success_ns"),
    (families.QUEUE_DURATION, "queue_ns"),
    (families.INPUT_DURATION, "input_ns"),
    (families.INFER_DURATION, "infer_ns"),
    (families.OUTPUT_DURATION, "output_ns"),
)
_CACHE_SUMS = (
    (families.CACHE_HITS, "hit_count", 1),
    (families.CACHE_HIT_DURATION, "hit_ns", 1000),
    (families.CACHE_MISSES, "miss_count", 1),
    (families.CACHE_MISS_DURATION, "miss_ns", 1000),
)
_GPU_FAMILIES = (
    (families.GPU_UTILIZATION, "utilization"),
    (families.GPU_MEMORY_TOTAL, "memory_total"),
    (families.GPU_MEMORY_USED, "memory_used"),
    (families.GPU_POWER_USAGE, "power_usage"),
    (families.GPU_POWER_LIMIT, "power_limit"),
    (families.GPU_ENERGY, "energy_joules"),
)
_LABEL = re.compile(r"[^a-zA-Z0-9_]")


class EngineCollector:
    """A collector for any prometheus_client registry. `versions` is asked at each scrape."""

    def __init__(
        self,
        versions: Iterable[HostedVersion] = (),
        machine: Machine | None = None,
        gpus: Gpus | None = None,
        settings: MetricsSettings | None = None,
        custom: CustomMetrics | None = None,
        cache: Keeper | None = None,
    ) -> None:
        self._cache = cache
        self.versions: Sequence[HostedVersion] = list(versions)
        """Taken on the trio thread before each scrape; the numbers may then be read on any thread."""
        settings = settings or MetricsSettings()
        self._with_durations = settings.counter_latencies
        self._quantiles = settings.quantiles
        self._machine = machine
        self._gpus = gpus
        self._custom = custom
        self._failures: dict[tuple[str, str, str], _Failures] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing to check on registration: the families are fixed and ours alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family that has at least one series, in the page's order."""
        rows = [(self._labels(version), version, version.statistics, version.carried) for version in self.versions]

        def summed(family: Family, name: str, unit: int = 1, among: Sequence[Row] | None = None) -> Metric:
            metric = Metric(family.name, family.text, family.kind)
            for labels, _, now, carried in rows if among is None else among:
                metric.add_sample(family.name, labels, (getattr(now, name) + getattr(carried, name)) // unit)
            return metric

        def level(family: Family, values: Iterable[float]) -> Metric:
            metric = Metric(family.name, family.text, family.kind)
            for (labels, *_), value in zip(rows, values, strict=True):
                metric.add_sample(family.name, labels, value)
            return metric

        cached = [row for row in rows if row[2].has_cache]
        everything = [
            summed(families.SUCCESS, "success_count"),
            self._failed(rows),
            summed(families.COUNT, "inference_count"),
            summed(families.EXECUTIONS, "execution_count"),
            *(summed(family, name, 1000) for family, name in _DURATIONS if self._with_durations),
            *(summed(family, name, unit, cached) for family, name, unit in _CACHE_SUMS),
            level(families.PENDING, (version.pending for version in self.versions)),
            level(families.LOAD_DURATION, (version.load_seconds for version in self.versions)),
        ]
        ours = [_batches(rows), *workload_families(rows)]
        yield from (metric for metric in [*everything, *ours] if metric.samples)
        yield build_info()
        yield from self._machine_families()
        yield from self._gpu_families()
        yield from self._cache_families()
        observed = [(labels, stats) for labels, _, stats, _ in rows if isinstance(stats, ObservedStats)]
        yield from latency_families(observed, self._quantiles, time.monotonic())
        if self._custom is not None:
            yield from custom_families(self._custom)

    def _failed(self, rows: Sequence[Row]) -> Metric:
        """Failures stay on the page after an unload and go on from there after the next load."""
        family = families.FAILURE
        metric = Metric(family.name, family.text, family.kind)
        for labels, version, now, carried in rows:
            place = (version.namespace, version.name, version.version_text)
            known = self._failures.pop(place, None) or _Failures()
            self._failures[place] = known  # the latest seen are last
            known.labels = labels
            known.update({reason: now.failures[reason] + carried.failures[reason] for reason in REASONS})
        while len(self._failures) > GONE_MAX + len(rows):
            del self._failures[next(iter(self._failures))]
        for known in self._failures.values():
            for reason in REASONS:
                metric.add_sample(family.name, {**known.labels, "reason": reason}, known.total(reason))
        return metric

    def _machine_families(self) -> Iterator[Metric]:
        # There is no pinned memory pool; its gauges say so, because dashboards ask for them.
        values: list[tuple[Family, float]] = [(families.PINNED_TOTAL, 0), (families.PINNED_USED, 0)]
        reading = self._machine.read() if self._machine is not None else None
        if reading is not None:
            values += [
                (families.CPU_UTILIZATION, reading.cpu_utilization),
                (families.CPU_MEMORY_TOTAL, reading.memory_total),
                (families.CPU_MEMORY_USED, reading.memory_used),
            ]
        for family, value in values:
            metric = Metric(family.name, family.text, family.kind)
            metric.add_sample(family.name, {}, value)
            yield metric

    def _cache_families(self) -> Iterator[Metric]:
        """Of the cache as a whole, where the engine itself has it."""
        fill = None if self._cache is None else self._cache.fill
        if self._cache is None or fill is None:
            return
        for family, value in (
            (families.CACHE_UTIL, fill.used_bytes / fill.byte_size),
            (families.CACHE_ENTRIES, fill.entries),
            (families.ALL_HITS, self._cache.hits),
            (families.ALL_MISSES, self._cache.misses),
            (families.ALL_LOOKUPS, self._cache.lookups),
            (families.EVICTIONS, fill.evictions),
            (families.LOOKUP_DURATION, self._cache.lookup_ns // 1000),
            (families.INSERTION_DURATION, self._cache.insertion_ns // 1000),
        ):
            metric = Metric(family.name, family.text, family.kind)
            metric.add_sample(family.name, {}, value)
            yield metric

    def _gpu_families(self) -> Iterator[Metric]:
        readings = self._gpus.read() if self._gpus is not None else []
        for family, name in _GPU_FAMILIES:
            metric = Metric(family.name, family.text, family.kind)
            for reading in readings:
                value = getattr(reading, name)
                if value is not None:
                    metric.add_sample(family.name, {"gpu_uuid": reading.uuid}, value)
            if metric.samples:
                yield metric

    def _labels(self, version: HostedVersion) -> dict[str, str]:
        labels = {"model": version.name, "version": version.version_text}
        if version.namespace:
            labels["namespace"] = version.namespace
        for key, value in version.config.metric_tags.items():
            labels["_" + _LABEL.sub("_", key)] = value
        # A model on several GPUs is counted as one, so no single GPU can be named.
        if self._gpus is not None and len(version.gpus) == 1 and version.gpus[0] in self._gpus.uuids:
            labels["gpu_uuid"] = self._gpus.uuids[version.gpus[0]]
        return labels


def _batches(rows: Sequence[Row]) -> Metric:
    family = families.BATCHES
    metric = Metric(family.name, family.text, family.kind)
    for labels, _, now, carried in rows:
        counts = Counter(now.batch_reasons) + Counter(carried.batch_reasons)
        for reason, count in sorted(counts.items()):
            metric.add_sample(family.name, {**labels, "reason": reason}, count)
    return metric


class _Failures:
    """One model version's failures over all its lives."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self._earlier = dict.fromkeys(REASONS, 0)
        self._seen = dict.fromkeys(REASONS, 0)

    def update(self, counts: dict[str, int]) -> None:
        for reason, count in counts.items():
            if count < self._seen[reason]:  # it counts from zero again: the model was unloaded in between
                self._earlier[reason] += self._seen[reason]
            self._seen[reason] = count

    def total(self, reason: str) -> int:
        return self._earlier[reason] + self._seen[reason]
