"""What SageMaker has unpacked: one model, or an ensemble and its parts.

/opt/ml/models/<hash>/model/            config.pbtxt lies here: the folder is the model, its parent the repository
/opt/ml/models/<hash>/model/<folder>/   no config.pbtxt there: the folder is the repository
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Final

import attrs

from ....schema.fault import InvalidArgument

logger = logging.getLogger("despina.http")

_ENSEMBLE: Final = re.compile(r'\bplatform\s*:\s*"ensemble"')
_CONFIG_BYTES_MAX: Final = 16 * 2**20
_KERNELS: Final = ("/dev/", "/proc/", "/sys/")


@attrs.frozen
class Archive:
    repository: str
    """To register, an absolute path."""
    folder: str
    """Of it: the model."""


def look_into(url: str) -> Archive:
    """The model that an unpacked archive at that path is for: the ensemble, or else the only one; of several the last
    by name, and the log says so. Raises InvalidArgument for what is no directory, and for paths of the kernel."""
    missing = InvalidArgument(f"failed to register '{url}', repository not found")
    try:
        place = os.path.abspath(url)
        real = os.path.realpath(url)
        if not url or "://" in url or not os.path.isdir(place):
            raise missing
    except (OSError, ValueError):
        raise missing from None
    if any(f"{path}/".startswith(_KERNELS) for path in (place, real)):
        raise InvalidArgument(f"failed to register '{url}', \"url\" cannot be under {', '.join(_KERNELS)}")
    if os.path.isfile(os.path.join(place, "config.pbtxt")):
        repository, folder = os.path.split(place)
        return Archive(repository, folder)
    folders = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))
    ensembles = [folder for folder in folders if _is_ensemble(Path(place, folder, "config.pbtxt"))]
    candidates = ensembles or folders
    if not candidates:
        raise InvalidArgument(f"failed to load '{url}', failed to poll from model repository: there is no model in it")
    if len(candidates) > 1:
        kind = "ensembles" if ensembles else "models and no ensemble"
        logger.warning("%s has several %s, %s is served: %s", place, kind, candidates[-1], " ".join(candidates))
    return Archive(place, candidates[-1])


def _is_ensemble(config: Path) -> bool:
    try:
        with config.open("rb") as file:
            return _ENSEMBLE.search(file.read(_CONFIG_BYTES_MAX).decode("utf-8", "replace")) is not None
    except OSError:
        return False
