"""Models in directories of this machine: `<repository>/<model>/…`. Blocking file access.

A name is loaded only if one repository alone has it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...schema.fault import Internal, InvalidArgument
from ...schema.text import is_encodable
from ..port.store import ModelSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger("despina.engine.repository.local_store")


class LocalStore:
    """The store over some repositories. Keeps nothing: what is in the directories now is what there is."""

    def __init__(self, repositories: Iterable[str]) -> None:
        self._repositories = sorted(set(repositories))

    def check(self) -> None:
        for repository in self._repositories:
            if not os.path.isdir(repository):
                raise ValueError(f"repository path is not a valid directory: {repository}")

    def names(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for repository in self._repositories:
            try:
                for entry in Path(repository).iterdir():
                    if entry.is_dir():
                        if not is_encodable(entry.name):
                            log.debug("ignore model directory %a, whose name no client could say", entry.name)
                            continue
                        found[entry.name] = found.get(entry.name, 0) + 1
            except OSError:
                raise Internal(f"failed to open directory {repository}") from None
        return dict(sorted(found.items()))

    def times_ns(self, name: str) -> Mapping[str, int]:
        path = self._find(name)
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

    def fetch(self, name: str) -> ModelSource:
        return ModelSource(self._find(name))

    def _find(self, name: str) -> Path:
        paths = [path for repository in self._repositories if (path := Path(repository, name)).is_dir()]
        if not paths:
            raise InvalidArgument(f"failed to poll model '{name}': model not found in any model repository.")
        if len(paths) > 1:
            raise InvalidArgument(f"failed to poll model '{name}': not unique across all model repositories")
        return paths[0]
