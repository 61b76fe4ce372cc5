"""The example repository, for every test of this folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def models() -> Path:
    """The example repository with its large files in place. Skips where they can be neither found nor fetched."""
    done = subprocess.run([sys.executable, EXAMPLES / "fetch_models.py"], text=True, stderr=subprocess.PIPE)
    if done.returncode:
        pytest.skip(f"the example models cannot be fetched: {done.stderr.strip()[-300:]}")
    return EXAMPLES / "models"
