"""Metrics of a model in a process of its own: they are kept at the server, and asked for one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ....engine.port import metrics as port
    from .server import Server


class ChildMetric:
    """See port/metrics.py: Metric."""

    def __init__(self, number: int, server: Server) -> None:
        self.number = number
        self._server = server

    def increment(self, value: float) -> None:
        self._server.ask("metric", ("increment", self.number, value))

    def set(self, value: float) -> None:
        self._server.ask("metric", ("set", self.number, value))

    def observe(self, value: float) -> None:
        self._server.ask("metric", ("observe", self.number, value))

    def value(self) -> float:
        return float(self._server.ask("metric", ("value", self.number)))


class ChildFamily:
    """See port/metrics.py: MetricFamily."""

    def __init__(self, number: int, server: Server) -> None:
        self.number = number
        self._server = server

    def metric(self, labels: Mapping[str, str], buckets: Sequence[float] | None = None) -> ChildMetric:
        bounds = None if buckets is None else list(buckets)
        number = self._server.ask("metric", ("make", self.number, dict(labels), bounds))
        return ChildMetric(number, self._server)

    def release(self, metric: port.Metric) -> None:
        assert isinstance(metric, ChildMetric), "there are no others here"
        self._server.say_soon("release", (metric.number,))


class ChildMetrics:
    """See port/metrics.py: Metrics."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def family(self, kind: port.CustomKind, name: str, text: str) -> ChildFamily:
        return ChildFamily(self._server.ask("metric", ("family", kind, name, text)), self._server)

    def release(self, family: port.MetricFamily) -> None:
        assert isinstance(family, ChildFamily), "there are no others here"
        self._server.say_soon("release", (family.number,))
