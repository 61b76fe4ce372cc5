"""One repository in a bucket: `<folder>/<model>/…`. Blocking: everything in worker threads.

What is fetched goes into a directory of its own for each load, beside no half-fetched file, and goes with the model.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument
from ...schema.text import is_encodable
from ..port.store import ModelSource
from .download import KEYS_MAX, Download, checked, listed
from .objects import Bucket
from .temporary import TemporaryDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..port.store import Needed
    from .locations import CloudLocation
    from .objects import Objects, Stored

log = logging.getLogger("despina.engine.repository.cloud_repository")

PARENT = {"s3": "TRITON_AWS_MOUNT_DIRECTORY", "gs": "TRITON_GCS_MOUNT_DIRECTORY", "as": "TRITON_AZURE_MOUNT_DIRECTORY"}
"""What names the directory in which models are put, by scheme."""

_SKIP_KEYS = 500
"""A model with more objects than that in a page is skipped when models are listed."""


class CloudRepository:
    """See Folders."""

    def __init__(self, location: CloudLocation, connect: Callable[[CloudLocation], Objects] = Bucket) -> None:
        self.location = location.text
        self._place = location
        self._connect = connect
        self._lock = threading.Lock()
        self._connected: Objects | None = None

    def check(self) -> None:
        """Raises Unavailable for a bucket that cannot be listed, InvalidArgument for credentials, Unsupported."""
        objects = self._objects()
        with suppress(InvalidArgument):  # a listing that cannot be used: models are loaded by name nevertheless
            next(objects.pages(), None)

    def directories(self) -> list[str]:
        objects = self._objects()
        names: dict[str, None] = {}
        after, seen, over = "", 0, False
        while not over:
            over = True
            for page in objects.pages("", after):
                seen += len(page)
                if seen > KEYS_MAX:
                    raise InvalidArgument(f"{self.location} has more than {KEYS_MAX} objects to look at for its models")
                for stored in page:
                    name, slash, _ = stored.key.partition("/")
                    if slash and name not in names and _is_name(name):
                        names[name] = None
                first = page[0].key.partition("/")[0] if page else ""
                if len(page) > _SKIP_KEYS and page[-1].key.startswith(f"{first}/"):
                    after, over = f"{first}0", False  # "0" follows "/": behind all of this model's
                    break
        return list(names)

    def has(self, directory: str) -> bool:
        return any(self._objects().pages(f"{directory}/"))

    def times_ns(self, directory: str) -> Mapping[str, int]:
        """As the store's port says. Objects that were taken away leave no trace in it, as in the reference server."""
        times: dict[str, int] = {}
        for stored in listed(self._objects(), f"{directory}/"):
            entry = stored.key[len(directory) + 1 :].partition("/")[0]
            times[entry] = max(times.get(entry, 0), stored.modified_ns)
        return times

    def fetch(self, directory: str, needed: Needed | None) -> ModelSource:
        objects = self._objects()
        folder = f"{directory}/"
        files = checked(folder, listed(objects, folder))
        scratch = TemporaryDirectory(os.environ.get(PARENT[self._place.scheme], ""))
        try:
            path = scratch.path / directory
            path.mkdir()
            what = f"model '{directory}' of {self.location}"
            early = {name: stored for name, stored in files.items() if "/" not in name or name.startswith("configs/")}
            began = time.monotonic()
            Download(what, objects, path, list(early.items())).run()
            there = sorted({name.partition("/")[0] for name in files if "/" in name})
            wanted = set(there if needed is None else needed(path, there))
            late = [
                (name, stored)
                for name, stored in files.items()
                if name not in early and name.partition("/")[0] in wanted
            ]
            Download(what, objects, path, late).run()
            self._say(what, [*early.values(), *(stored for _, stored in late)], len(files), time.monotonic() - began)
        except BaseException:
            scratch.remove()
            raise
        return ModelSource(path, scratch.remove)

    def _say(self, what: str, fetched: list[Stored], files: int, took: float) -> None:
        size = sum(stored.size for stored in fetched)
        log.info("fetched %s: %d of %d files, %.1f MiB in %.1f s", what, len(fetched), files, size / 2**20, took)

    def _objects(self) -> Objects:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect(self._place)
            return self._connected


def temporary_parents(environment: Mapping[str, str]) -> list[str]:
    """Where models are put that are brought here; "" is the usual place."""
    return ["", *(environment[name] for name in PARENT.values() if environment.get(name))]


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "\0" not in name and is_encodable(name)
