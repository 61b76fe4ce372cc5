"""What lies in a model's directory: its configuration, versions and labels. Blocking file access.

<model>/config.pbtxt
<model>/configs/<name>.pbtxt
<model>/<version>/<model file>
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelVersionPolicy

log = logging.getLogger("despina.engine.repository.model_directory")

NOT_VERSIONS = frozenset({"warmup", "initial_state", "configs"})
_LEADING_INTEGER = re.compile(r"\s*[+-]?[0-9]+")


def config_file(path: Path, config_name: str) -> Path:
    """The configuration file to read: `configs/<config_name>.pbtxt` if wished for and there, else config.pbtxt."""
    if config_name and (custom := path / "configs" / f"{config_name}.pbtxt").is_file():
        return custom
    return path / "config.pbtxt"


def version_directories(path: Path) -> dict[int, Path]:
    """Version number -> directory, ascending. What is no version is left out, with a warning if it looks like one."""
    return {
        number: path / name for number, name in versions_of(entry.name for entry in path.iterdir() if entry.is_dir())
    }


def versions_of(directories: Iterable[str]) -> list[tuple[int, str]]:
    """Version number and directory's name, ascending, as above."""
    found: dict[int, str] = {}
    for name in sorted(directories):
        if name in NOT_VERSIONS:
            continue
        if len(name) > 1 and name.startswith("0"):
            log.warning("ignore version directory '%s' which contains leading zeros in its directory name", name)
            continue
        number = _LEADING_INTEGER.match(name)
        if number is None:
            log.warning("ignore version directory '%s' which fails to convert to integral number", name)
            continue
        found.setdefault(int(number[0]), name)
    return sorted(found.items())


def chosen_versions(name: str, available: Mapping[int, Path], policy: ModelVersionPolicy | None) -> dict[int, Path]:
    """The versions that the policy serves. Raises InvalidArgument when that leaves none."""
    numbers = sorted(available)
    if policy is None:
        numbers = numbers[-1:]
    elif policy.specific is not None:
        wanted = set(policy.specific.versions)
        for missing in sorted(wanted - set(numbers)):
            log.error("version %d is specified for model '%s', but the version directory is not present", missing, name)
        numbers = [number for number in numbers if number in wanted]
    elif policy.all is None:
        count = policy.latest.num_versions if policy.latest is not None else 1
        numbers = numbers[-count:] if count else []
    if not numbers:
        raise InvalidArgument(f"at least one version must be available under the version policy of model '{name}'")
    return {number: available[number] for number in numbers}


def labels(model_name: str, path: Path, files: Mapping[str, str]) -> dict[str, list[str]]:
    """Output name -> labels, from the label files of the configuration. Raises Unsupported, InvalidArgument."""
    found: dict[str, list[str]] = {}
    root = path.resolve()
    for output, filename in files.items():
        file = (path / filename).resolve()
        if not file.is_relative_to(root):
            raise Unsupported(
                f"label file path '{file}' for output '{output}' in model '{model_name}' is outside model directory"
            )
        try:
            found[output] = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                f"failed to read label file '{file}' for output '{output}' of model '{model_name}': {error}"
            ) from error
    return found
