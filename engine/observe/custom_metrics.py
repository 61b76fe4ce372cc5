"""Metric families that models and backends make themselves, for the metrics page.

Any thread may make, change and read them. A family is one per name; a metric is one per set of labels within it. Each
is there as long as somebody holds it: whoever asks for one does, until he releases it.

Locks are taken again by the thread that has them: releasing may happen within garbage collection, at any moment.
"""

from __future__ import annotations

import math
import re
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument, Unsupported
from .latencies import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..port.metrics import CustomKind, Metric, MetricFamily

FAMILIES_MAX = 1000
METRICS_MAX = 10_000
"""Per family: labels often come from requests."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class CustomMetric:
    """One series of a family, or one histogram. Raises Unsupported for what its kind does not do."""

    __slots__ = ("_kind", "_lock", "_value", "histogram", "holders", "labels")

    def __init__(self, kind: CustomKind, labels: Mapping[str, str], buckets: Sequence[float]) -> None:
        self.labels = dict(labels)
        self.histogram = Histogram(buckets) if kind == "histogram" else None
        self._kind = kind
        self._lock = threading.Lock()
        self._value = 0.0
        self.holders = 0

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
        self.holders = 0
        self._metrics: dict[tuple[tuple[str, str], ...], CustomMetric] = {}
        self._lock = threading.RLock()

    def metric(self, labels: Mapping[str, str], buckets: Sequence[float] | None = None) -> CustomMetric:
        """See port/metrics.py."""
        self._check(labels, buckets)
        key = tuple(sorted(labels.items()))
        with self._lock:
            found = self._metrics.get(key)
            if found is None:
                if len(self._metrics) >= METRICS_MAX:
                    raise InvalidArgument(f"metric family '{self.name}' has {METRICS_MAX} metrics, no more are kept")
                found = CustomMetric(self.kind, labels, buckets or ())
            found.holders += 1
            self._metrics[key] = found
            return found

    def release(self, metric: Metric) -> None:
        """See port/metrics.py. One that nobody holds is no error."""
        assert isinstance(metric, CustomMetric), "one of this family's"
        with self._lock:
            metric.holders -= 1
            if metric.holders <= 0:
                self._metrics.pop(tuple(sorted(metric.labels.items())), None)

    def metrics(self) -> list[CustomMetric]:
        with self._lock:
            return list(self._metrics.values())

    def _check(self, labels: Mapping[str, str], buckets: Sequence[float] | None) -> None:
        for label in labels:
            if _LABEL.fullmatch(label) is None or (label == "le" and self.kind == "histogram"):
                raise InvalidArgument("Invalid label name")
        if self.kind != "histogram":
            if buckets is not None:
                raise InvalidArgument(f"Unexpected args found in {self.kind} Metric constructor.")
        elif buckets is None:
            raise InvalidArgument("Bucket boundaries not found in Metric args.")
        elif not all(map(math.isfinite, buckets)):
            raise InvalidArgument(f"bucket boundaries must be finite numbers, got {list(buckets)}")
        elif not all(low < high for low, high in pairwise(buckets)):
            raise InvalidArgument("Bucket Boundaries must be strictly sorted")


class CustomMetrics:
    """All such families of an engine."""

    def __init__(self) -> None:
        self._families: dict[str, CustomFamily] = {}
        self._lock = threading.RLock()

    def family(self, kind: CustomKind, name: str, text: str) -> CustomFamily:
        """See port/metrics.py."""
        if _NAME.fullmatch(name) is None:
            raise InvalidArgument("Invalid metric name")
        with self._lock:
            found = self._families.get(name)
            if found is None:
                if len(self._families) >= FAMILIES_MAX:
                    raise InvalidArgument(f"there are {FAMILIES_MAX} metric families, no more are kept")
                found = CustomFamily(kind, name, text)
            if found.kind != kind:
                raise InvalidArgument("Family name already exists with different type")
            found.holders += 1
            self._families[name] = found
            return found

    def release(self, family: MetricFamily) -> None:
        """See port/metrics.py. One that nobody holds is no error."""
        assert isinstance(family, CustomFamily), "one of these"
        with self._lock:
            family.holders -= 1
            if family.holders <= 0 and self._families.get(family.name) is family:
                del self._families[family.name]

    def families(self) -> list[CustomFamily]:
        """Those that have metrics."""
        with self._lock:
            return [family for family in self._families.values() if family.metrics()]
