"""Repository agents in C++: `<directory>/<name>/libtritonrepoagent_<name>.so`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...engine.port.agent import AgentAction
from ...native.dispatching import answer
from ...native.loading import extension
from ...native.messages import answer_messages
from ...schema.config_json import config_to_json
from ...schema.fault import Internal, InvalidArgument
from .faults import check

if TYPE_CHECKING:
    from ...engine.port.agent import AgentModel

_NUMBERS: Final = {action: number for number, action in enumerate(AgentAction)}
_LAST: Final = (AgentAction.LOAD_FAIL, AgentAction.UNLOAD_COMPLETE)

_acquiring: dict[int, AgentModel] = {}
"""Address of the library's object -> the load that it stands for."""


class NativeAgent:
    """One library, for all models. It stays loaded."""

    def __init__(self, name: str, directory: str) -> None:
        """Raises InvalidArgument, in the protocol's words, where there is no such library, and what it says."""
        folder = Path(directory, name)
        path = folder / f"libtritonrepoagent_{name}.so"
        if not path.is_file():
            raise InvalidArgument(f"unable to find '{path.name}' for repo agent '{name}', searched: {folder}")
        self._native = extension()
        answer_messages(self._native)
        answer(self._native, "agent_acquire", _acquire)
        answer(self._native, "agent_release", _release)
        address, outcome = self._native.agent_open(str(path))
        check(outcome)
        assert address is not None, "an agent that has opened is somewhere"
        self._address = address
        self._lock = threading.Lock()

    def act(self, action: AgentAction, model: AgentModel) -> None:
        if action is AgentAction.LOAD:
            model.state = self._open(model)
        state = model.state
        if not isinstance(state, int):
            raise Internal(f"Unexpected lifecycle start state {action.value}")
        try:
            outcome, location = self._native.agent_act(self._address, state, str(model.location), _NUMBERS[action])
            check(outcome)
            if location:
                model.update_location(Path(location))
        finally:
            if action in _LAST:
                self._close(model, state)

    def _open(self, model: AgentModel) -> int:
        config = config_to_json(model.config).decode()
        parameters = sorted(model.parameters.items())
        address, outcome = self._native.agent_model_open(self._address, str(model.location), config, parameters)
        check(outcome)
        assert address is not None, "a model that has opened is somewhere"
        _acquiring[address] = model
        return address

    def _close(self, model: AgentModel, state: int) -> None:
        model.state = None
        _acquiring.pop(state, None)
        check(self._native.agent_model_close(self._address, state))


def _acquire(address: int, _: bytes) -> bytes:
    return str(_acquiring[address].acquire_directory()).encode()


def _release(address: int, _: bytes) -> bytes:
    _acquiring[address].release_directory()
    return b""
