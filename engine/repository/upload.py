"""Models whose files came with the load. Blocking file access."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument
from ..port.store import ModelSource
from .temporary import TemporaryDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def upload(name: str, files: Mapping[str, bytes]) -> ModelSource:
    """A new model directory with these files, by path below it, in it; it goes when the source is discarded.

    A leading slash stands for the model's directory. Raises InvalidArgument for paths that leave it.
    """
    scratch = TemporaryDirectory()
    path = scratch.path / name
    try:
        path.mkdir()
        for relative, data in files.items():
            _write(path, relative, data)
    except BaseException:
        scratch.remove()
        raise
    return ModelSource(path, scratch.remove)


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
