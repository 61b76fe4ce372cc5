"""Tables of text, as the log shows them on start: for a terminal of 80 columns, a file or a collector alike."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH: Final = 80
NAME_WIDTH: Final = 37
"""Of the first column at most: names are longer in rare cases only, and what stands beside them needs room."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Ruled with `+`, `-` and `|`, no line longer than WIDTH: cells break between words, and within those that are too
    long. A cell may have several lines."""
    from rich import box  # 40 ms that only the server pays
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.ASCII2, header_style="", pad_edge=True)
    for index, title in enumerate(header):
        grid.add_column(title, overflow="fold", max_width=None if index else NAME_WIDTH)
    for row in rows:
        grid.add_row(*(Text(cell, overflow="fold") for cell in row))
    written = io.StringIO()
    Console(file=written, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False).print(grid)
    return written.getvalue().rstrip("\n")
