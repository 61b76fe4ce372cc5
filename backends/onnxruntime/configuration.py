"""A model's configuration against its file: what to fill in, and what does not fit.

Pure functions over `ModelConfig` and `Signature`; both raise InvalidArgument with the texts that become load errors.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.normal_form import shape_text
from ...schema.config.sequence_tensors import added_inputs, state_outputs
from ...schema.config.tensors import validate_io
from ...schema.datatype import BY_NUMBER, DataType
from ...schema.fault import InvalidArgument
from ...schema.wire.generated.inference import DataType as ConfigType
from ...schema.wire.generated.inference import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelOutput,
    ModelTensorReshape,
)
from ..fitting import check_ragged, check_shape, check_told, unexpected
from ..ragged import batch_target_inputs, cuts, is_ragged
from ..ragged import faults as ragged_faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .signature import ModelTensor, Signature

_log = logging.getLogger("despina.backends.onnxruntime")


def complete(config: ModelConfig, signature: Signature, default_max_batch_size: int) -> ModelConfig:
    """A completed copy; `config` itself when it already has inputs and outputs, which switches completion off whole.

    Only a missing list is filled, never a half-written one. The batch size is the default only where every tensor's
    first dimension is open.
    """
    if (config.input or config.batch_input) and config.output:
        _log.info("model '%s': inputs and outputs are configured, nothing to complete", config.name)
        return config
    config = copy.deepcopy(config)
    can_batch = signature.can_batch()
    if not can_batch and config.max_batch_size > 0:
        raise InvalidArgument(
            f"autofill failed for model '{config.name}': model does not support batching while non-zero "
            "max_batch_size is specified"
        )
    if can_batch and config.max_batch_size == 0:
        config.max_batch_size = max(default_max_batch_size, 0)
        _log.warning(
            "model '%s': max_batch_size is not configured, taking the default of %d", config.name, config.max_batch_size
        )
    if config.max_batch_size > 1 and config.dynamic_batching is None and config.sequence_batching is None:
        config.dynamic_batching = ModelDynamicBatching(preferred_batch_size=[config.max_batch_size])
    batching = config.max_batch_size > 0
    if not config.input and not config.batch_input:
        added = {item.name for item in added_inputs(config)}
        for tensor in signature.inputs.values():
            if tensor.name in added:
                continue
            dims, reshape = _dims(tensor, batching)
            data_type = _config_type(config.name, "input", tensor)
            config.input.append(ModelInput(name=tensor.name, data_type=data_type, dims=dims, reshape=reshape))
    if not config.output:
        kept = {item.name for item in state_outputs(config)}
        for tensor in signature.outputs.values():
            if tensor.name in kept:
                continue
            dims, reshape = _dims(tensor, batching)
            data_type = _config_type(config.name, "output", tensor)
            config.output.append(ModelOutput(name=tensor.name, data_type=data_type, dims=dims, reshape=reshape))
    return config


def check(config: ModelConfig, signature: Signature) -> None:
    """Raises InvalidArgument for all that the file cannot serve as configured."""
    name = config.name
    if is_ragged(config):
        validate_io(config)
        refuse_all(ragged_faults(config), f"unable to load model '{name}': ")
    batching = config.max_batch_size > 0
    told = batch_target_inputs(config)
    items = [*config.input, *added_inputs(config)]
    wanted = [item for item in (*items, *told) if item.name not in signature.initializers]
    if len(wanted) < len(signature.inputs) or (len(wanted) > len(signature.inputs) and not _unknown(wanted, signature)):
        raise InvalidArgument(
            f"unable to load model '{name}', configuration expects {len(wanted)} inputs, "
            f"model provides {len(signature.inputs)}"
        )
    allowed_inputs = {**signature.initializers, **signature.inputs}
    found: list[str] = []
    for item in (*items, *told):
        tensor = allowed_inputs.get(item.name)
        with collected(found):
            if tensor is None:
                raise InvalidArgument(unexpected("input", item.name, signature.inputs))
            if item.optional and batching:
                raise InvalidArgument(f"optional input '{item.name}' is not supported for models that support batching")
            _check_datatype(config, "input", item, tensor)
            if item in told:
                check_told(name, item, tensor.shape)
            elif item.allow_ragged_batch:
                check_ragged(name, item, tensor.shape)
            else:
                _check_dims(config, "input", item, tensor)
    cut = cuts(config)
    outputs = (*config.output, *state_outputs(config))
    with collected(found):
        _check_mixture(name, (*(("input", item) for item in items), *(("output", item) for item in outputs)))
    for output in outputs:
        tensor = signature.outputs.get(output.name)
        with collected(found):
            if tensor is None:
                raise InvalidArgument(unexpected("output", output.name, signature.outputs))
            _check_datatype(config, "output", output, tensor)
            if output.name not in cut:
                _check_dims(config, "output", output, tensor)
    refuse_all(found)


def _check_mixture(model_name: str, items: Iterable[tuple[str, ModelInput | ModelOutput]]) -> None:
    """Strings and BF16 go different ways into ONNX Runtime, and neither takes both."""
    kinds = {BY_NUMBER[int(item.data_type)].name: (role, item.name) for role, item in items}
    if "BF16" in kinds and "BYTES" in kinds:
        role, name = kinds["BF16"]
        raise InvalidArgument(
            f"unsupported datatype TYPE_BF16 for {role} '{name}' for model '{model_name}': not together with strings, "
            f"which {kinds['BYTES'][0]} '{kinds['BYTES'][1]}' holds"
        )


def _check_datatype(config: ModelConfig, role: str, item: ModelInput | ModelOutput, tensor: ModelTensor) -> None:
    configured: DataType = BY_NUMBER[int(item.data_type)]
    _config_type(config.name, role, tensor)
    if tensor.kind is not configured:
        assert tensor.kind is not None
        raise InvalidArgument(
            f"unable to load model '{config.name}', configuration expects datatype {configured.config_name} for {role} "
            f"'{item.name}', model provides {tensor.kind.config_name}"
        )


def _check_dims(config: ModelConfig, role: str, item: ModelInput | ModelOutput, tensor: ModelTensor) -> None:
    dims = item.dims if item.reshape is None else item.reshape.shape
    if not tensor.shape and config.max_batch_size == 0:
        # A scalar. The configuration cannot say so for a model that does not batch; 1s stand for it.
        if any(size != 1 for size in dims) and role == "input":
            raise InvalidArgument(
                f"unable to load model '{config.name}', {role} '{item.name}' is a scalar in the model: the "
                f"configuration's dims must be 1s, got {shape_text(dims)}"
            )
        return
    check_shape(config.name, item.name, tensor.shape, dims, batching=config.max_batch_size > 0)


def _dims(tensor: ModelTensor, batching: bool) -> tuple[list[int], ModelTensorReshape | None]:
    dims = list(tensor.shape[1:] if batching else tensor.shape)
    if dims:
        return dims, None
    return [1], ModelTensorReshape(shape=[]) if batching else None


def _config_type(model_name: str, role: str, tensor: ModelTensor) -> ConfigType:
    if tensor.kind is None:
        raise InvalidArgument(
            f"unable to load model '{model_name}': unsupported type {tensor.type_text} of {role} '{tensor.name}'"
        )
    return ConfigType(tensor.kind.number)


def _unknown(items: Sequence[ModelInput], signature: Signature) -> bool:
    return any(item.name not in signature.inputs for item in items)
