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
        for asker in self._registry.asking.ensembles(name):
            entry = self._registry.models[asker]
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

    def waiting_for(self, changed: Iterable[str]) -> list[str]:
        """Ensembles that wait and ask any of these models, or ask such an ensemble; those first that others ask."""
        found: dict[str, list[str]] = {}
        left = list(changed)
        while left:
            _, asked = self._registry.split(left.pop())
            for name in self._registry.asking.ensembles(asked):
                waiting = self._registry.models[name].waiting
                if waiting is not None and name not in found:
                    found[name] = self._registry.parts(waiting)
                    left.append(name)
        return in_order(found)

    def is_needless(self, name: str) -> bool:
        """Whether only ensembles have had that model loaded that are gone."""
        entry = self._registry.models.get(name)
        if entry is None or entry.by_name or entry.wanted() is None:
            return False
        asking = self._registry.asking.ensembles(entry.client_name)
        others = (self._registry.models[asker].wanted() for asker in asking)
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
        model = identifier(reading.source.namespace, reading.config.name)
        return next((first for first in self._registry.parts(reading) if model in self._reached(first)), "")

    def _reached(self, name: str) -> set[str]:
        """A model, and all that it asks, and so on."""
        found, left = {name}, [name]
        while left:
            entry = self._registry.models.get(left.pop())
            wanted = None if entry is None else entry.wanted()
            further = set() if wanted is None else {*self._registry.parts(wanted)} - found
            found |= further
            left += further
        return found


def in_order(asked: Mapping[str, Iterable[str]]) -> list[str]:
    """The keys, each behind those of them that it asks; of a circle, one is before what it asks."""
    done: dict[str, None] = {}
    met: set[str] = set()
    for first in asked:
        left = [(first, False)]
        while left:
            name, its_parts_are_done = left.pop()
            if its_parts_are_done:
                done[name] = None
            elif name not in met:
                met.add(name)
                left.append((name, True))
                left += ((other, False) for other in asked[name] if other in asked)
    return list(done)
