"""Directories for what is brought to this machine while it is used. What a process leaves behind that died is removed
by the next one that starts. Blocking file access.

    <parent>/despina-model-XXXX/.lock       held while the directory is wanted: the kernel lets go with the process
    <parent>/despina-model-XXXX/<name>/…    what it is for
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("despina.engine.repository.temporary")

PREFIX = "despina-model-"
_LOCK = ".lock"


class TemporaryDirectory:
    """A new directory `path`, empty but for the lock, until `remove` is called."""

    def __init__(self, parent: str = "") -> None:
        """Raises OSError."""
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent or None))
            lock = _lock(self.path, os.O_CREAT)
            if lock is not None:
                self._lock = lock
                return

    def remove(self) -> None:
        """Removes all. Idempotent; never raises."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def sweep(parents: Iterable[str]) -> None:
    """Removes what processes of this user have left in these directories that are no more. Never raises."""
    for parent in sorted({os.path.realpath(parent or tempfile.gettempdir()) for parent in parents}):
        try:
            found = [entry.path for entry in os.scandir(parent) if _is_ours(entry)]
        except OSError as error:
            log.warning("cannot look for what was left in %s: %s", parent, error)
            continue
        for path in found:
            lock = _lock(Path(path), 0)
            if lock is not None:
                log.info("removing %s, which a process left that is no more", path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return (
            entry.name.startswith(PREFIX)
            and entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        )
    except OSError:
        return False


def _lock(path: Path, flags: int) -> int | None:
    """The lock of a directory, held; None if another has it, or it is not there. Raises OSError."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        return None  # removed by another, or its owner has just begun
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None
