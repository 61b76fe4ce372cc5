"""Which states of sequences make sense: what a model remembers, and what it begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..datatype import BY_NUMBER
from ..wire.generated.inference import ModelInstanceGroupKind
from .collecting import refuse_all
from .tensors import WILDCARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..wire.generated.inference import ModelConfig, ModelSequenceBatchingInitialState, ModelSequenceBatchingState


def validate_states(config: ModelConfig) -> None:
    """Refuses all that is wrong with states, each once; instance groups count once they are normalised. Raises
    InvalidArgument."""
    batching = config.sequence_batching
    if batching is None:
        return
    found: list[str] = []
    taken = {item.name for item in config.input} | {tensor.name for tensor in batching.control_input}
    states: set[str] = set()
    outputs: set[str] = set()
    for state in batching.state:
        if state.input_name in states:
            found.append(f"State input name '{state.input_name}' specified more than once.")
        found += _name_faults(state, config, taken, outputs)
        states.add(state.input_name)
        outputs.add(state.output_name)
        for initial in state.initial_state:
            found += _initial_faults(initial, state)
        if state.use_growable_memory:
            found += _growable_faults(state, config)
    refuse_all(found)


def _name_faults(
    state: ModelSequenceBatchingState, config: ModelConfig, taken: set[str], outputs: set[str]
) -> Iterator[str]:
    for field, name in (("input_name", state.input_name), ("output_name", state.output_name)):
        if not name:
            yield f"state must specify '{field}' for {config.name}"
    name = state.input_name
    if len(state.initial_state) > 1:
        yield (
            f"initial_state field for state input '{name}' must contain exactly one or zero element. Found "
            f"'{len(state.initial_state)}' elements."
        )
    if name in taken:
        yield f"state input '{name}' is an input or a control of {config.name}, too"
    if state.output_name and state.output_name in outputs:
        yield f"State output name '{state.output_name}' specified more than once."
    if int(state.data_type) not in BY_NUMBER:
        yield f"state input '{name}' must specify 'data_type' for {config.name}"
    if any(size < 0 and size != WILDCARD for size in state.dims):
        yield (
            f"state input '{name}' dimension must be integer >= 0, or -1 to indicate a variable-size dimension for "
            f"{config.name}"
        )


def _initial_faults(initial: ModelSequenceBatchingInitialState, state: ModelSequenceBatchingState) -> Iterator[str]:
    name = state.input_name
    if initial.data_type != state.data_type:
        yield f"The data type used for 'initial_state' field of state '{name}' does not match the state data type."
    if not initial.name:
        yield f"Field 'name' must be set when using initial_state for state input '{name}'."
    if len(initial.dims) != len(state.dims):
        yield (
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input "
            f"'{name}'. {len(initial.dims)} != {len(state.dims)}"
        )
    for size, expected in zip(initial.dims, state.dims, strict=False):
        if size < 0:
            yield f"'initial_state' field for state input name '{name}' contains variable dimensions."
        elif expected not in (WILDCARD, size):
            yield (
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim description. "
                f"{size} != {expected}"
            )
    if initial.zero_data is None and initial.data_file is None:
        yield f"initial_state setting expects state'{name}' to have state_data set"


def _growable_faults(state: ModelSequenceBatchingState, config: ModelConfig) -> Iterator[str]:
    name = state.input_name
    if not state.use_same_buffer_for_input_output:
        yield (
            "In order to 'use_growable_memory', you must also enable 'use_single_buffer' for state input name "
            f"'{name}'."
        )
    kinds = {group.kind for group in config.instance_group}
    if kinds - {ModelInstanceGroupKind.GPU, ModelInstanceGroupKind.AUTO}:
        yield (
            "'use_growable_memory' can only work with KIND_GPU model instances right now. Please either change the "
            f"instance type to KIND_GPU or set 'use_growable_memory' to false for state input '{name}'."
        )
