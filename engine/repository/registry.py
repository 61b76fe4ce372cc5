"""Which model versions exist and in which state: one table, one function for every move.

             ┌────────────────────────────────────────┐
    UNKNOWN ─┴▶ LOADING ─▶ READY ─▶ UNLOADING ─▶ UNAVAILABLE (reason "unloaded", or "evicted")
                   └─────────┴─────────────────▶ UNAVAILABLE (reason: what went wrong)

Look-ups are made for the hot path: a dictionary read, no checkpoint, so that no change falls between look-up and use.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs

from ...schema.fault import InvalidArgument, NotFound, NotReady
from ...schema.inference import LATEST
from ..observe.generation import Generation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..model.hosted import HostedVersion
    from .reading import Reading


class State(Enum):
    UNKNOWN = "UNKNOWN"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


_MOVES = {
    State.UNKNOWN: {State.LOADING},
    State.LOADING: {State.READY, State.UNAVAILABLE},
    State.READY: {State.UNLOADING, State.UNAVAILABLE},
    State.UNLOADING: {State.UNAVAILABLE, State.LOADING},
    State.UNAVAILABLE: {State.LOADING},
}

UNLOADED = "unloaded"
EVICTED = "evicted: loads on request"
ON_PURPOSE = (UNLOADED, EVICTED)
"""Reasons of versions that are meant not to serve."""


@attrs.define
class VersionEntry:
    """One version ever seen of one model."""

    version: int
    state: State = State.UNKNOWN
    reason: str = ""
    model: HostedVersion | None = None
    """What serves it; set exactly while the state is READY."""

    def move(self, state: State, reason: str = "", model: HostedVersion | None = None) -> None:
        """The only place where a state changes."""
        assert state in _MOVES[self.state], f"no model version moves from {self.state} to {state}"
        assert (model is not None) == (state is State.READY)
        self.state = state
        self.reason = reason
        self.model = model

    def replace(self, model: HostedVersion) -> HostedVersion:
        """Swaps what serves a READY version. Returns the predecessor."""
        assert self.state is State.READY
        assert self.model is not None
        old, self.model = self.model, model
        self.reason = ""
        return old


@attrs.define
class ModelEntry:
    """One model that somebody tried to load."""

    name: str
    versions: dict[int, VersionEntry] = attrs.field(factory=dict)
    loaded: Reading | None = None
    """What the serving versions came from; None when nothing is loaded."""
    unread: str = ""
    """Why its directory or configuration could not be read the last time. Only the log and tables say so, unless it
    has served before: to clients it is not loaded."""

    failure: str = ""
    """What the last load has failed with, until one succeeds or it is unloaded."""
    waiting: Reading | None = None
    """Of an ensemble: what is to serve as soon as its models allow it."""
    by_name: bool = False
    """Whether somebody has loaded it, and not only an ensemble that asks it."""
    dismissed: bool = False
    """Unloaded by command: then it does not come back on request."""
    on_request: bool = False
    """Loaded because of a request, or evicted until there is one: nobody else misses it while it does not serve."""
    failed_ns: Mapping[str, int] | None = None
    """The files' times when loading it failed, or what it had loaded ended by itself: polls do not try these again."""

    def is_known(self) -> bool:
        """Whether clients may hear of it: its configuration could be read at least once."""
        return bool(self.versions) or not self.unread

    def why_not_loaded(self) -> str:
        """For a model without versions: what is wrong with it."""
        return self.unread or "No model version was found"

    def version(self, number: int) -> VersionEntry:
        entry = self.versions.get(number)
        if entry is None:
            entry = self.versions[number] = VersionEntry(number)
            self.versions = dict(sorted(self.versions.items()))
        return entry

    def wanted(self) -> Reading | None:
        """What serves, or is to serve as soon as it can."""
        return self.waiting or self.loaded

    def ready(self) -> list[HostedVersion]:
        """What serves now, ascending."""
        return [entry.model for entry in self.versions.values() if entry.model is not None]


class Registry:
    """All models. Changed by the repository only; `refresh(name)` makes a change visible to look-ups, at once."""

    def __init__(self, generation: Generation | None = None) -> None:
        """`generation` ends with each change, for those who keep what a look-up found."""
        self.models: dict[str, ModelEntry] = {}
        self.on_change: Callable[[str], None] | None = None
        """Told at once of each model whose look-ups have changed."""
        self._generation = generation or Generation()
        self._serving: dict[tuple[str, int], HostedVersion] = {}

    def entry(self, name: str) -> ModelEntry:
        entry = self.models.get(name)
        if entry is None:
            entry = self.models[name] = ModelEntry(name)
        return entry

    def forget(self, name: str) -> None:
        """A model without versions is gone."""
        assert not self.models[name].versions
        del self.models[name]

    def refresh(self, name: str) -> None:
        """Rebuilds the look-up table for one model, without a checkpoint."""
        entry = self.models[name]
        for key in [key for key in self._serving if key[0] == name]:
            del self._serving[key]
        ready = entry.ready()
        for model in ready:
            self._serving[name, model.version] = model
        if ready:
            self._serving[name, LATEST] = ready[-1]
        self._generation.bump()
        if self.on_change is not None:
            self.on_change(name)

    def find(self, name: str, version: int = LATEST) -> HostedVersion:
        """What serves that version, or the highest. Raises NotFound, NotReady in the protocol's words."""
        model = self._serving.get((name, version))
        if model is not None:
            return model
        unknown = f"Request for unknown model: '{name}'"
        entry = self.models.get(name)
        if entry is None or not entry.is_known():
            raise NotFound(f"{unknown} is not found")
        if version == LATEST:
            raise NotFound(f"{unknown} has no available versions")
        if version not in entry.versions:
            raise NotFound(f"{unknown} version {version} is not found")
        raise NotReady(f"{unknown} version {version} is not at ready state")

    def serving(self) -> Iterator[HostedVersion]:
        """Everything READY, by name and version."""
        for _, entry in sorted(self.models.items()):
            yield from entry.ready()

    def for_statistics(self, name: str, version: int) -> list[HostedVersion]:
        """The versions that a statistics request means. Raises InvalidArgument in that request's own words."""
        if not name:
            return list(self.serving())
        entry = self.models.get(name)
        ready = entry.ready() if entry is not None else []
        if not ready:
            raise InvalidArgument(f"requested model '{name}' is not available")
        if version == LATEST:
            return ready
        chosen = [model for model in ready if model.version == version]
        if not chosen:
            raise InvalidArgument(f"requested model version is not available for model '{name}'")
        return chosen

    def problems(self) -> list[str]:
        """Why strict readiness does not hold: each version that is neither READY nor unloaded on purpose."""
        found = []
        for name, entry in sorted(self.models.items()):
            if not entry.versions and entry.is_known() and not entry.on_request:
                found.append(f"model '{name}' has no version")
            found.extend(
                f"model '{name}' version {version.version} is {version.state.value}"
                + (f": {version.reason}" if version.reason else "")
                for version in entry.versions.values()
                if version.state is not State.READY and version.reason not in ON_PURPOSE and not entry.on_request
            )
            for model in entry.ready():
                found.extend(model.problems())
        return found
