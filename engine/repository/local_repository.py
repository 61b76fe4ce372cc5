"""One repository in a directory of this machine: `<repository>/<model>/…`. Blocking file access. Keeps nothing: what is
in the directory now is what there is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ...schema.fault import Internal
from ...schema.text import is_encodable
from ..port.store import ModelSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..port.store import Needed

log = logging.getLogger("despina.engine.repository.local_repository")


class LocalRepository:
    """See Folders."""

    def __init__(self, path: str) -> None:
        self.location = path
        self._path = Path(path.removeprefix("file://"))

    def check(self) -> None:
        if not self._path.is_dir():
            raise ValueError(f"repository path is not a valid directory: {self.location}")

    def directories(self) -> list[str]:
        found = []
        try:
            for entry in self._path.iterdir():
                if entry.is_dir():
                    if not is_encodable(entry.name):
                        log.debug("ignore model directory %a, whose name no client could say", entry.name)
                        continue
                    found.append(entry.name)
        except OSError:
            raise Internal(f"failed to open directory {self.location}") from None
        return found

    def has(self, directory: str) -> bool:
        return (self._path / directory).is_dir()

    def times_ns(self, directory: str) -> Mapping[str, int]:
        path = self._path / directory
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

    def fetch(self, directory: str, needed: Needed | None) -> ModelSource:
        """Nothing is copied, so it makes no difference what is needed."""
        return ModelSource(self._path / directory)
