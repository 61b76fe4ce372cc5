"""Brings objects of a bucket into a directory: several at a time, all of them whole, or none.

    listing ──plan──▶ safe paths, sizes that fit ──▶ FETCHES_MAX threads ──▶ sizes and tags compared ──▶ the directory
                 └─ refused: what leaves the directory, too many, too much

Blocking; comes back, whatever the server does: see objects.py, and RATE_MIN.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from ...schema.fault import Fault, InvalidArgument, Unavailable
from ...schema.text import is_encodable
from ..port.foreign import as_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from .objects import Objects, Stored

log = logging.getLogger("despina.engine.repository.download")

KEYS_MAX = 100_000
"""Objects of one model, and of what is listed to find all models."""

FETCHES_MAX = 8
"""Files of one model that are fetched at a time."""

FETCHES_OF_ALL_MAX = 32
"""Files of all models."""

RATE_MIN = 1024
RATE_S = 60.0
"""A file that comes by fewer bytes a second, for so long, is given up: a server may send a byte now and then."""

PROGRESS_S = 5.0
"""Between two lines in the log."""

NAME_BYTES_MAX = 255
DEPTH_MAX = 64

_places = threading.BoundedSemaphore(FETCHES_OF_ALL_MAX)


def listed(objects: Objects, folder: str) -> list[Stored]:
    """All objects in a folder. Raises InvalidArgument for too many."""
    found: list[Stored] = []
    seen = 0
    for page in objects.pages(folder):
        seen += len(page)
        if seen > KEYS_MAX:
            raise InvalidArgument(f"'{folder}' has more than {KEYS_MAX} objects, which no model needs")
        found.extend(stored for stored in page if stored.key.startswith(folder))
    return found


def checked(folder: str, found: Iterable[Stored]) -> dict[str, Stored]:
    """Path below the folder -> object. Raises InvalidArgument for paths that leave it, and for those that cannot be
    files beside each other. Empty objects with others below stand for folders, and are left out."""
    paths: dict[str, Stored] = {}
    found = list(found)
    above = {stored.key[:end] for stored in found for end in _slashes(stored.key)}
    for stored in found:
        if not stored.size and stored.key in above:
            continue
        path = stored.key[len(folder) :]
        parts = path.split("/")
        if (
            any(part in ("", ".", "..") or len(part.encode(errors="replace")) > NAME_BYTES_MAX for part in parts)
            or "\0" in path
            or len(parts) > DEPTH_MAX
            or not is_encodable(path)
        ):
            raise InvalidArgument(f"the listing has key {stored.key!a}, which is no path below '{folder}'")
        if path in paths or stored.size < 0:
            raise InvalidArgument(f"the listing has key {stored.key!a} twice, or with a size that is none")
        paths[path] = stored
    for first, second in pairwise(sorted(f"{path}/" for path in paths)):
        if second.startswith(first):
            raise InvalidArgument(f"the listing has '{first[:-1]}' of '{folder}' as a file and as a folder")
    return paths


def _slashes(key: str) -> list[int]:
    return [index for index, character in enumerate(key) if character == "/"]


class Download:
    """Some files, on their way into `directory`. `run` once."""

    def __init__(self, what: str, objects: Objects, directory: Path, files: Sequence[tuple[str, Stored]]) -> None:
        """`what` is for the log."""
        self._what = what
        self._objects = objects
        self._directory = directory
        self._files = files
        self._left = iter(sorted(files, key=lambda file: -file[1].size))
        self._bytes_all = sum(stored.size for _, stored in files)
        self._bytes = self._done = 0
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._said_at = time.monotonic()

    def run(self) -> None:
        """Returns when all files are there. Raises the first Fault, after which no further byte is written."""
        if not self._files:
            return
        free = shutil.disk_usage(self._directory).free
        if self._bytes_all > free:
            raise Unavailable(
                f"{self._what} has {self._bytes_all} bytes, and {self._directory} has room for {free} of them"
            )
        threads = [
            threading.Thread(target=self._work, name=f"fetch {self._what}", daemon=True)
            for _ in range(min(FETCHES_MAX, len(self._files)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        while True:
            with self._lock:
                file = None if self._fault is not None else next(self._left, None)
            if file is None:
                return
            try:
                with _places:
                    self._fetch(*file)
            except BaseException as error:
                with self._lock:
                    self._fault = self._fault or as_fault(error)
                return

    def _fetch(self, path: str, stored: Stored) -> None:
        target = self._directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not stored.size and self._objects.is_folder(stored):
            target.mkdir(exist_ok=True)
            return
        size = 0
        began = time.monotonic()
        with target.open("xb") as file:
            for chunk in self._objects.chunks(stored):
                size += len(chunk)
                took = time.monotonic() - began
                if self._fault is not None:
                    return
                if size > stored.size:
                    break
                if took > RATE_S and size < took * RATE_MIN:
                    raise Unavailable(
                        f"'{path}' of {self._what} comes too slowly: {size} of {stored.size} bytes in {took:.0f} s"
                    )
                file.write(chunk)
                self._progress(len(chunk))
        if size != stored.size:
            more = " or more" if size > stored.size else ""
            raise Unavailable(
                f"'{path}' of {self._what} has {size} bytes{more}, but the listing says {stored.size}: nothing of it "
                "is used"
            )
        with self._lock:
            self._done += 1

    def _progress(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            now = time.monotonic()
            if now - self._said_at < PROGRESS_S:
                return
            self._said_at = now
            done, got = self._done, self._bytes
        log.info(
            "fetching %s: %d of %d files, %.1f of %.1f MiB",
            self._what,
            done,
            len(self._files),
            got / 2**20,
            self._bytes_all / 2**20,
        )
