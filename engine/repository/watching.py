"""Compares the store with what is loaded, and has the difference loaded and unloaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault
from ..port.concerns import of_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from .registry import Registry

    Act = Callable[[str], Awaitable[None]]

log = logging.getLogger("despina.engine.repository.watching")


async def follow(names: Mapping[str, int], registry: Registry, load: Act, unload: Act) -> None:
    """One look. `names` is what the store has; `load` does nothing for what has not changed. Failures are logged.

    What has failed is not tried again until its files change: a broken model would be executed at every look.
    """
    for name, count in names.items():
        if count > 1:
            log.error("failed to poll model '%s': not unique across all model repositories", name)
    unique = [name for name, count in names.items() if count == 1]
    gone = [
        name for name, entry in registry.models.items() if names.get(name) != 1 and (entry.ready() or entry.waiting)
    ]
    for name, entry in list(registry.models.items()):
        if name not in names:
            entry.failed_ns = None  # back again, it deserves another try
            if not entry.versions and entry.waiting is None:
                registry.forget(name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_all, unique, load)
        for name in gone:
            nursery.start_soon(unload, name)


async def load_all(names: Iterable[str], load: Act) -> list[str]:
    """Loads models at the same time. Returns the names of those that failed; the log says why."""
    failed: list[str] = []

    async def attempt(name: str) -> None:
        try:
            await load(name)
        except Fault as fault:
            failed.append(name)
            log.error("failed to load '%s': %s", name, fault.message.rstrip(), extra=of_model(name))

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(attempt, name)
    return failed
