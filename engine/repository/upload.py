"""Models whose files came with the load. Blocking file access."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument
from ..port.store import ModelSource

if TYPE_CHECKING:
    from collections.abc import Mapping


def upload(name: str, files: Mapping[str, bytes]) -> ModelSource:
    """A new model directory with these files, by path below it, in it; it goes when the source is discarded.

    A leading slash stands for the model's directory. Raises InvalidArgument for paths that leave it.
    """
    root = Path(tempfile.mkdtemp(prefix="despina-model-"))
    path = root / name
    try:
        path.mkdir()
        for relative, data in files.items():
            _write(path, relative, data)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return ModelSource(path, lambda: shutil.rmtree(root, ignore_errors=True))


def _write(path: Path, relative: str, data: bytes) -> None:
    try:
        target = (path / relative.lstrip("/")).resolve()
        if not target.is_relative_to(path.resolve()) or target == path.resolve():
            raise InvalidArgument(
                f"Invalid file parameter 'file:{relative}' with normalized path '{target}' must stay within model "
                "directory."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise InvalidArgument(f"Invalid file parameter 'file:{relative}', {error.strerror}") from error
    except ValueError as error:  # a NUL among its characters
        raise InvalidArgument(f"Invalid file parameter 'file:{relative}', {error}") from error
