"""The fuzz targets themselves: they run, and find nothing in their seeds and a second of mutations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = sorted((Path(__file__).resolve().parent.parent / "fuzz").glob("fuzz_*.py"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_target_finds_nothing(target):
    """Goal: no target rots. Method: each runs alone for a second with a fixed seed, as `make fuzz` runs it for long."""
    command = [sys.executable, str(target), "--seconds", "1", "--seed", "7"]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout
