"""Pictures of what run.py, open_loop.py and scale.py have written with --json: `plot.py FILE... --out FOLDER`.

Needs matplotlib: the extra `bench`. What is drawn is figures.py's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.figures import figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.figures import Figure, Panel

COLOURS = {"Despina": "#0b6e4f", "Despina, in process": "#4fb286", "reference": "#c8553d", "other": "#c8553d"}
MORE_COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#e0a458", "#7d5ba6")
FLOOR_COLOUR = "#9a9a9a"
MARKS = "osD^v"
COLUMNS_MAX = 4
SHARES_SHOWN = {0.5: "50 %", 0.9: "90 %", 0.99: "99 %", 0.999: "99.9 %", 0.9999: "99.99 %"}


def draw(figure: Figure, folder: Path) -> Path:
    """Writes one picture. Returns its file."""
    plt = _pyplot()
    columns = min(COLUMNS_MAX, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    is_bars = figure.kind == "bars"
    groups = max(len(series.x) for panel in figure.panels for series in panel.series) if is_bars else 0
    size = (3.6 * columns + 1.6, max(3.0, 0.42 * groups + 1) + 1.4) if is_bars else (4.1 * columns, 3.3 * rows + 1.0)
    drawn, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=figure.kind != "sizes", layout="constrained"
    )
    axes = list(grid.flat)
    for ax, panel in zip(axes, figure.panels, strict=False):
        {"bars": _bars, "sizes": _sizes, "shares": _shares}[figure.kind](ax, panel)
        ax.set_title(panel.title, fontsize=10)
        ax.set_xlabel(figure.x, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    for ax in axes[len(figure.panels) :]:
        ax.set_visible(False)
    for row in grid:
        row[0].set_ylabel(figure.y, fontsize=9)
    drawn.suptitle(f"{figure.title}\n\n", fontsize=13, fontweight="bold")
    drawn.text(0.5, 1 - 0.36 / drawn.get_figheight(), figure.note, ha="center", va="top", fontsize=9, color="#555")
    if is_bars:
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8)
    path = folder / f"{figure.name}.png"
    drawn.savefig(path, dpi=110)
    plt.close(drawn)
    return path


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit(
            "drawing needs matplotlib: pip install 'despina[bench]', from a checkout '.[bench]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _colour(name: str, index: int) -> str:
    server = next((known for known in sorted(COLOURS, key=len, reverse=True) if name.startswith(known)), None)
    if server is not None:
        return COLOURS[server]
    return FLOOR_COLOUR if name == "floor" else MORE_COLOURS[index % len(MORE_COLOURS)]


def _bars(ax: Any, panel: Panel) -> None:
    """A group of bars for each x, the first on top; its number at the end of each."""
    height = 0.8 / len(panel.series)
    for index, series in enumerate(panel.series):
        places = [group + (index - (len(panel.series) - 1) / 2) * height for group in range(len(series.x))]
        bars = ax.barh(places, [value or 0.0 for value in series.y], height * 0.92, label=series.name)
        for bar in bars:
            bar.set_color(_colour(series.name, index))
        texts = ["" if value is None else f"{value:,.0f}" for value in series.y]
        ax.bar_label(bars, texts, padding=2, fontsize=7)
    ax.set_yticks(range(len(panel.series[0].x)), panel.series[0].x)
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    ax.margins(x=0.15)


def _sizes(ax: Any, panel: Panel) -> None:
    """Lines from nothing, over a size."""
    for index, series in enumerate(panel.series):
        ax.plot(series.x, series.y, marker=MARKS[index % len(MARKS)], ms=4, lw=1.6, label=series.name)
        ax.lines[-1].set_color(_colour(series.name, index))
    ax.set_xlim(left=0)
    ax.set_ylim(0, max([*ax.get_ylim(), 1e-3]) * 1.1)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_major_locator(_pyplot().MaxNLocator(4))
    ax.grid(alpha=0.25)
    if len(panel.series) > 1:
        ax.legend(fontsize=7)


def _shares(ax: Any, panel: Panel) -> None:
    """Lines over the share of requests, which is stretched towards all of them: each nine as wide as the one before."""
    for index, series in enumerate(panel.series):
        at = [-math.log10(1 - share) for share in series.x]
        ax.plot(at, series.y, marker=MARKS[index % len(MARKS)], ms=3.5, lw=1.6, label=series.name)
        ax.lines[-1].set_color(_colour(series.name, index))
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ticks = {-math.log10(1 - share): text for share, text in SHARES_SHOWN.items()}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.grid(alpha=0.25, which="both")
    ax.legend(fontsize=7, loc="lower right")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws everything and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where the pictures go")
    options = parser.parse_args(arguments)
    _pyplot()
    options.out.mkdir(parents=True, exist_ok=True)
    for file in options.files:
        for figure in figures(json.loads(file.read_text())):
            print(draw(figure, options.out))


if __name__ == "__main__":
    main()
