"""`pb_utils.MetricFamily` and the metrics of a family: on the server's metrics page as long as a model has them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ...schema.fault import Fault
from .arguments import text
from .error import TritonModelException
from .nested import asker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...engine.port import metrics as port
    from .nested import Asker

_T = TypeVar("_T")


class MetricKind(IntEnum):
    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


_KINDS: dict[MetricKind, port.CustomKind] = {
    MetricKind.COUNTER: "counter",
    MetricKind.GAUGE: "gauge",
    MetricKind.HISTOGRAM: "histogram",
}


class MetricFamily:
    """A name and a kind. Models that ask for the same name and kind share the family; it goes with its last one."""

    COUNTER: ClassVar[MetricKind] = MetricKind.COUNTER
    GAUGE: ClassVar[MetricKind] = MetricKind.GAUGE
    HISTOGRAM: ClassVar[MetricKind] = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        """Raises TritonModelException for a name that cannot be, or that another kind has; TypeError for arguments of
        other kinds."""
        name, description = text("MetricFamily", "name", name), text("MetricFamily", "description", description)
        if not isinstance(kind, MetricKind):
            raise TypeError(f"MetricFamily(): expected kind to be one of MetricFamily's kinds, got {kind!r}")
        self._asker = found = asker()
        self._kind = kind
        what, metrics = "Error when creating MetricFamily", found.metrics
        self._kept = kept = _told(found, what, metrics.family, _KINDS[kind], name, description)
        found.keep(self, metrics.release, kept)

    def Metric(self, labels: Mapping[str, str] | None = None, buckets: Sequence[float] | None = None) -> Metric:
        """The metric with these labels. `buckets` are for histograms, and for them needed. Raises TritonModelException
        for arguments that cannot be."""
        if labels is not None and not isinstance(labels, dict):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        if self._kind is not MetricKind.HISTOGRAM and buckets is not None:
            raise TritonModelException("Failed to create metric. Unexpected buckets found.")
        if self._kind is MetricKind.HISTOGRAM and buckets is None:
            raise TritonModelException("Failed to create metric. Missing required buckets.")
        if buckets is not None and not isinstance(buckets, list):
            raise TritonModelException("Failed to create metric. Buckets must be a list.")
        bounds = None if buckets is None else [float(bound) for bound in buckets]
        told = {text("Metric", "a label", key): _label(self._asker, value) for key, value in (labels or {}).items()}
        found = _told(self._asker, "Error when creating Metric", self._kept.metric, told, bounds)
        return Metric(self, found)


def _label(found: Asker, value: object) -> str:
    if not isinstance(value, str):
        raise TritonModelException(
            f"Error when creating Metric: Failed to process the request for model '{found.name}', message: attempt to "
            "access JSON non-string as string"
        )
    return value


class Metric:
    """One series, or one histogram. It is on the page as long as a model has it."""

    def __init__(self, family: MetricFamily, kept: port.Metric) -> None:
        """For families: see MetricFamily.Metric."""
        if not isinstance(family, MetricFamily):
            raise TypeError("Metric(): metrics are made by MetricFamily.Metric")
        self._family = family
        self._asker = family._asker
        self._kept = kept
        self._asker.keep(self, family._kept.release, kept)

    def increment(self, value: float) -> None:
        """Raises TritonModelException for a histogram, and for a counter that would go down."""
        _told(self._asker, "Failed to increment metric value", self._kept.increment, float(value))

    def set(self, value: float) -> None:
        """Raises TritonModelException for what is no gauge."""
        _told(self._asker, "Failed to set metric value", self._kept.set, float(value))

    def observe(self, value: float) -> None:
        """Raises TritonModelException for what is no histogram."""
        _told(self._asker, "Failed to observe metric value", self._kept.observe, float(value))

    def value(self) -> float:
        """Raises TritonModelException for a histogram."""
        return _told(self._asker, "Failed to get metric value", self._kept.value)


def _told(found: Asker, what: str, call: Callable[..., _T], *arguments: object) -> _T:
    """What `call` gives. Its fault becomes what models catch."""
    try:
        return call(*arguments)
    except Fault as fault:
        raise TritonModelException(
            f"{what}: Failed to process the request for model '{found.name}', message: {fault.message}"
        ) from None
