"""How C programs of the tests are compiled."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
MODELS = Path(__file__).parent / "models"
CC = shlex.split(os.environ.get("CC", "cc"))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g"]
SANITIZERS = {
    name: text
    for name, text in os.environ.items()
    if name.endswith("SAN_OPTIONS") or (name == "LD_PRELOAD" and "san.so" in text)
}
"""The environment of the programs: nothing but what `make sanitize` asks of them and of what they start."""
