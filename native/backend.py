"""The build backend: hatchling's, which for a wheel asks for what compiles modules as well. Editable installs, which
are not compiled, need not wait for that."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling import build
from hatchling.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The compiler, and the dependencies, whose types it needs."""
    with Path("pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    compiler = project["optional-dependencies"]["compile"]
    return [*build.get_requires_for_build_wheel(config_settings), *project["dependencies"], *compiler]
