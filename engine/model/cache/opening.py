"""Finds and opens the cache that the settings name: entry points of the group `despina.caches`."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from ....schema.fault import Fault, Internal, InvalidArgument
from .keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...port.cache import OpenCache

log = logging.getLogger("despina.engine.model.cache")

GROUP: Final = "despina.caches"
ANY: Final = "*"
"""The entry point that is asked for a cache of any name that no other has: it is called with the name and the directory
of libraries, and gives what opens the cache."""


def open_cache(config: Mapping[str, Mapping[str, str]], given: Mapping[str, OpenCache], directory: str = "") -> Keeper:
    """The cache that `--cache-config` asks for, which is not empty. Those `given` by the embedding program come first.

    It may wait for a server: for a worker thread. Raises InvalidArgument, and what the cache does not open for.
    """
    ((name, settings),) = config.items()
    opener = given.get(name)
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    any_other = entries.pop(ANY, None)
    if opener is None and name not in entries and any_other is None:
        known = ", ".join(sorted({*given, *entries})) or "none"
        raise InvalidArgument(f"unable to find cache '{name}'. Installed caches: {known}")
    try:
        if opener is None and name in entries:
            opener = entries[name].load()
        elif opener is None:
            assert any_other is not None, "it was looked for above"
            opener = any_other.load()(name, directory)
        cache = opener(settings)
    except Fault:
        raise
    except Exception as error:
        raise Internal(f"cache '{name}' failed to open: {type(error).__name__}: {error}") from error
    log.info("opened response cache '%s'", name)
    return Keeper(cache, name)
