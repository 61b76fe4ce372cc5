"""Metrics that models and backends make themselves, for the metrics page. Everything may be called from any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CustomKind = Literal["counter", "gauge", "histogram"]


class Metric(Protocol):
    """One series of a family, or one histogram. Raises Unsupported for what its kind does not do."""

    def increment(self, value: float) -> None:
        """Raises InvalidArgument for a counter that would go down."""
        ...

    def set(self, value: float) -> None: ...

    def observe(self, value: float) -> None: ...

    def value(self) -> float: ...


class MetricFamily(Protocol):
    """A name, a kind, a help text, and its metrics."""

    def metric(self, labels: Mapping[str, str], buckets: Sequence[float] | None = None) -> Metric:
        """The metric with these labels, made if it is new, and held once more. Raises InvalidArgument for labels that
        cannot be, buckets that are missing, not in order or not called for, and when there are too many metrics."""
        ...

    def release(self, metric: Metric) -> None:
        """It is held once less; when nobody holds it, it leaves the page. May be called within garbage collection."""
        ...


class Metrics(Protocol):
    """All such families of an engine."""

    def family(self, kind: CustomKind, name: str, text: str) -> MetricFamily:
        """The family of that name, made if it is new, and held once more. Raises InvalidArgument for a name that cannot
        be, when there is one of another kind, and when there are too many."""
        ...

    def release(self, family: MetricFamily) -> None:
        """It is held once less; when nobody holds it, it is gone with its metrics."""
        ...
