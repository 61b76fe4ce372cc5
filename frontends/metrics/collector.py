"""The engine's counters as Prometheus families, read at the moment of the scrape. Nothing is counted here.

prometheus_client's own counters add `_total` to names and `_created` series, which the protocol's do not have, so the
families are made from bare `Metric` objects, and exposition.py writes them under their names as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from . import families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...engine.model import ModelVersion
    from ...engine.statistics import ModelStats
    from .families import Family
    from .machine import Machine

REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
GONE_MAX = 1000
"""Unloaded model versions whose failures are still shown."""

_LABEL = re.compile(r"[^a-zA-Z0-9_]")


class EngineCollector:
    """A collector for any prometheus_client registry. `versions` is asked at each scrape."""

    def __init__(self, versions: Iterable[ModelVersion] = (), machine: Machine | None = None) -> None:
        self.versions: Sequence[ModelVersion] = list(versions)
        """Taken on the trio thread before each scrape; the numbers may then be read on any thread."""
        self._machine = machine
        self._failures: dict[tuple[str, str], _Failures] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing to check on registration: the families are fixed and ours alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family that has at least one series, in the page's order."""
        rows = [(_labels(version), version, version.statistics, version.carried) for version in self.versions]

        def summed(family: Family, name: str, unit: int = 1) -> Metric:
            metric = Metric(family.name, family.text, family.kind)
            for labels, _, now, carried in rows:
                metric.add_sample(family.name, labels, (getattr(now, name) + getattr(carried, name)) // unit)
            return metric

        def level(family: Family, values: Iterable[float]) -> Metric:
            metric = Metric(family.name, family.text, family.kind)
            for (labels, *_), value in zip(rows, values, strict=True):
                metric.add_sample(family.name, labels, value)
            return metric

        everything = [
            summed(families.SUCCESS, "success_count"),
            self._failed(rows),
            summed(families.COUNT, "inference_count"),
            summed(families.EXECUTIONS, "execution_count"),
            summed(families.REQUEST_DURATION, "success_ns", 1000),
            summed(families.QUEUE_DURATION, "queue_ns", 1000),
            summed(families.INPUT_DURATION, "input_ns", 1000),
            summed(families.INFER_DURATION, "infer_ns", 1000),
            summed(families.OUTPUT_DURATION, "output_ns", 1000),
            level(families.PENDING, (version.pending for version in self.versions)),
            level(families.LOAD_DURATION, (version.load_seconds for version in self.versions)),
        ]
        yield from (metric for metric in everything if metric.samples)
        yield from self._machine_families()

    def _failed(self, rows: Sequence[tuple[dict[str, str], ModelVersion, ModelStats, ModelStats]]) -> Metric:
        """Failures stay on the page after an unload and go on from there after the next load."""
        family = families.FAILURE
        metric = Metric(family.name, family.text, family.kind)
        for labels, version, now, carried in rows:
            known = self._failures.pop((version.name, version.version_text), None) or _Failures()
            self._failures[version.name, version.version_text] = known  # the latest seen are last
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


def _labels(version: ModelVersion) -> dict[str, str]:
    labels = {"model": version.name, "version": version.version_text}
    for key, value in version.config.metric_tags.items():
        labels["_" + _LABEL.sub("_", key)] = value
    return labels
