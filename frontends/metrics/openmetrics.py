"""The same page as OpenMetrics 1.0, for scrapers that ask for it: the one format that has exemplars.

A counter's samples would have to end in `_total` there, and a series would then have one name or the other, by what its
scraper has asked for. So counters are of the type `unknown`, which may have any name; rates and dashboards do not look
at types.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ...schema.text import encodable
from .exposition import escaped, labels_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Exemplar, Metric

CONTENT_TYPE: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
_ASKED: Final = re.compile(rb"application/openmetrics-text(?:\s*;[^,]*)?", re.IGNORECASE)
_NOT_WANTED: Final = re.compile(rb";\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)")


def is_asked_for(accept: bytes | None) -> bool:
    """Whether an Accept header names the format, and not only to rule it out."""
    return accept is not None and any(not _NOT_WANTED.search(part) for part in _ASKED.findall(accept))


def openmetrics_of(metrics: Iterable[Metric], more: bytes = b"") -> bytes:
    """The page of these families; `more` is text of the older format, whose families come last."""
    lines: list[str] = []
    for metric in metrics:
        kind = "unknown" if metric.type == "counter" else metric.type
        lines.append(f"# TYPE {metric.name} {kind}")
        lines.append(f"# HELP {metric.name} {escaped(metric.documentation)}")
        lines.extend(
            f"{sample.name}{labels_of(sample.labels)} {_value(sample.value)}{_exemplar(sample.exemplar)}"
            for sample in metric.samples
        )
    lines.extend(_converted(line) for line in more.decode(errors="replace").splitlines() if line)
    lines.append("# EOF\n")
    return encodable("\n".join(lines)).encode()


def _value(value: float) -> str:
    return "NaN" if value != value else number_of(value)


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f" # {labels_of(exemplar.labels)} {number_of(exemplar.value)} {exemplar.timestamp:.3f}"


def _converted(line: str) -> str:
    if line.startswith("# TYPE ") and line.endswith(" counter"):
        return line.removesuffix("counter") + "unknown"
    if line.startswith("#"):
        return line
    return re.sub(r" Nan$", " NaN", line)
