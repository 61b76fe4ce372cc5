"""Histories of a whole engine, by seed. `DESPINA_SIMULATION_SEEDS` says how many; see simulation.py."""

import os

import pytest

from tests.simulation.simulation import simulate

SEEDS = int(os.environ.get("DESPINA_SIMULATION_SEEDS", "20"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_history(seed, tmp_path):
    """Goal: every request ends exactly once, order and bounds hold, books balance, nothing is left behind."""
    simulate(seed, tmp_path / "models")


def test_histories_have_something_to_say(tmp_path):
    """Goal: the workload reaches what it is there to test: answers, refusals, timeouts, deadlines, failures."""
    outcomes = simulate(0, tmp_path / "0")
    for seed in range(1, 12):
        outcomes += simulate(seed, tmp_path / str(seed))
    wanted = {"answered", "left", "QueueFull", "QueueTimeout", "DeadlineExceeded", "ModelFailure", "NotFound"}
    assert wanted <= set(outcomes)
    assert outcomes["answered"] > 1000
