"""Room for models under a budget: whoever uses a model holds a lease on it, and one that nobody uses may give way.

    a model is to be opened ──▶ room(): in turn ─┬─ there is room: it is kept for it until it serves
                                                 ├─ others may go: they are evicted, and closed before it opens
                                                 └─ all are in use: wait, at most `load_wait_secs`; then Unavailable

A lease is not a thing of its own, so it costs requests nothing: a model is in use while something is in flight, while
sequences are under way, while somebody has it pinned, or waits for it to be loaded. What does not come back as it was
(loaded with a configuration or files of its own) is not evicted, nor what an ensemble asks, nor what says so itself.
"""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Unavailable
from ..model.ensemble.graph import members
from ..observe.status import ActorStatus
from .residency import Budget, Resident, to_evict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig
    from ..port.settings import EngineSettings
    from .hosting import Hosts
    from .reading import Reading
    from .registry import Registry
    from .retiring import Retirement

log = logging.getLogger("despina.engine.repository.leases")

KEEP_PARAMETER = "DESPINA_KEEP_LOADED"
"""Model parameter: `true` for a model that is never evicted."""
BYTES_PARAMETER = "DESPINA_LOADED_BYTES"
"""Model parameter: the bytes that the model counts as, in place of those of its versions' files."""

LOOK_S = 0.02
"""How often those who wait for room look whether a model is no longer in use: it tells nobody, for it does not know."""


