"""A model's configuration against its file: what to fill in, and what does not fit. All faults are InvalidArgument."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.sequence_tensors import added_inputs, state_outputs
from ...schema.datatype import BY_NUMBER
from ...schema.fault import InvalidArgument
from ...schema.wire.generated.inference import DataType as ConfigType
from ...schema.wire.generated.inference import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelOutput,
    ModelTensorReshape,
)
from ..fitting import check_shape, unexpected
from ..ragged import is_ragged
from .signature import TYPE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .signature import ModelTensor, Signature

_log = logging.getLogger("despina.backends.openvino")


def complete(config: ModelConfig, signature: Signature, default_max_batch_size: int) -> ModelConfig:
    """A completed copy. The batch size is the default where the layouts of all tensors have a batch; a list of tensors
    is filled where it is missing, never a half-written one."""
    config = copy.deepcopy(config)
    can_batch = signature.has_batch_layout()
    if can_batch and config.max_batch_size == 0:
        config.max_batch_size = max(default_max_batch_size, 1)
        _log.warning(
            "model '%s': max_batch_size is not configured, taking the default of %d", config.name, config.max_batch_size
        )
    elif not can_batch and config.max_batch_size > 0:
        _log.warning(
            "model '%s': max_batch_size is %d, and the layouts in its file do not say that it batches",
            config.name,
            config.max_batch_size,
        )
    if config.max_batch_size > 1 and config.dynamic_batching is None and config.sequence_batching is None:
        config.dynamic_batching = ModelDynamicBatching(preferred_batch_size=[config.max_batch_size])
    if not config.input:
        added = {item.name for item in added_inputs(config)}
        for tensor in signature.inputs:
            if tensor.name not in added:
                kind, dims, reshape = _described(config, "input", tensor)
                config.input.append(ModelInput(name=tensor.name, data_type=kind, dims=dims, reshape=reshape))
    if not config.output:
        kept = {item.name for item in state_outputs(config)}
        for tensor in signature.outputs:
            if tensor.name not in kept:
                kind, dims, reshape = _described(config, "output", tensor)
                config.output.append(ModelOutput(name=tensor.name, data_type=kind, dims=dims, reshape=reshape))
    return config


def _described(
    config: ModelConfig, role: str, tensor: ModelTensor
) -> tuple[ConfigType, list[int], ModelTensorReshape | None]:
    if tensor.kind is None:
        raise InvalidArgument(
            f"unable to load model '{config.name}': unsupported type {tensor.type_text} of {role} '{tensor.name}'"
        )
    if tensor.shape is None:
        raise InvalidArgument(
            f"unable to load model '{config.name}': the file gives {role} '{tensor.name}' no rank, so the "
            "configuration must have its dims"
        )
    shape = tensor.shape
    if -1 in shape:
        shape = (-1,) * len(shape)  # one open size leaves all to the requests
    batching = config.max_batch_size > 0
    dims = list(shape[1:] if batching else shape)
    kind = ConfigType(tensor.kind.number)
    if dims:
        return kind, dims, None
    return kind, [1], ModelTensorReshape(shape=[]) if batching else None


def check_inputs(config: ModelConfig, signature: Signature, *, reshapes: bool) -> None:
    """Before the batch dimension is opened. With `reshapes`, the sizes are the configuration's."""
    name = config.name
    if is_ragged(config):
        raise InvalidArgument(
            f"unable to load model '{name}': the openvino backend has no ragged batches, batch_input or batch_output"
        )
    items = [*config.input, *added_inputs(config)]
    if len(items) != len(signature.inputs):
        raise InvalidArgument(
            f"unable to load model '{name}', configuration expects {len(items)} inputs, "
            f"model provides {len(signature.inputs)}"
        )
    found: list[str] = []
    taken: dict[int, str] = {}
    for item in items:
        tensor = signature.input_by_name.get(item.name)
        with collected(found):
            if tensor is None:
                raise InvalidArgument(unexpected("input", item.name, signature.input_by_name))
            if item.optional:
                raise InvalidArgument(f"optional input '{item.name}' is not supported by the openvino backend")
            if taken.setdefault(tensor.index, item.name) != item.name:
                raise InvalidArgument(f"inputs '{taken[tensor.index]}' and '{item.name}' are one input of the model")
            _check_datatype(config, "input", item)
            if tensor.shape is not None and not reshapes:
                opened = (-1, *tensor.shape[1:]) if config.max_batch_size > 0 and tensor.shape else tensor.shape
                _check_dims(config, item, opened)
    refuse_all(found)


def check_outputs(config: ModelConfig, signature: Signature) -> None:
    """After the batch dimension is what it will be: open, or `max_batch_size`."""
    found: list[str] = []
    for item in (*config.output, *state_outputs(config)):
        tensor = signature.output_by_name.get(item.name)
        with collected(found):
            if tensor is None:
                raise InvalidArgument(unexpected("output", item.name, signature.output_by_name))
            _check_datatype(config, "output", item)
            if tensor.shape is not None:
                shape = tensor.shape
                if shape and shape[0] == config.max_batch_size > 0:
                    shape = (-1, *shape[1:])
                _check_dims(config, item, shape)
    refuse_all(found)


def model_dims(item: ModelInput | ModelOutput) -> Sequence[int]:
    """Of the configuration, as the model sees them, without the batch."""
    return item.dims if item.reshape is None else item.reshape.shape


def _check_datatype(config: ModelConfig, role: str, item: ModelInput | ModelOutput) -> None:
    """OpenVINO converts between numbers, so any will do."""
    kind = BY_NUMBER[int(item.data_type)]
    if kind.name not in TYPE_NAMES.values():
        raise InvalidArgument(
            f"unsupported datatype {kind.config_name} for {role} '{item.name}' for model '{config.name}'"
        )


def _check_dims(config: ModelConfig, item: ModelInput | ModelOutput, shape: tuple[int, ...]) -> None:
    dims = list(model_dims(item))
    batching = config.max_batch_size > 0
    if not shape and not batching and all(size == 1 for size in dims):
        return  # a scalar, for which 1s stand
    own = shape[1:] if batching else shape
    if len(own) == len(dims):
        # What the configuration leaves open, a request may get wrong.
        dims = [has if size == -1 else size for size, has in zip(dims, own, strict=True)]
    check_shape(config.name, item.name, shape, dims, batching=batching)
