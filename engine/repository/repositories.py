"""The store over several repositories, which may come and go. Blocking.

    model's name ── mapped? ──▶ the directory that a registration gives that name to
                 └─ else ─────▶ the directory of that name, in the one repository that has it

A directory that is mapped is not found under its own name.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

import attrs

from ...schema.fault import AlreadyExists, InvalidArgument
from .cloud_repository import CloudRepository
from .local_repository import LocalRepository
from .locations import cloud_location
from .naming import SEPARATOR, identifier, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..port.store import ModelSource, Needed


class Folders(Protocol):
    """One repository: directories, each a model's."""

    location: str
    """As the operator says it."""

    def check(self) -> None:
        """Raises ValueError for a place that cannot hold models, Fault for one that cannot be looked at."""
        ...

    def directories(self) -> Iterable[str]:
        """All of them, each once. Raises Fault for what cannot be read."""
        ...

    def has(self, directory: str) -> bool: ...

    def times_ns(self, directory: str) -> Mapping[str, int]:
        """See ModelStore."""
        ...

    def fetch(self, directory: str, needed: Needed | None) -> ModelSource:
        """See ModelStore."""
        ...


@attrs.frozen(eq=False)
class _Registered:
    folders: Folders
    mapping: Mapping[str, str]
    """Model's name -> directory."""


def open_folders(location: str) -> Folders:
    """The repository at a location; nothing is looked at yet. Raises ValueError for what is none."""
    cloud = cloud_location(location)
    return LocalRepository(location) if cloud is None else CloudRepository(cloud)


class Repositories:
    """See ModelStore. `register` and `unregister` may be called while others look."""

    def __init__(self, locations: Iterable[str], *, namespacing: bool = False) -> None:
        self._namespacing = namespacing
        self._lock = threading.Lock()
        self._registered = {location: _Registered(open_folders(location), {}) for location in sorted(set(locations))}
        """In the order of the locations. Replaced, never changed."""

    # --- What there is

    def check(self) -> None:
        for registered in self._registered.values():
            registered.folders.check()

    def names(self) -> dict[str, int]:
        found: dict[str, int] = {}
        registered = self._registered
        mapped = {name for one in registered.values() for name in one.mapping}
        for one in registered.values():
            directories = set(one.folders.directories())
            names = [name for name, directory in one.mapping.items() if directory in directories]
            names += directories - set(one.mapping.values()) - mapped
            if self._namespacing:
                found |= {identifier(one.folders.location, name): 1 for name in sorted(names) if SEPARATOR not in name}
                continue
            for name in names:
                found[name] = found.get(name, 0) + 1
        return found if self._namespacing else dict(sorted(found.items()))

    def split(self, name: str) -> tuple[str, str]:
        return split(name, self._namespacing)

    def named(self, name: str) -> list[str]:
        if not self._namespacing:
            return [name]
        return [identifier(place.location, name) for place, _ in self._places(name)] or [name]

    def times_ns(self, name: str) -> Mapping[str, int]:
        folders, directory = self._find(name)
        return folders.times_ns(directory)

    def fetch(self, name: str, needed: Needed | None = None) -> ModelSource:
        folders, directory = self._find(name)
        namespace, name = self.split(name)
        source = folders.fetch(directory, needed)
        return attrs.evolve(source, namespace=namespace, renamed=directory != name)

    def _find(self, name: str) -> tuple[Folders, str]:
        namespace, name = self.split(name)
        found = self._places(name, namespace)
        if not found:
            raise InvalidArgument(f"failed to poll model '{name}': model not found in any model repository.")
        if len(found) > 1:
            raise InvalidArgument(f"failed to poll model '{name}': not unique across all model repositories")
        return found[0]

    def _places(self, name: str, namespace: str = "") -> list[tuple[Folders, str]]:
        """The directories that bear that name; those of other namespaces are not looked at."""
        registered = self._registered
        if namespace:
            registered = {place: one for place, one in registered.items() if place == namespace}
        mapped = [(one.folders, one.mapping[name]) for one in registered.values() if name in one.mapping]
        if mapped:
            return [place for place in mapped if place[0].has(place[1])]
        return [
            (one.folders, name)
            for one in registered.values()
            if name not in one.mapping.values() and one.folders.has(name)
        ]

    # --- Which repositories there are

    def register(self, location: str, mapping: Mapping[str, str]) -> None:
        """One more repository; `mapping` gives names to some of its directories. Loads nothing. Raises InvalidArgument,
        AlreadyExists in the protocol's words."""
        try:
            folders = open_folders(location)
            folders.check()
        except ValueError as error:
            raise InvalidArgument(f"failed to register '{location}', repository not found") from error
        with self._lock:
            if location in self._registered:
                raise AlreadyExists(f"model repository '{location}' has already been registered")
            for name in mapping:
                if any(name in one.mapping for one in self._registered.values()):
                    raise AlreadyExists(f"failed to register '{name}', there is a conflicting mapping for '{name}'")
            registered = {**self._registered, location: _Registered(folders, dict(mapping))}
            self._registered = dict(sorted(registered.items()))

    def unregister(self, location: str) -> None:
        """What is loaded of it goes on serving. Raises InvalidArgument."""
        with self._lock:
            if location not in self._registered:
                raise InvalidArgument(f"failed to unregister '{location}', repository not found")
            self._registered = {place: one for place, one in self._registered.items() if place != location}
