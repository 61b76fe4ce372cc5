"""What models remember of a sequence from one request to the next: tensors that the engine keeps for them.

A state goes to the model as one more input of each request. What the model answers by `job.set_state` is that input of
the sequence's next request; a request of which it says nothing leaves the state as it was. With START the state is as
configured: zero, out of a file, or, where the configuration does not say, zero too.

| thread     | does                                                                                      |
|------------|-------------------------------------------------------------------------------------------|
| loading    | reads the files                                                                           |
| executing  | takes a sequence's state, and sets it: of a sequence one request at most is under way     |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...schema.config.sequence_tensors import state_inputs
from ...schema.datatype import BY_NUMBER
from ...schema.fault import Internal, InvalidArgument
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...schema.wire.generated.inference import (
        ModelConfig,
        ModelSequenceBatchingInitialState,
        ModelSequenceBatchingState,
    )

FOLDER = "initial_state"
"""Of the model's directory."""


class States:
    """Of one model version."""

    def __init__(self, config: ModelConfig, model_path: Path) -> None:
        """Reads the files of initial states. Raises InvalidArgument and Internal for those that cannot be."""
        batching = config.sequence_batching
        states = [] if batching is None else batching.state
        self.input_of = {state.output_name: state.input_name for state in states}
        """Output -> the input that it is for the next request."""
        self.initial = {
            item.name: _initial(state, item.dims, model_path, batched=config.max_batch_size > 0)
            for state, item in zip(states, state_inputs(config), strict=True)
        }
        """Input -> what it is for a request with START."""
        self.variable = tuple(state.input_name for state in states if -1 in state.dims)
        """Inputs whose shapes must be equal within a batch."""

    def begin(self) -> KeptStates:
        """Of a new sequence."""
        return KeptStates(self)


class KeptStates:
    """Of one sequence."""

    __slots__ = ("_states", "inputs")

    def __init__(self, states: States) -> None:
        self._states = states
        self.inputs: Mapping[str, Tensor] = states.initial
        """By name, for its next request. Replaced, never changed."""

    def begin(self) -> None:
        """START: as configured."""
        self.inputs = self._states.initial

    def of_nobody(self) -> KeptStates:
        """Of a place in a batch without a sequence."""
        return KeptStates(self._states)

    def set(self, name: str, tensor: Tensor) -> None:
        """The model's new state of that output's name. Raises InvalidArgument for a name that is none."""
        input_name = self._states.input_of.get(name)
        if input_name is None:
            raise InvalidArgument(f"state '{name}' is not a valid state name.")
        tensor = Tensor(input_name, tensor.datatype, tuple(tensor.shape), tensor.wire, tensor.array)
        self.inputs = {**self.inputs, input_name: tensor}

    def key(self, *, starts: bool) -> object:
        """Requests share a batch only if these are equal: None where any two may."""
        names = self._states.variable
        if not names:
            return None
        inputs = self._states.initial if starts else self.inputs
        return tuple([tuple(inputs[name].shape) for name in names])


def _initial(state: ModelSequenceBatchingState, dims: list[int], model_path: Path, *, batched: bool) -> Tensor:
    """A state as START finds it. Of a dimension that is open, there is one."""
    kind = BY_NUMBER[int(state.data_type)]
    shape = ([1] if batched else []) + [1 if size == -1 else size for size in dims]
    size = math.prod(shape) * (kind.byte_size or 4)  # a string that is empty is its length
    memory = bytes(size)
    for initial in state.initial_state:
        if initial.data_file is not None:
            memory = _read(state.input_name, initial, model_path)
            if kind.byte_size:
                memory = memory[:size].ljust(size, b"\0")
    tensor = Tensor(state.input_name, kind.name, tuple(shape), memory)
    try:
        tensor.numpy()
    except InvalidArgument as fault:
        raise InvalidArgument(f"initial_state of state '{state.input_name}': {fault.message}") from fault
    return tensor


def _read(name: str, initial: ModelSequenceBatchingInitialState, model_path: Path) -> bytes:
    assert initial.data_file is not None, "asked for files only"
    path = model_path / FOLDER / initial.data_file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Internal(f"failed to open text file for read {path}: {error.strerror}") from error
    kind = BY_NUMBER[int(initial.data_type)]
    expected = math.prod(initial.dims) * kind.byte_size
    if len(data) < expected:
        raise InvalidArgument(
            f"initial_state setting expects {expected} bytes, but the data provided from {initial.data_file}only has "
            f"{len(data)} bytes."
        )
    return data
