"""Prometheus text, format 0.0.4, with names and numbers as the protocol writes them.

prometheus_client's writer renames counters and writes 1e+06 for a million; scrapers of the reference server read
neither (its load generator accepts digits and a point only).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...schema.text import encodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric

CONTENT_TYPE: Final = b"text/plain; charset=utf-8"


def text_of(metrics: Iterable[Metric]) -> bytes:
    """The page of these families."""
    lines: list[str] = []
    for metric in metrics:
        documentation = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines.append(f"# HELP {metric.name} {documentation}")
        lines.append(f"# TYPE {metric.name} {metric.type}")
        lines.extend(f"{sample.name}{labels_of(sample.labels)} {number_of(sample.value)}" for sample in metric.samples)
    lines.append("")
    return encodable("\n".join(lines)).encode()


def labels_of(labels: Mapping[str, str]) -> str:
    """`{name="value",...}`; nothing for none."""
    if not labels:
        return ""
    ordered = sorted(labels.items(), key=_place)
    return "{" + ",".join(f'{key}="{escaped(value)}"' for key, value in ordered) + "}"


def _place(label: tuple[str, str]) -> tuple[bool, str]:
    """By name; those that tell the samples of one series apart come last."""
    return label[0] in ("quantile", "le"), label[0]


def escaped(value: str) -> str:
    """A label's value, or a help text of OpenMetrics."""
    if "\\" in value or "\n" in value or '"' in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def number_of(value: float) -> str:
    """In digits and a point."""
    if isinstance(value, int):
        return str(value)
    if value != value:
        return "Nan"  # as the reference server writes it; every reader of the format takes it in any case
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    return f"{value:.17f}".rstrip("0") if "e-" in text else text
