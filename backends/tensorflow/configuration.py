"""A model's configuration against its file: what to fill in, and what does not fit. All faults are InvalidArgument."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.normal_form import shape_text
from ...schema.config.sequence_tensors import added_inputs, state_outputs
from ...schema.config.tensors import validate_io
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
from ..fitting import check_ragged, check_shape, check_told, unexpected
from ..ragged import batch_target_inputs, cuts, is_ragged
from ..ragged import faults as ragged_faults

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .signature import ModelTensor, Signature

_log = logging.getLogger("despina.backends.tensorflow")

NAMES_MAX = 100
"""So many of a graph's nodes are named to whoever names none of them."""


def complete(config: ModelConfig, signature: Signature, default_max_batch_size: int) -> ModelConfig:
    """A completed copy; `config` itself for a bare graph, which does not say what its inputs and outputs are.

    A missing list is filled, and in a given one what is missing of the tensors that it names.
    """
    if not signature.names_all:
        return config
    config = copy.deepcopy(config)
    if not all([item.name for item in config.input] + [item.name for item in config.output]):
        raise InvalidArgument("'name' is a required field for all inputs/outputs.")
    batching = _batching(config, signature)
    if batching and config.max_batch_size == 0:
        config.max_batch_size = max(default_max_batch_size, 0)
        _log.warning(
            "model '%s': max_batch_size is not configured, taking the default of %d", config.name, config.max_batch_size
        )
    if config.max_batch_size > 1 and config.dynamic_batching is None and config.sequence_batching is None:
        config.dynamic_batching = ModelDynamicBatching(preferred_batch_size=[config.max_batch_size])
    if not config.input:
        known = {item.name for item in added_inputs(config)}
        known.update(name for made in config.batch_input for name in made.target_name)
        config.input = [ModelInput(name=name) for name in signature.inputs if name not in known]
    if not config.output:
        kept = {item.name for item in state_outputs(config)}
        config.output = [ModelOutput(name=name) for name in signature.outputs if name not in kept]
    for items, tensors in ((config.input, signature.inputs), (config.output, signature.outputs)):
        for item in items:
            if (tensor := tensors.get(item.name)) is not None:
                _fill(config, item, tensor)
    return config


def _batching(config: ModelConfig, signature: Signature) -> bool:
    """Whether the model batches: it can, and what the configuration has of its tensors says nothing else."""
    can = all(
        tensor.shape is None or tensor.shape[:1] == (-1,)
        for tensor in (*signature.inputs.values(), *signature.outputs.values())
    )
    if config.max_batch_size > 0:
        if not can:
            raise InvalidArgument(
                f"unable to autofill for '{config.name}', configuration specified max-batch {config.max_batch_size} "
                "but model signature does not support batching"
            )
        return True
    hints = {
        len(shape) == len(dims) + 1
        for items, tensors in ((config.input, signature.inputs), (config.output, signature.outputs))
        for item in items
        if (dims := item.dims)
        and (tensor := tensors.get(item.name)) is not None
        and (shape := tensor.shape) is not None
        and item.reshape is None
        and not (isinstance(item, ModelInput) and item.allow_ragged_batch)
    }
    if can and len(hints) > 1:
        raise InvalidArgument(
            f"unable to autofill for '{config.name}', model tensor configurations are contradicting each other in "
            "terms of whether batching is supported"
        )
    return can and hints != {False}


def _fill(config: ModelConfig, item: ModelInput | ModelOutput, tensor: ModelTensor) -> None:
    if item.data_type == ConfigType.TYPE_INVALID:
        item.data_type = ConfigType(tensor.kind.number)
    if item.dims:
        return
    if tensor.shape is None:
        raise InvalidArgument(
            f"Unable to autofill for '{config.name}': the rank of model tensor '{item.name}' is 0 and dimensions are "
            "not defined"
        )
    batching = config.max_batch_size > 0
    item.dims = list(tensor.shape[1:] if batching else tensor.shape)
    if not item.dims:
        item.dims = [1]
        item.reshape = ModelTensorReshape(shape=[]) if batching else None


def check(config: ModelConfig, signature: Signature) -> None:
    """Raises InvalidArgument for all that the file cannot serve as configured."""
    name = config.name
    validate_io(config)
    refuse_all(ragged_faults(config) if is_ragged(config) else (), f"unable to load model '{name}': ")
    told = batch_target_inputs(config)
    items = [*config.input, *added_inputs(config), *told]
    provided = len(signature.inputs)
    if len(items) != provided and (signature.names_all or len(items) > provided):
        raise InvalidArgument(
            f"unable to load model '{name}', configuration expects {len(items)} inputs, model provides "
            f"{provided if signature.names_all else f'at most {provided}'}"
        )
    found: list[str] = []
    for item in items:
        tensor = signature.inputs.get(item.name)
        with collected(found):
            if tensor is None:
                raise InvalidArgument(_unexpected("input", item.name, signature.inputs))
            if item.optional:
                raise InvalidArgument(f"optional input '{item.name}' is not supported by the tensorflow backend")
            _check_datatype(name, "input", item, tensor)
            if tensor.shape is None:
                continue
            if item in told:
                check_told(name, item, tensor.shape)
            elif item.allow_ragged_batch:
                check_ragged(name, item, tensor.shape)
            else:
                _check_dims(config, item, signature, tensor.shape)
    cut = cuts(config)
    for output in (*config.output, *state_outputs(config)):
        tensor = signature.outputs.get(output.name)
        with collected(found):
            if tensor is None:
                raise InvalidArgument(_unexpected("output", output.name, signature.outputs))
            _check_datatype(name, "output", output, tensor)
            if tensor.shape is not None and output.name not in cut:
                _check_dims(config, output, signature, tensor.shape)
    refuse_all(found)


def _check_datatype(model_name: str, role: str, item: ModelInput | ModelOutput, tensor: ModelTensor) -> None:
    configured = BY_NUMBER[int(item.data_type)]
    if tensor.kind is not configured:
        raise InvalidArgument(
            f"unable to load model '{model_name}', configuration expects datatype {configured.config_name} for {role} "
            f"'{item.name}', model provides {tensor.kind.config_name}"
        )


def _check_dims(
    config: ModelConfig, item: ModelInput | ModelOutput, signature: Signature, shape: tuple[int, ...]
) -> None:
    dims: Sequence[int] = item.dims if item.reshape is None else item.reshape.shape
    if not shape and config.max_batch_size == 0:
        # A scalar. The configuration cannot say so for a model that does not batch; 1s stand for it.
        if any(size != 1 for size in dims):
            raise InvalidArgument(
                f"unable to load model '{config.name}', tensor '{item.name}' is a scalar in the model: the "
                f"configuration's dims must be 1s, got {shape_text(dims)}"
            )
        return
    if not signature.names_all and config.max_batch_size == 1 == next(iter(shape), 0):
        shape = (-1, *shape[1:])  # what a bare graph fixes, it may fix to the one batch that it is asked for
    check_shape(config.name, item.name, shape, dims, batching=config.max_batch_size > 0)


def _unexpected(role: str, name: str, known: Mapping[str, ModelTensor]) -> str:
    if len(known) <= NAMES_MAX:
        return unexpected(role, name, known)
    return f"{unexpected(role, name, sorted(known)[:NAMES_MAX])} and {len(known) - NAMES_MAX} more"
