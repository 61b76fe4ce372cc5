"""Tells a model's repository agents what happens to it, in the order that is promised to them (../port/agent.py).

    Agents.load(config, source) ──each LOAD, in order──▶ ModelSource at the last agent's location
                                                          ├─ serving   LOAD_COMPLETE
                                                          ├─ leaving   UNLOAD
                                                          └─ discard   what is owed: LOAD_FAIL, or UNLOAD and
                                                                       UNLOAD_COMPLETE; then files go

Blocking: everything in worker threads.
"""

from __future__ import annotations

import logging
import threading
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ...schema.fault import InvalidArgument, NotFound
from ...schema.model_config import parse_config
from ..port.agent import AgentAction
from ..port.foreign import as_fault
from .checksum import ChecksumAgent
from .temporary import TemporaryDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

    from ...schema.wire.generated.inference import ModelConfig
    from ..port.agent import RepositoryAgent
    from ..port.store import ModelSource

log = logging.getLogger("despina.engine.repository.agents")

GROUP = "despina.repository_agents"
ANY = "*"
"""The entry point that is asked for an agent of any name that no other has: it is called with the name and the
directory of libraries."""

_NEXT: Mapping[AgentAction | None, frozenset[AgentAction]] = {
    None: frozenset({AgentAction.LOAD}),
    AgentAction.LOAD: frozenset({AgentAction.LOAD_COMPLETE, AgentAction.LOAD_FAIL}),
    AgentAction.LOAD_COMPLETE: frozenset({AgentAction.UNLOAD}),
    AgentAction.UNLOAD: frozenset({AgentAction.UNLOAD_COMPLETE}),
    AgentAction.LOAD_FAIL: frozenset(),
    AgentAction.UNLOAD_COMPLETE: frozenset(),
}
_IN_ORDER = frozenset({AgentAction.LOAD, AgentAction.UNLOAD})


class Agents:
    """Agents by name: those handed over, the built-in ones, then entry points. May be used from any thread."""

    def __init__(self, given: Mapping[str, RepositoryAgent] | None = None, directory: str = "") -> None:
        self._loaded: dict[str, RepositoryAgent] = {"checksum": ChecksumAgent(), **(given or {})}
        self._entries: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
        self._any = self._entries.pop(ANY, None)
        self._directory = directory
        self._lock = threading.Lock()
        self._needed: dict[str, RepositoryAgent] = {}

    def loaded(self) -> Mapping[str, RepositoryAgent]:
        """Those that models have needed so far."""
        with self._lock:
            return dict(self._needed)

    def load(self, name: str, config: ModelConfig, source: ModelSource) -> ModelSource:
        """Where the model's files are, after each of its agents has had its say. Raises Fault if one of them refuses;
        `source` stays the caller's then."""
        wanted = [] if config.model_repository_agents is None else config.model_repository_agents.agents
        if not wanted:
            return source
        chain = _Chain(name)
        location = source.path
        try:
            for number, agent in enumerate(wanted):
                seen = config if not number else _config_at(location)
                model = LoadedModel(name, agent.parameters, seen, location)
                chain.load(self._get(agent.name), model)
                location = model.location
        except BaseException as error:
            chain.end()
            raise as_fault(error) from error

        def discard() -> None:
            try:
                chain.end()
            finally:
                if source.discard is not None:
                    source.discard()

        return attrs.evolve(source, path=location, discard=discard, serving=chain.serving, leaving=chain.leaving)

    def _get(self, name: str) -> RepositoryAgent:
        with self._lock:
            agent = self._loaded.get(name)
            if agent is None:
                entry = self._entries.get(name)
                if entry is None and self._any is not None:
                    library: RepositoryAgent = self._any.load()(name, self._directory)
                    self._loaded[name] = self._needed[name] = library
                    return library
                if entry is None:
                    there = ", ".join(sorted({*self._loaded, *self._entries}))
                    raise InvalidArgument(
                        f"unable to find repo agent '{name}': no entry point of the group '{GROUP}' has that name. "
                        f"Installed: {there}"
                    )
                agent = self._loaded[name] = entry.load()()
            self._needed[name] = agent
            return agent


def _config_at(location: Path) -> ModelConfig:
    file = location / "config.pbtxt"
    return parse_config(file.read_bytes(), source=str(file))


class _Chain:
    """The agents of one load. One action at a time, whichever thread brings it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._members: list[tuple[RepositoryAgent, LoadedModel]] = []
        self._lock = threading.Lock()

    def load(self, agent: RepositoryAgent, model: LoadedModel) -> None:
        """Raises what the agent raises; it hears of the end nevertheless."""
        self._members.append((agent, model))
        model.tell(agent, AgentAction.LOAD)

    def serving(self) -> None:
        """The model serves; again, after it was suspended, is nothing new."""
        with self._lock:
            self._tell(AgentAction.LOAD_COMPLETE)

    def leaving(self) -> None:
        with self._lock:
            self._tell(AgentAction.UNLOAD)

    def end(self) -> None:
        """Tells what is owed, and removes the agents' directories. Never raises."""
        with self._lock:
            self._tell(AgentAction.LOAD_FAIL)
            self._tell(AgentAction.UNLOAD)
            self._tell(AgentAction.UNLOAD_COMPLETE)
            for _, model in self._members:
                model.remove_directory()

    def _tell(self, action: AgentAction) -> None:
        """Those of whom it is the turn now; the others have heard it, or never will."""
        for agent, model in self._members if action in _IN_ORDER else reversed(self._members):
            if action in _NEXT[model.action]:
                try:
                    model.tell(agent, action)
                except BaseException as error:
                    log.error("an agent of model '%s' returns error on %s: %s", self._name, action.value, error)


class LoadedModel:
    """What one agent sees of one load: see AgentModel."""

    def __init__(self, name: str, parameters: Mapping[str, str], config: ModelConfig, location: Path) -> None:
        self.name = name
        self.parameters = dict(parameters)
        self.config = config
        self.location = location
        self.state: object = None
        self.action: AgentAction | None = None
        """The last that it was told of."""
        self._directory: TemporaryDirectory | None = None

    def tell(self, agent: RepositoryAgent, action: AgentAction) -> None:
        """Raises what the agent raises, InvalidArgument for an action that does not follow the last one."""
        if action not in _NEXT[self.action]:
            if self.action is None:
                raise InvalidArgument(f"Unexpected lifecycle start state {action.value}")
            raise InvalidArgument(f"Unexpected lifecycle state transition from {self.action.value} to {action.value}")
        self.action = action
        agent.act(action, self)

    def update_location(self, path: Path) -> None:
        if self.action is not AgentAction.LOAD:
            current = "none" if self.action is None else self.action.value
            raise InvalidArgument(
                f"location can only be updated during {AgentAction.LOAD.value}, current action type is {current}"
            )
        path = Path(path)
        if not path.is_dir():
            raise InvalidArgument(
                f"an agent of model '{self.name}' has redirected it to '{path}', which is no directory of this machine"
            )
        self.location = path

    def acquire_directory(self) -> Path:
        if self._directory is None:
            self._directory = TemporaryDirectory()
            (self._directory.path / "files").mkdir()
        return self._directory.path / "files"

    def release_directory(self) -> None:
        if self._directory is None:
            raise NotFound(f"no directory was acquired for model '{self.name}'")
        self.remove_directory()

    def remove_directory(self) -> None:
        if self._directory is not None:
            self._directory.remove()
            self._directory = None
