"""What the pictures show, apart from how they are drawn: from what run.py, open_loop.py and scale.py write with --json.

A figure has panels, a panel has series, a series has points. plot.py draws them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAMES = {"http": "HTTP", "grpc": "gRPC"}


@attrs.frozen
class Series:
    """Points that belong together: a line, or a bar of each group."""

    name: str
    x: Sequence[Any]
    """Numbers, or the groups' names."""
    y: Sequence[float | None]
    """None where nothing is known."""


@attrs.frozen
class Panel:
    """One pair of axes."""

    title: str
    series: Sequence[Series]


@attrs.frozen
class Figure:
    """One picture. All its panels have the same axes."""

    name: str
    """Of its file."""
    title: str
    panels: Sequence[Panel]
    x: str
    y: str
    kind: str
    """`bars`, one group for each x; `sizes`, lines over how many of something there are; `shares`, lines over the share
    of requests."""
    note: str = ""
    """What one must know to read it."""


def figures(told: Mapping[str, Any]) -> list[Figure]:
    """All of one file. Raises ValueError for a file that none of the three has written."""
    under = f"{told.get('cores', '?')} cores, load average {told.get('load average', 0.0):.0f}"
    if "waits" in told:
        return [*waits(told["waits"], under)]
    if "curves" in told:
        return [*curves(told["curves"], f"load average {told.get('load average', 0.0):.0f}")]
    if "rows" in told:
        return [*costs(told["rows"], under)]
    raise ValueError("neither 'waits' nor 'curves' nor 'rows': not written by open_loop.py, scale.py or run.py")


# --- run.py


def costs(rows: Sequence[Mapping[str, Any]], under: str) -> Iterator[Figure]:
    """CPU a request, by door: a panel for each number of callers."""
    for door in dict.fromkeys(row["protocol"] for row in rows):
        of_door = [row for row in rows if row["protocol"] == door]
        panels = []
        for callers in dict.fromkeys(row["callers"] for row in of_door):
            chosen = {row["case"]: row["servers"] for row in of_door if row["callers"] == callers}
            names = dict.fromkeys(name for servers in chosen.values() for name in servers)
            series = [
                Series(name, list(chosen), [servers.get(name, {}).get("cpu_us") for servers in chosen.values()])
                for name in names
            ]
            panels.append(Panel(f"{callers} caller{'s' if callers > 1 else ''}", series))
        title = f"What a request over {NAMES[door]} costs the server"
        note = f"Shorter is better. Whole process tree, closed loop, answers checked; {under}."
        yield Figure(f"cost-{door}", title, panels, "CPU µs a request", "", "bars", note)


# --- open_loop.py


def waits(rows: Sequence[Mapping[str, Any]], under: str) -> Iterator[Figure]:
    """How long so many of the requests waited: a figure for each load, a panel for each model and door."""
    for arrivals, of, share in dict.fromkeys((row["arrivals"], row["of"], row["share"]) for row in rows):
        chosen = [row for row in rows if (row["arrivals"], row["of"], row["share"]) == (arrivals, of, share)]
        panels = []
        for model, door in dict.fromkeys((row["model"], row["protocol"]) for row in chosen):
            series = []
            for row in (row for row in chosen if (row["model"], row["protocol"]) == (model, door)):
                points = [(part, ms) for part, ms in row["within_ms"] if 0.0 < part < 1.0]
                rate = f"{row['server']}, {row['per_second']:,.0f} a second"
                series.append(Series(rate, [part for part, _ in points], [ms for _, ms in points]))
            panels.append(Panel(f"{model} over {NAMES[door]}", series))
        whose = "the slower server's" if of == "slower" else "each server's own"
        came = "at random times" if arrivals == "random" else "at equal distances"
        title = f"How long requests wait at {share:.0%} of {whose} capacity"
        note = f"Lower is better. Requests come {came}; waits begin when they are due; {under}."
        name = f"waits-{arrivals}-{share * 100:.0f}-of-{of}"
        yield Figure(name, title, panels, "share of requests that waited no longer", "milliseconds", "shares", note)


# --- scale.py


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]], under: str) -> Iterator[Figure]:
    """CPU for each one of so many, and memory, with a panel for each curve; what else was measured of the models."""

    def panel(name: str, values: Mapping[str, Sequence[float]]) -> Panel:
        sizes = [point["size"] for point in found[name]]
        return Panel(name, [Series(label, sizes, list(of)) for label, of in values.items()])

    each = [
        panel(name, {"CPU": [1e3 * point["cpu_s"] / point["size"] for point in points]})
        for name, points in found.items()
    ]
    note = f"A level line is a cost that grows in proportion; {under}."
    yield Figure("scale-cpu", "What each one costs when there are more", each, "so many", "CPU ms each", "sizes", note)
    memory = []
    for name, points in found.items():
        held = {"when all are there": [point["kib"] / 1024 for point in points]}
        if any(point["kib_left"] != point["kib"] for point in points):
            held["when all are gone"] = [point["kib_left"] / 1024 for point in points]
        memory.append(panel(name, held))
    note = f"More than before the first one, the server process's own; {under}."
    yield Figure("scale-memory", "What they hold in memory", memory, "so many", "MiB", "sizes", note)
    besides = [
        panel(name, {label: [1e3 * point["more"][label] for point in points] for label in points[0]["more"]})
        for name, points in found.items()
        if points and points[0]["more"]
    ]
    if besides:
        title = "What the server spends on all of them, by part"
        yield Figure("scale-parts", title, besides, "so many", "CPU ms in all", "sizes", under)
