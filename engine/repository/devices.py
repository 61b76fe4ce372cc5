"""Which GPUs this process may use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..port.visible_gpus import VARIABLE, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

_DRIVER = Path("/proc/driver/nvidia/gpus")
_UUID = re.compile(r"^GPU UUID:\s*(\S+)", re.MULTILINE)


def find_gpus(driver: Path = _DRIVER, environment: Mapping[str, str] = os.environ) -> list[int]:
    """Ordinals, as CUDA counts them, of the GPUs that the driver lists and the environment leaves visible; empty
    without a driver. Needs no framework."""
    try:
        folders = sorted(driver.iterdir())  # by their place on the bus, as CUDA's numbers are where they are alike
    except OSError:
        return []
    return list(range(len(visible_gpus([_uuid(folder) for folder in folders], environment.get(VARIABLE)))))


def _uuid(folder: Path) -> str:
    try:
        found = _UUID.search((folder / "information").read_text())
    except OSError:
        return ""
    return found[1] if found else ""
