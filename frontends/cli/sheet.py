"""Tables that verbs print: columns without rules, for people and for `grep`, `awk` and `sort` alike."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ANY = 10_000


def sheet(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As wide as the terminal, with cells that break; without one a row is a line, however long. A header that is bold
    where the terminal can."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    seen = sys.stdout.isatty()
    grid = Table(box=box.SIMPLE_HEAD if seen else None, pad_edge=False, header_style="bold", show_edge=False)
    for index, title in enumerate(header):
        grid.add_column(title.upper(), overflow="fold", no_wrap=not seen, ratio=None if index < len(header) - 1 else 1)
    for row in rows:
        grid.add_row(*(Text(cell.strip() if seen else " ".join(cell.split()), overflow="fold") for cell in row))
    written = io.StringIO()
    width = shutil.get_terminal_size((80, 24)).columns if seen else _ANY
    colour = "auto" if seen and "NO_COLOR" not in os.environ else None
    console = Console(file=written, width=width, color_system=colour, force_terminal=seen, force_jupyter=False)  # type: ignore[arg-type]  # "auto" is one of its words
    console.print(grid)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()).rstrip("\n")
