"""Loads and unloads a model with all that it asks: the parts of an ensemble, and theirs.

    load    it is read ─┬─ a model: served
                        └─ an ensemble: its parts are loaded the same way, side by side
            then the ensembles among them are served, in order, and those that waited for any of it
    unload  it, then those of its parts that only ensembles had loaded, of which none is left that asks them

Turns are had one at a time: nobody who has his turn waits for another's.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault
from ..port.concerns import of_model
from .ensembles import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from .ensembles import Ensembles
    from .loading import Loading
    from .reading import Reading
    from .registry import Registry
    from .retiring import Retirement

log = logging.getLogger("despina.engine.repository.closure")


class Closure:
    """See the module's text."""

    def __init__(
        self,
        registry: Registry,
        loading: Loading,
        retirement: Retirement,
        ensembles: Ensembles,
        turn: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        """`turn` is what surrounds all that is done about one model."""
        self._registry = registry
        self._loading = loading
        self._retirement = retirement
        self._ensembles = ensembles
        self._turn = turn

    async def load(
        self,
        name: str,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        again: bool = True,
        parts_again: bool = True,
        on_request: bool = False,
    ) -> None:
        """Loads or reloads what has changed of a model and its parts; without `again` and `parts_again`, not what has
        failed before. `on_request`: nobody has said so but who wants to use it. Raises what became of the model itself,
        in the protocol's words."""
        faults: dict[str, Fault] = {}
        asked: dict[str, list[str]] = {}
        """Models -> their parts, of all that was come across."""
        ensembles: dict[str, Reading] = {}
        changed: list[str] = []

        async def load_one(one: str) -> None:
            whole = one == name
            try:
                async with self._turn(one):
                    reading = await self._loading.read(
                        one, config if whole else None, files if whole else None, again=again if whole else parts_again
                    )
                    entry = self._registry.entry(one)
                    entry.by_name = entry.by_name or whole
                    entry.on_request = on_request and (entry.on_request or not entry.versions)
                    if reading is not None and reading.config.ensemble_scheduling is None:
                        await self._loading.serve(one, reading)
                        changed.append(one)
                    elif entry.waiting is not None:  # read now, or by a load that is under way
                        ensembles[one] = entry.waiting
                wanted = entry.wanted()
            except Fault as fault:
                faults[one] = fault
                return
            asked[one] = [] if wanted is None else await self._loading.parts(wanted)
            for part in asked[one]:
                if part not in asked:
                    asked[part] = []
                    nursery.start_soon(load_one, part)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load_one, name)
        for one in in_order({one: asked[one] for one in ensembles}):
            try:
                async with self._turn(one):
                    await self._loading.serve(one, ensembles[one])
                changed.append(one)
            except Fault as fault:
                faults[one] = fault
        await self._revive(changed)
        if name in faults:
            raise faults[name]

    async def load_if_changed(self, name: str) -> None:
        """As `load`, but what has failed is not tried again with the same files."""
        await self.load(name, again=False, parts_again=False)

    async def unload(self, name: str, *, with_parts: bool = False) -> None:
        """Takes a model out of service, `with_parts` also what nothing else needs of an ensemble's. An unknown name is
        no error."""
        async with self._turn(name):
            entry = self._registry.models.get(name)
            wanted = None if entry is None else entry.wanted()
            self._retirement.unload(name)
        if with_parts and wanted is not None:
            for part in self._registry.parts(wanted):
                if self._ensembles.is_needless(part):
                    await self.unload(part, with_parts=True)
        await self._revive([name])  # with namespaces, one of its name may be unambiguous now

    async def _revive(self, changed: Iterable[str]) -> None:
        """Those ensembles that wait for any of these models, if their models allow it now."""
        for name in self._ensembles.waiting_for(changed):
            try:
                async with self._turn(name):
                    await self._loading.revive(name)
            except Fault as fault:
                log.error("failed to load '%s': %s", name, fault.message.rstrip(), extra=of_model(name))
