"""What becomes of ensembles when the models that they ask come, change and go. Nothing here waits.

    a model changes ──▶ ensembles that serve and ask it: fitted anew, or suspended ──▶ ensembles that ask those
    a model comes   ──▶ ensembles that wait, those first that others ask: loaded, if their models allow it

An ensemble that was loaded and not unloaded is wanted: it waits as long as its models do not allow it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ...schema.fault import Fault, InvalidArgument
from ...schema.inference import LATEST
from ..model.ensemble.graph import members
from ..model.ensemble.parts import Parts
from ..model.ensemble.version import EnsembleVersion
from .naming import identifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .reading import Reading
    from .registry import ModelEntry, Registry
    from .retiring import Retirement

log = logging.getLogger("despina.engine.repository.ensembles")


class Ensembles:
    """See the module's text. Everything on the trio thread."""

    def __init__(self, registry: Registry, retirement: Retirement) -> None:
        self._registry = registry
        self._retirement = retirement
        registry.on_change = self.follow

    def problem(self, reading: Reading) -> str:
        """Why the models of an ensemble do not allow it, in the protocol's words; "" if they do."""
        try:
            self._check(reading)
        except Fault as fault:
            return fault.message
        return ""

    def follow(self, name: str) -> None:
        """A model's versions have changed: what asks it goes on with what serves now, or is suspended."""
        _, name = self._registry.split(name)
        for entry in list(self._registry.models.values()):
            if entry.loaded is None or name not in members(entry.loaded.config):
                continue
            before = [(model.config, model.remembers) for model in entry.ready()]
            try:
                for model in entry.ready():
                    assert isinstance(model, EnsembleVersion), "what has members"
                    model.refit()
            except Fault as fault:
                entry.unread = self.problem(entry.loaded) or fault.message
                log.error("Invalid argument: %s", entry.unread)
                self._retirement.suspend(entry.name)
            else:
                after = [(model.config, model.remembers) for model in entry.ready()]
                if any(new is not old or now != then for (new, now), (old, then) in zip(after, before, strict=True)):
                    self._registry.refresh(entry.name)

    def waiting(self) -> list[str]:
        """Those that wait, those first that others ask."""
        readings = {name: entry.waiting for name, entry in self._registry.models.items() if entry.waiting is not None}
        return in_order({name: self._registry.parts(reading) for name, reading in readings.items()})

    def is_needless(self, name: str) -> bool:
        """Whether only ensembles have had that model loaded that are gone."""
        entry = self._registry.models.get(name)
        if entry is None or entry.by_name or entry.wanted() is None:
            return False
        others = (other.wanted() for other in self._registry.models.values())
        return not any(other is not None and name in self._registry.parts(other) for other in others)

    def _check(self, reading: Reading) -> None:
        config, namespace = reading.config, reading.source.namespace
        near = partial(self._registry.near, namespace)
        missing = sorted(name for name in members(config) if not self._is_there(near(name)))
        if missing:
            raise InvalidArgument(
                f"ensemble {config.name} contains models that are not available or ambiguous: {', '.join(missing)}"
            )
        over = self._asks_itself_over(reading)
        if over:
            raise InvalidArgument(
                f"circular dependency between ensembles: {config.name} -> ... -> {over} -> {config.name}"
            )
        assert config.ensemble_scheduling is not None, "an ensemble's configuration"
        for step in config.ensemble_scheduling.step:
            self._check_member(config.name, self._registry.models[near(step.model_name)], step.model_version)
        Parts(config, partial(self._registry.find_near, namespace))

    def _is_there(self, name: str) -> bool:
        entry = self._registry.models.get(name)
        return entry is not None and bool(entry.ready() or entry.waiting or entry.failure)

    def _check_member(self, ensemble: str, entry: ModelEntry, version: int) -> None:
        depends = f"ensemble '{ensemble}' depends on '{entry.name}'"
        if not entry.ready():
            if entry.waiting is not None:
                raise InvalidArgument(
                    f"{depends} which is not valid. Model '{entry.name}' failed with error: {entry.unread}"
                )
            raise InvalidArgument(
                f"{depends} which has no loaded version. Model '{entry.name}' loading failed with error: "
                f"{entry.failure}"
            )
        if version != LATEST and all(model.version != version for model in entry.ready()):
            raise InvalidArgument(f"{depends} whose required version {version} is not loaded.")

    def _asks_itself_over(self, reading: Reading) -> str:
        """The model of an ensemble over which it would ask itself; "" if there is none."""
        asked = {
            name: self._registry.parts(wanted)
            for name, entry in self._registry.models.items()
            if (wanted := entry.wanted()) is not None
        }
        model = identifier(reading.source.namespace, reading.config.name)
        return next((first for first in self._registry.parts(reading) if model in reached(first, asked)), "")


def reached(name: str, asked: Mapping[str, Iterable[str]]) -> set[str]:
    """A model, and all that it asks, and so on."""
    found, waiting = {name}, [name]
    while waiting:
        further = set(asked.get(waiting.pop(), ())) - found
        found |= further
        waiting += further
    return found


def in_order(asked: Mapping[str, Iterable[str]]) -> list[str]:
    """The keys, each behind those of them that it asks; those of a circle side by side."""
    done: list[str] = []
    left = dict.fromkeys(asked)
    while left:
        ready = [name for name in left if not any(other in left for other in asked[name])]
        if not ready:
            ready = [name for name in left if any(name in reached(other, asked) for other in asked[name])]
        done += ready
        for name in ready:
            del left[name]
    return done
