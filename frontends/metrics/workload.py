"""Families of our own: what each model has to do, where it is executed, who got no answer, and which release this is.

The protocol has no words for these. Names are the same in both formats of the page.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from ...engine.engine import PROTOCOL_VERSION
from ...schema.release import RELEASE
from . import families

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...engine.model.hosted import HostedVersion
    from ...engine.observe.statistics import ModelStats
    from .families import Family

    Row = tuple[dict[str, str], HostedVersion, ModelStats, ModelStats]
    """Labels, what is counted, what it counts, and what an earlier load of it had counted."""


def build_info() -> Metric:
    """Of the server as a whole."""
    metric = _metric(families.BUILD_INFO)
    labels = {"version": RELEASE, "protocol": PROTOCOL_VERSION, "python": platform.python_version()}
    metric.add_sample(families.BUILD_INFO.name, labels, 1)
    return metric


def workload_families(rows: Sequence[Row]) -> Iterator[Metric]:
    """Of each model version."""
    inflight, queue_max, oldest = (
        _metric(families.INFLIGHT),
        _metric(families.QUEUE_MAX),
        _metric(families.QUEUE_OLDEST),
    )
    instances, placement, unserved = (
        _metric(families.INSTANCES),
        _metric(families.PLACEMENT),
        _metric(families.UNSERVED),
    )
    for labels, version, now, carried in rows:
        workload = version.workload()
        inflight.add_sample(inflight.name, labels, workload.inflight)
        queue_max.add_sample(queue_max.name, labels, workload.queue_max)
        oldest.add_sample(oldest.name, labels, workload.oldest_s)
        if workload.instances_serving or workload.instances_down:  # ensembles have none
            instances.add_sample(instances.name, {**labels, "state": "serving"}, workload.instances_serving)
            instances.add_sample(instances.name, {**labels, "state": "down"}, workload.instances_down)
        inline = now.inline_count + carried.inline_count
        elsewhere = max(0, now.execution_count + carried.execution_count - inline)
        placement.add_sample(placement.name, {**labels, "place": "inline"}, inline)
        placement.add_sample(placement.name, {**labels, "place": "elsewhere"}, elsewhere)
        for reason, count in now.unserved.items():
            total = count + carried.unserved[reason]
            unserved.add_sample(unserved.name, {**labels, "reason": reason}, total)
    yield from (inflight, queue_max, oldest, instances, placement, unserved)


def _metric(family: Family) -> Metric:
    return Metric(family.name, family.text, family.kind)
