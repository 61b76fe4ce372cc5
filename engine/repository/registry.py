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
from ..model.ensemble.graph import members
from ..observe.generation import Generation
from .asking import Asking
from .naming import identifier, split

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
    """What tells it from others: see naming.py."""
    client_name: str
    """What clients call it."""
    asking: Asking
    """The registry's."""
    versions: dict[int, VersionEntry] = attrs.field(factory=dict)
    loaded: Reading | None = None
    """What the serving versions came from; None when nothing is loaded. Changed by `hold`."""
    unread: str = ""
    """Why its directory or configuration could not be read the last time. Only the log and tables say so, unless it
    has served before: to clients it is not loaded."""

    failure: str = ""
    """What the last load has failed with, until one succeeds or it is unloaded."""
    waiting: Reading | None = None
    """Of an ensemble: what is to serve as soon as its models allow it. Changed by `hold`."""
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

    def hold(self, loaded: Reading | None, waiting: Reading | None) -> None:
        """The only place where these change: with them changes who asks whom."""
        self.loaded, self.waiting = loaded, waiting
        self.asking.note(self.name, (loaded, waiting))

    def wanted(self) -> Reading | None:
        """What serves, or is to serve as soon as it can."""
        return self.waiting or self.loaded

    def ready(self) -> list[HostedVersion]:
        """What serves now, ascending."""
        return [entry.model for entry in self.versions.values() if entry.model is not None]


class Registry:
    """All models. Changed by the repository only; `refresh(name)` makes a change visible to look-ups, at once."""

    def __init__(self, generation: Generation | None = None, *, namespacing: bool = False) -> None:
        """`generation` ends with each change, for those who keep what a look-up found. With `namespacing`, models are
        told apart by where they are, too, and look-ups by name find the only one of that name."""
        self._namespacing = namespacing
        self.models: dict[str, ModelEntry] = {}
        self.asking = Asking()
        self._namesakes: dict[str, list[ModelEntry]] = {}
        """By what clients call them."""
        self.on_change: Callable[[str], None] | None = None
        """Told at once of each model whose look-ups have changed."""
        self._generation = generation or Generation()
        self._serving: dict[tuple[str, int], HostedVersion] = {}
        self._served: dict[str, list[tuple[str, int]]] = {}
        """The keys of `_serving` of what clients call so."""

    def entry(self, name: str) -> ModelEntry:
        entry = self.models.get(name)
        if entry is None:
            entry = self.models[name] = ModelEntry(name, self.split(name)[1], self.asking)
            self._namesakes.setdefault(entry.client_name, []).append(entry)
        return entry

    def split(self, name: str) -> tuple[str, str]:
        """The namespace of a model, empty where there are none, and what clients call it."""
        return split(name, self._namespacing)

    def sharing(self, client_name: str) -> list[ModelEntry]:
        """The models that clients may mean by a name: at most one without namespaces."""
        if not self._namespacing:
            entry = self.models.get(client_name)
            return [] if entry is None else [entry]
        return [entry for entry in self._namesakes.get(client_name, ()) if entry.wanted()]

    def near(self, namespace: str, client_name: str) -> str:
        """The model that an ensemble of that namespace means: its own, else the only one of the name."""
        own = identifier(namespace, client_name)
        if own in self.models:
            return own
        found = self.sharing(client_name)
        return found[0].name if len(found) == 1 else own

    def find_near(self, namespace: str, client_name: str, version: int) -> HostedVersion:
        """As `find`, for an ensemble of that namespace."""
        return self._find(self.models.get(self.near(namespace, client_name)), client_name, version)

    def parts(self, reading: Reading) -> list[str]:
        """The models that an ensemble asks."""
        return [self.near(reading.source.namespace, name) for name in members(reading.config)]

    def forget(self, name: str) -> None:
        """A model without versions is gone."""
        entry = self.models.pop(name)
        assert not entry.versions
        namesakes = self._namesakes[entry.client_name]
        namesakes.remove(entry)
        if not namesakes:
            del self._namesakes[entry.client_name]

    def refresh(self, name: str) -> None:
        """Rebuilds the look-up table for one model, without a checkpoint."""
        entry = self.models[name]
        for key in self._served.pop(entry.client_name, ()):
            del self._serving[key]
        sharing = self.sharing(entry.client_name)
        ready = sharing[0].ready() if len(sharing) == 1 else []
        if ready:
            served = {(entry.client_name, model.version): model for model in ready}
            served[entry.client_name, LATEST] = ready[-1]
            self._serving |= served
            self._served[entry.client_name] = list(served)
        self._generation.bump()
        if self.on_change is not None:
            self.on_change(name)

    def find(self, name: str, version: int = LATEST) -> HostedVersion:
        """What serves that version, or the highest. Raises NotFound, NotReady in the protocol's words, and
        InvalidArgument for a name that several models have, or, with namespaces, none has ever had."""
        model = self._serving.get((name, version))
        if model is not None:
            return model
        sharing = self.sharing(name)
        if len(sharing) > 1:
            raise InvalidArgument(
                f"There are {len(sharing)} identifiers of model '{name}' in global map, model namespace must be "
                "provided to resolve ambiguity."
            )
        if self._namespacing and not sharing:
            if name in self._namesakes:
                raise NotFound(f"Identifier of model '{name}' is not found in global map")
            raise InvalidArgument(f"Request for unknown model: '{name}' is not found")
        return self._find(sharing[0] if sharing else None, name, version)

    def _find(self, entry: ModelEntry | None, name: str, version: int) -> HostedVersion:
        unknown = f"Request for unknown model: '{name if entry is None else entry.name}'"
        if entry is None or not entry.is_known():
            raise NotFound(f"{unknown} is not found")
        ready = entry.ready()
        for model in ready[-1:] if version == LATEST else [model for model in ready if model.version == version]:
            return model
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
        sharing = self.sharing(name)
        ready = sharing[0].ready() if len(sharing) == 1 else []
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
