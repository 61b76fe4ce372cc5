"""The metrics page of what was made through the C API: this process's families, and those of libraries in processes of
their own, which tell them here. Loads nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, cast

from .loading import MODULE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .extension_port import Extension

_told: Final[dict[object, str]] = {}
"""Process -> its page, as it was last."""


def put_page(process: object, page: str) -> None:
    """Replaces the one before."""
    _told[process] = page


def drop_page(process: object) -> None:
    """It is gone, and so are its metrics."""
    _told.pop(process, None)


def metrics_page() -> bytes:
    """The metric families that programs and libraries have made through the C API, as text."""
    loaded = sys.modules.get(MODULE)
    own = "" if loaded is None else cast("Extension", loaded).metrics_page()
    pages = [page for page in (own, *_told.copy().values()) if page]
    return (merged(pages) if len(pages) > 1 else "".join(pages)).encode()


def merged(pages: Iterable[str]) -> str:
    """One page: each family once. Equal series of counters and histograms are added up, of gauges the last counts."""
    heads: dict[str, list[str]] = {}
    series: dict[str, dict[str, float]] = {}
    for page in pages:
        family = kind = ""
        for line in page.splitlines():
            if line.startswith("# "):
                _, word, family, text = line.split(" ", 3)
                if word == "TYPE":
                    kind = text
                head = heads.setdefault(family, [])
                if not any(other.startswith(f"# {word} ") for other in head):
                    head.append(line)
            else:
                name, _, value = line.rpartition(" ")
                found = series.setdefault(family, {})
                found[name] = float(value) + (0.0 if kind == "gauge" else found.get(name, 0.0))
    lines: list[str] = []
    for family, head in heads.items():
        lines += head
        lines += [f"{name} {value:.17g}" for name, value in series.get(family, {}).items()]
    return "".join(line + "\n" for line in lines)
