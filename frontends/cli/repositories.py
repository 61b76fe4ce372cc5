"""Whether there can be models where the server was told to look for them: asked before anything else is done."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.repository.locations import cloud_location
from ...engine.repository.objects import check_installed
from ...schema.fault import Internal, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("despina.serve")


def model_here(location: str) -> str:
    """The parent of a location that is a model's directory and no repository; empty for others."""
    path = Path(location.removeprefix("file://"))
    if "://" in str(path) or not path.is_dir():
        return ""
    folders = [entry for entry in path.iterdir() if entry.is_dir()]
    configured = (path / "config.pbtxt").is_file()
    versions = [entry for entry in folders if entry.name.isdigit() and not (entry / "config.pbtxt").is_file()]
    bare = bool(versions) and any(entry.name.startswith("model.") for folder in versions for entry in folder.iterdir())
    if not configured and not (bare and len(versions) == len(folders)):
        return ""
    return os.path.normpath(path / "..") if path.name not in ("", "..") else str(path.resolve().parent)


def check_repositories(paths: Sequence[str]) -> None:
    """Raises Internal, in the protocol's words, and InvalidArgument for a location that cannot be."""
    for path in paths:
        try:
            cloud = cloud_location(path)
        except ValueError as error:
            raise InvalidArgument(f"model repository {path}: {error}") from error
        if cloud is not None:
            check_installed(cloud)
            continue
        path = path.removeprefix("file://")
        if not os.path.exists(path):
            raise Internal(f"failed to stat file {path}")
        if not os.path.isdir(path):
            raise Internal(f"model repository {path} is not a directory")
        parent = model_here(path)
        if parent:
            log.warning("%s looks like a model, not like a repository; did you mean its parent, %s?", path, parent)
