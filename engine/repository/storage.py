"""What lies in a model repository: model directories, their versions, their files and times. Blocking file access.

<repository>/<model>/config.pbtxt
<repository>/<model>/configs/<name>.pbtxt
<repository>/<model>/<version>/<model file>
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ...schema.fault import Internal, InvalidArgument
from ...schema.text import is_encodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...schema.wire.generated.inference import ModelVersionPolicy

log = logging.getLogger("despina.engine.repository.storage")

NOT_VERSIONS = frozenset({"warmup", "initial_state", "configs"})
_LEADING_INTEGER = re.compile(r"\s*[+-]?[0-9]+")


@attrs.frozen
class ModelSource:
    """Where one model comes from, as one load sees it."""

    name: str
    path: Path
    times_ns: Mapping[str, int]
    """Entry of the model's directory -> newest modification below it; empty when it could not be read."""
    temporary: bool = False
    """The directory and its parent were made by `upload` for this load, and go with the model."""

    def discard(self) -> None:
        """Removes a temporary directory; nothing otherwise."""
        if self.temporary:
            shutil.rmtree(self.path.parent, ignore_errors=True)


def model_names(repositories: Iterable[str]) -> dict[str, list[Path]]:
    """Every model directory by name, sorted; more than one path where repositories share a name. Raises Internal for
    a repository that cannot be read."""
    found: dict[str, list[Path]] = {}
    for repository in sorted(set(repositories)):
        try:
            for entry in Path(repository).iterdir():
                if entry.is_dir():
                    if not is_encodable(entry.name):
                        log.debug("ignore model directory %a, whose name no client could say", entry.name)
                        continue
                    found.setdefault(entry.name, []).append(entry)
        except OSError:
            raise Internal(f"failed to open directory {repository}") from None
    return dict(sorted(found.items()))


def find_model(repositories: Iterable[str], name: str) -> list[Path]:
    """The directories of that name over all repositories."""
    return [path for repository in sorted(set(repositories)) if (path := Path(repository, name)).is_dir()]


def newest_times_ns(path: Path) -> dict[str, int]:
    """The record by which a change is noticed; empty, which means "not changed", when anything cannot be read."""
    try:
        times = {"": path.stat().st_mtime_ns}
        for entry in path.iterdir():
            times[entry.name] = max(
                [entry.stat().st_mtime_ns, *(below.stat().st_mtime_ns for below in entry.rglob("*"))]
                if entry.is_dir()
                else [entry.stat().st_mtime_ns]
            )
    except OSError as error:
        log.warning("failed to read the times of %s: %s", path, error)
        return {}
    return times


def is_modified(old: Mapping[str, int], new: Mapping[str, int]) -> bool:
    """True when something below the directory is newer than anything was, or the record was voided by an upload."""
    return max(new.values(), default=0) > max(old.values(), default=0)


def config_file(path: Path, config_name: str) -> Path:
    """The configuration file to read: `configs/<config_name>.pbtxt` if wished for and there, else config.pbtxt."""
    if config_name and (custom := path / "configs" / f"{config_name}.pbtxt").is_file():
        return custom
    return path / "config.pbtxt"


def version_directories(path: Path) -> dict[int, Path]:
    """Version number -> directory, ascending. What is no version is left out, with a warning if it looks like one."""
    found: dict[int, Path] = {}
    for entry in sorted(path.iterdir()):
        name = entry.name
        if not entry.is_dir() or name in NOT_VERSIONS:
            continue
        if len(name) > 1 and name.startswith("0"):
            log.warning("ignore version directory '%s' which contains leading zeros in its directory name", name)
            continue
        number = _LEADING_INTEGER.match(name)
        if number is None:
            log.warning("ignore version directory '%s' which fails to convert to integral number", name)
            continue
        found.setdefault(int(number[0]), entry)
    return dict(sorted(found.items()))


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
            raise InvalidArgument(
                f"label file path '{file}' for output '{output}' in model '{model_name}' is outside model directory"
            )
        try:
            found[output] = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                f"failed to read label file '{file}' for output '{output}' of model '{model_name}': {error}"
            ) from error
    return found


def upload(name: str, files: Mapping[str, bytes]) -> Path:
    """A new model directory with the uploaded files in it. Raises InvalidArgument for paths that leave it."""
    root = Path(tempfile.mkdtemp(prefix="despina-model-"))
    path = root / name
    try:
        path.mkdir()
        for relative, data in files.items():
            target = (path / relative).resolve()
            if not target.is_relative_to(path.resolve()) or target == path.resolve():
                raise InvalidArgument(
                    f"Invalid file parameter 'file:{relative}' with normalized path '{target}' must stay within model "
                    "directory."
                )
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            except OSError as error:
                raise InvalidArgument(f"Invalid file parameter 'file:{relative}', {error.strerror}") from error
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return path


def decode_upload(text: str, name: str) -> bytes:
    """An uploaded file's content from the base64 that HTTP carries. Raises InvalidArgument."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"File parameter '{name}' must be base64: {error}") from error
