"""Boxes of text, as the log shows them on start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def box(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a ruled header; a cell may have several lines."""
    split = [[cell.split("\n") for cell in row] for row in ([*header], *rows)]
    widths = [max(len(line) for row in split for line in row[column]) for column in range(len(header))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule]
    for index, row in enumerate(split):
        for depth in range(max(len(cell) for cell in row)):
            cells = [cell[depth] if depth < len(cell) else "" for cell in row]
            lines.append("|" + "|".join(f" {cell:<{width}} " for cell, width in zip(cells, widths, strict=True)) + "|")
        if index == 0:
            lines.append(rule)
    lines.append(rule)
    return "\n".join(lines)
