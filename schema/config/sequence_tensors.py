"""The tensors that the engine adds to requests of sequences: what models are told, and what they remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire.generated.inference import DataType, ModelInput, ModelOutput

if TYPE_CHECKING:
    from ..wire.generated.inference import ModelConfig, ModelSequenceBatchingControl


def added_inputs(config: ModelConfig) -> list[ModelInput]:
    """What the engine adds to the inputs of each request; without the batch dimension, as `config.input`."""
    if config.sequence_batching is None:
        return []
    controls = [
        ModelInput(name=tensor.name, data_type=control_type(control), dims=[1])
        for tensor in config.sequence_batching.control_input
        for control in tensor.control[:1]  # one tensor is of one datatype
    ]
    return controls + state_inputs(config)


def state_inputs(config: ModelConfig) -> list[ModelInput]:
    """Of them, what a model remembers."""
    batching = config.sequence_batching
    return [
        ModelInput(name=state.input_name, data_type=state.data_type, dims=list(state.dims))
        for state in (batching.state if batching is not None else ())
    ]


def state_outputs(config: ModelConfig) -> list[ModelOutput]:
    """What a model answers to be remembered; as `config.output`, where it may be, too."""
    batching = config.sequence_batching
    return [
        ModelOutput(name=state.output_name, data_type=state.data_type, dims=list(state.dims))
        for state in (batching.state if batching is not None else ())
    ]


def control_type(control: ModelSequenceBatchingControl) -> DataType:
    """The datatype that a control's values have."""
    if control.int32_false_true:
        return DataType.TYPE_INT32
    if control.fp32_false_true:
        return DataType.TYPE_FP32
    if control.bool_false_true:
        return DataType.TYPE_BOOL
    return control.data_type