class Leases:
    """See the module's text. Everything on the trio thread, but `size_of`."""

    def __init__(
        self,
        settings: EngineSettings,
        registry: Registry,
        hosts: Hosts,
        retirement: Retirement,
        is_held: Callable[[str], bool],
    ) -> None:
        """`is_held` says whether somebody waits for a model, or is about to use it, or changes it."""
        self.budget = Budget(settings.loaded_models_max, settings.loaded_bytes_max)
        self._registry = registry
        self._hosts = hosts
        self._retirement = retirement
        self._is_held = is_held
        self._wait_s = settings.load_wait_secs
        self._turn = trio.Lock()
        self._opening: dict[str, int] = {}
        """Models that room is kept for -> bytes."""
        self._bytes: dict[str, int] = {}
        """Models loaded since the start -> bytes, as they were last loaded."""
        self._since_ns: dict[str, int] = {}
        """And when."""
        self._without_room: set[str] = set()
        """Models for which there was no room when they last wanted some."""
        self.evicted = 0

    @asynccontextmanager
    async def room(self, name: str, byte_size: int) -> AsyncIterator[None]:
        """Around the opening of a model that is not loaded yet, or again. Raises Unavailable when there is no room."""
        if not self.budget.is_bounded:
            yield
            return
        if self.budget.bytes and byte_size > self.budget.bytes:
            raise Unavailable(
                f"model '{name}' takes up {byte_size} bytes, more than all models together may: {self.budget.bytes}"
            )
        self._without_room.add(name)
        with trio.move_on_after(self._wait_s) as patience:
            async with self._turn:
                await self._make_room(name, byte_size)
                self._opening[name] = byte_size
        if patience.cancelled_caught:
            raise Unavailable(f"model '{name}' is not loaded after {self._wait_s:g} s{self.why(name)}")
        self._without_room.discard(name)
        try:
            yield
            self._bytes[name], self._since_ns[name] = byte_size, time.monotonic_ns()
        finally:
            del self._opening[name]

    def why(self, name: str) -> str:
        """What keeps a model from being loaded, as the end of a sentence; "" if nothing here does."""
        if name not in self._without_room:
            return ""
        residents = self._residents(name)
        used = ", ".join(f"'{resident.name}'" for resident in residents if not resident.may_go)
        return f": there is no room, {len(residents)} models are loaded; in use, or kept: {used or 'none'}"

    def status(self) -> ActorStatus:
        """How full it is."""
        residents = self._residents("")
        return ActorStatus(
            name="leases",
            doing=f"{sum(resident.byte_size for resident in residents)} bytes of models loaded",
            depth=len(residents),
            bound=self.budget.models or None,
            facts={"evicted": self.evicted},
        )

    async def _make_room(self, name: str, byte_size: int) -> None:
        while True:
            residents = self._residents(name)
            if self.budget.has_room(residents, byte_size):
                return
            leaving = {model.name for model in self._hosts.running} - self._serving()
            going = to_evict([one for one in residents if one.name not in leaving], byte_size, self.budget)
            if going is None:
                going = self._whole_to_evict()
            for one in going:
                log.info("model '%s' makes room for model '%s'", one, name)
                self.evicted += 1
                self._retirement.unload(one, evicted=True)
            await trio.sleep(LOOK_S)

    def _whole_to_evict(self) -> list[str]:
        """An ensemble that nobody uses, nor its parts, which may go then; the one that was used least lately."""
        asked = self._asked()
        idle = []
        for name, entry in self._registry.models.items():
            parts = [] if entry.loaded is None else members(entry.loaded.config)
            if parts and name not in asked and all(map(self._may_go, [name, *parts])):
                idle.append(name)
        return [min(idle, key=self._used_ns)] if idle else []

    def _residents(self, name: str) -> list[Resident]:
        """What is open, or closing, or being opened; but for that one, which takes the place of what it was."""
        names = {model.name for model in self._hosts.running if model.takes_room} | set(self._opening)
        names.discard(name)
        asked = self._asked()
        return [
            Resident(
                one,
                self._opening.get(one, self._bytes.get(one, 0)),
                self._used_ns(one),
                one not in asked and self._may_go(one),
            )
            for one in sorted(names)
        ]

    def _serving(self) -> set[str]:
        return {model.name for model in self._registry.serving()}

    def _asked(self) -> set[str]:
        """What ensembles ask that serve, or are about to: one that waits, because its load has failed, keeps nothing
        that others need."""
        models = self._registry.models
        wanted = {name: reading for name, entry in models.items() if (reading := entry.wanted()) is not None}
        waiting = [name for name in wanted if models[name].ready() or self._is_held(name)]
        found: set[str] = set()
        while waiting:
            reading = wanted.get(waiting.pop())
            further = set() if reading is None else {*members(reading.config)} - found
            found |= further
            waiting += further
        return found

    def _may_go(self, name: str) -> bool:
        entry = self._registry.models.get(name)
        if entry is None or name in self._opening or self._is_held(name):
            return False
        ready = entry.ready()
        reading = entry.loaded
        return (
            bool(ready)
            and reading is not None
            and reading.comes_back
            and not is_kept(reading.config)
            and not any(model.is_busy for model in ready)
        )

    def _used_ns(self, name: str) -> int:
        entry = self._registry.models.get(name)
        used = [] if entry is None else [model.statistics.last_ended_ns for model in entry.ready()]
        return max([self._since_ns.get(name, 0), *used])


def is_kept(config: ModelConfig) -> bool:
    """Whether the model asks never to be evicted. Raises Unavailable for another word than true or false."""
    value = _parameter(config, KEEP_PARAMETER) or "false"
    if value.lower() not in ("true", "false"):
        raise Unavailable(f"model '{config.name}', parameter '{KEEP_PARAMETER}': expected true or false, got '{value}'")
    return value.lower() == "true"


def size_of(reading: Reading, versions: Iterable[Path]) -> int:
    """The bytes that a model counts as: what it says, else those of the files of its versions. Reads directories.
    Raises Unavailable for what is no number."""
    said = _parameter(reading.config, BYTES_PARAMETER)
    if not said:
        return sum(file.stat().st_size for version in versions for file in version.rglob("*") if file.is_file())
    if not said.isascii() or not said.isdigit():
        name = reading.config.name
        raise Unavailable(f"model '{name}', parameter '{BYTES_PARAMETER}': expected a number of bytes, got '{said}'")
    return int(said)


def _parameter(config: ModelConfig, key: str) -> str:
    found = config.parameters.get(key)
    return "" if found is None else found.string_value.strip()
