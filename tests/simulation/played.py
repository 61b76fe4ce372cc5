"""Histories that were played in this process, each once."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from tests.simulation.simulation import simulate

PLAYED: dict[int, Counter[str]] = {}
"""Seed -> what it has reached."""


def play(seed: int) -> Counter[str]:
    """Plays the history of that seed, unless it was. Raises what does not hold in it."""
    if seed not in PLAYED:
        with tempfile.TemporaryDirectory() as directory:
            PLAYED[seed] = simulate(seed, Path(directory, "models"))
    return PLAYED[seed]


def reached() -> Counter[str]:
    """By all of them together."""
    return sum(PLAYED.values(), start=Counter())
