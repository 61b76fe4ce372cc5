"""Metric families that models and backends make themselves, for the metrics page.

Any thread may make, change and read them. A family is one per name; a metric is one per set of labels within it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from ...schema.fault import InvalidArgument, Unsupported
from .latencies import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CustomKind = Literal["counter", "gauge", "histogram"]

FAMILIES_MAX = 1000
METRICS_MAX = 10_000
"""Per family: labels often come from requests."""


class CustomMetric:
    """One series of a family, or one histogram. Raises Unsupported for what its kind does not do."""

    __slots__ = ("_kind", "_lock", "_value", "histogram", "labels")

    def __init__(self, kind: CustomKind, labels: Mapping[str, str], buckets: Sequence[float]) -> None:
        self.labels = dict(labels)
        self.histogram = Histogram(buckets) if kind == "histogram" else None
        self._kind = kind
        self._lock = threading.Lock()
        self._value = 0.0

    def increment(self, value: float) -> None:
        """Raises InvalidArgument for a counter that would go down."""
        if self._kind == "counter" and value < 0:
            raise InvalidArgument(
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
            )
        self._refuse("Increment", "histogram")
        with self._lock:
            self._value += value

    def set(self, value: float) -> None:
        self._refuse("Set", "counter", "histogram")
        self._value = value

    def observe(self, value: float) -> None:
        self._refuse("Observe", "counter", "gauge")
        assert self.histogram is not None, "only histograms observe"
        with self._lock:
            self.histogram.observe(value)

    def value(self) -> float:
        self._refuse("Value", "histogram")
        return self._value

    def _refuse(self, what: str, *kinds: CustomKind) -> None:
        if self._kind in kinds:
            raise Unsupported(f"TRITONSERVER_METRIC_KIND_{self._kind.upper()} does not support {what}")


class CustomFamily:
    """A name, a kind, a help text, and its metrics."""

    def __init__(self, kind: CustomKind, name: str, text: str) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self._metrics: dict[tuple[tuple[str, str], ...], CustomMetric] = {}
        self._lock = threading.Lock()

    def metric(self, labels: Mapping[str, str], buckets: Sequence[float] | None = None) -> CustomMetric:
        """The metric with these labels, made if it is new. Raises InvalidArgument for buckets that are missing or not
        called for, and when there are too many metrics."""
        if self.kind == "histogram" and not buckets:
            raise InvalidArgument("Bucket boundaries not found in Metric args.")
        if self.kind != "histogram" and buckets is not None:
            raise InvalidArgument(f"Unexpected args found in {self.kind} Metric constructor.")
        key = tuple(sorted(labels.items()))
        with self._lock:
            found = self._metrics.get(key)
            if found is None:
                if len(self._metrics) >= METRICS_MAX:
                    raise InvalidArgument(f"metric family '{self.name}' has {METRICS_MAX} metrics, no more are kept")
                found = self._metrics[key] = CustomMetric(self.kind, labels, buckets or ())
            return found

    def remove(self, metric: CustomMetric) -> None:
        """Takes a metric off the page. Idempotent."""
        with self._lock:
            self._metrics.pop(tuple(sorted(metric.labels.items())), None)

    def metrics(self) -> list[CustomMetric]:
        with self._lock:
            return list(self._metrics.values())


class CustomMetrics:
    """All such families of an engine."""

    def __init__(self) -> None:
        self._families: dict[str, CustomFamily] = {}
        self._lock = threading.Lock()

    def family(self, kind: CustomKind, name: str, text: str) -> CustomFamily:
        """The family of that name, made if it is new. Raises InvalidArgument when there is one of another kind, and
        when there are too many."""
        with self._lock:
            found = self._families.get(name)
            if found is None:
                if len(self._families) >= FAMILIES_MAX:
                    raise InvalidArgument(f"there are {FAMILIES_MAX} metric families, no more are kept")
                found = self._families[name] = CustomFamily(kind, name, text)
            if found.kind != kind:
                raise InvalidArgument(f"metric family '{name}' is a {found.kind}, not a {kind}")
            return found

    def families(self) -> list[CustomFamily]:
        """Those that have metrics."""
        with self._lock:
            return [family for family in self._families.values() if family.metrics()]
