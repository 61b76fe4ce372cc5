"""The port that repository agents implement: they look at a model's files, or bring others, before it is loaded.

    LOAD ─┬─▶ LOAD_COMPLETE ──▶ UNLOAD ──▶ UNLOAD_COMPLETE
          └─▶ LOAD_FAIL

A model's configuration names its agents (`model_repository_agents`). LOAD and UNLOAD are told in that order, the others
in reverse. An agent is found by name through the entry-point group `despina.repository_agents`; the entry is a class
without required arguments that has the method of `RepositoryAgent`. Every call is made in a worker thread: one at a
time for one load of one model, several at a time for different ones.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig


class AgentAction(Enum):
    """What is happening to a model."""

    LOAD = "TRITONREPOAGENT_ACTION_LOAD"
    """Its files are about to be read. Raising refuses the load."""
    LOAD_COMPLETE = "TRITONREPOAGENT_ACTION_LOAD_COMPLETE"
    """It serves."""
    LOAD_FAIL = "TRITONREPOAGENT_ACTION_LOAD_FAIL"
    """It does not: an agent, its configuration or its backend has refused it."""
    UNLOAD = "TRITONREPOAGENT_ACTION_UNLOAD"
    """No look-up finds it any more; what is in flight goes on."""
    UNLOAD_COMPLETE = "TRITONREPOAGENT_ACTION_UNLOAD_COMPLETE"
    """It is closed, and nothing uses its files any more."""


class AgentModel(Protocol):
    """One load of one model, as one of its agents sees it. The same object from LOAD to the end."""

    state: object
    """The agent's own; None at first."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, str]:
        """What the configuration gives to this agent."""
        ...

    @property
    def config(self) -> ModelConfig:
        """As it lies at the location: the model's own for the first agent, and what the agent before has brought for
        the next. What the model is served by is its own, wherever its files come from."""
        ...

    @property
    def location(self) -> Path:
        """The directory of the model's files on this machine, as the agent before has left it."""
        ...

    def update_location(self, path: Path) -> None:
        """The model's files are there from now on. In LOAD only: raises InvalidArgument elsewhere, and for what is no
        directory of this machine."""
        ...

    def acquire_directory(self) -> Path:
        """A new directory for the agent's files, one per model. It goes when it is released, or after the last
        action."""
        ...

    def release_directory(self) -> None:
        """Removes the directory now. Raises NotFound where none was acquired."""
        ...


class RepositoryAgent(Protocol):
    """One kind of agent: one object for all models."""

    def act(self, action: AgentAction, model: AgentModel) -> None:
        """Raises Fault, or anything, which in LOAD refuses the load and elsewhere goes into the log."""
        ...
