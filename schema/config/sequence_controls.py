"""The tensors by which a model is told about sequences, as inputs of its."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire.generated.inference import DataType, ModelInput

if TYPE_CHECKING:
    from ..wire.generated.inference import ModelConfig, ModelSequenceBatchingControl


def control_inputs(config: ModelConfig) -> list[ModelInput]:
    """What the engine adds to the inputs of each request; without the batch dimension, as `config.input`."""
    if config.sequence_batching is None:
        return []
    return [
        ModelInput(name=tensor.name, data_type=control_type(control), dims=[1])
        for tensor in config.sequence_batching.control_input
        for control in tensor.control[:1]  # one tensor is of one datatype
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
