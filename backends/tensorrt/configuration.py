"""A model's configuration against its plan: what to fill in, and what does not fit (all load-error texts)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.sequence_tensors import added_inputs, state_outputs
from ...schema.config.tensors import validate_io
from ...schema.datatype import BY_NUMBER
from ...schema.fault import Internal, InvalidArgument
from ...schema.wire.generated.inference import DataType as ConfigType
from ...schema.wire.generated.inference import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelInstanceGroupKind,
    ModelOutput,
    ModelTensorReshape,
)
from ..fitting import check_shape, unexpected
from ..ragged import batch_target_inputs, cuts, is_ragged
from ..ragged import faults as ragged_faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .signature import PlanTensor, Signature


def profile_indexes(texts: Iterable[str]) -> tuple[int, ...]:
    """What an instance group's `profile` names; the first one where it names none. The texts are validated."""
    return tuple(dict.fromkeys(int(text) for text in texts)) or (0,)


def first_device(config: ModelConfig) -> int:
    """The GPU to read the plan on. Raises InvalidArgument for instances that are to be elsewhere; of kind AUTO they may
    still come to a GPU."""
    for group in config.instance_group:
        if group.kind in (ModelInstanceGroupKind.CPU, ModelInstanceGroupKind.MODEL):
            raise only_gpus(config.name)
    return next((gpu for group in config.instance_group for gpu in group.gpus), 0)


def only_gpus(model_name: str) -> InvalidArgument:
    return InvalidArgument(f"unable to load model '{model_name}', TensorRT backend supports only GPU device")


def check_profiles(config: ModelConfig, signature: Signature) -> None:
    """Raises InvalidArgument for profiles that the plan does not have."""
    for number, group in enumerate(config.instance_group):
        for index in profile_indexes(group.profile):
            if index >= len(signature.profiles):
                raise InvalidArgument(
                    f"unable to load model '{config.name}': instance group {group.name or number} asks for "
                    f"optimization profile {index}, the plan has {len(signature.profiles)}"
                )


def complete(config: ModelConfig, signature: Signature) -> ModelConfig:
    """A completed copy: the batch size from the profiles, and each tensor's missing fields."""
    config = copy.deepcopy(config)
    largest = signature.max_batch_size(_used(config.instance_group))
    hint = _batch_hint(config, signature)
    if largest == 0 and (hint or config.max_batch_size > 0):
        raise Internal(
            f"autofill failed for model '{config.name}': model tensor shape configuration hints for dynamic batching "
            "but the underlying engine doesn't support batching."
        )
    if config.max_batch_size > largest:
        raise Internal(
            f"autofill failed for model '{config.name}': configuration specified max-batch {config.max_batch_size} but "
            f"TensorRT engine only supports max-batch {largest}"
        )
    if config.max_batch_size == 0 and hint is not False:
        config.max_batch_size = largest
    if config.max_batch_size > 1 and config.dynamic_batching is None and config.sequence_batching is None:
        config.dynamic_batching = ModelDynamicBatching(preferred_batch_size=[config.max_batch_size])
    added = {item.name for item in added_inputs(config)} | {item.name for item in batch_target_inputs(config)}
    kept = {item.name for item in state_outputs(config)}
    for tensor in signature.inputs.values():
        if tensor.name not in added:
            known = next((item for item in config.input if item.name == tensor.name), None)
            if known is None:
                config.input.append(known := ModelInput(name=tensor.name))
            _fill(config, "input", known, tensor)
    for tensor in signature.outputs.values():
        listed = next((item for item in config.output if item.name == tensor.name), None)
        if listed is None and tensor.name not in kept:
            config.output.append(listed := ModelOutput(name=tensor.name))
        if listed is not None:
            _fill(config, "output", listed, tensor)
    return config


def check(config: ModelConfig, signature: Signature) -> None:
    """Raises InvalidArgument for all that the plan cannot serve as configured."""
    if is_ragged(config):
        validate_io(config)
        refuse_all(ragged_faults(config), f"unable to load model '{config.name}': ")
    name, told, cut = config.name, batch_target_inputs(config), cuts(config)
    items = [*config.input, *added_inputs(config), *told]
    largest = signature.max_batch_size(_used(config.instance_group))
    found: list[str] = []
    with collected(found):
        if len(items) != len(signature.inputs) and all(item.name in signature.inputs for item in items):
            raise InvalidArgument(
                f"unable to load model '{name}', configuration expects {len(items)} inputs, model provides "
                f"{len(signature.inputs)}"
            )
    for role, listed, known in (
        ("input", items, signature.inputs),
        ("output", [*config.output, *state_outputs(config)], signature.outputs),
    ):
        for item in listed:
            tensor = known.get(item.name)
            loose = item in told or item.name in cut or getattr(item, "allow_ragged_batch", False)
            with collected(found):
                if tensor is None:
                    raise InvalidArgument(unexpected(role, item.name, known))
                _check_tensor(config, role, item, tensor, loose=loose)
    with collected(found):
        if config.max_batch_size > largest > 0:
            raise InvalidArgument(
                f"unable to load model '{name}': max_batch_size is {config.max_batch_size}, and the plan's profiles "
                f"take {largest} rows at most"
            )
    refuse_all(found)


def _check_tensor(
    config: ModelConfig, role: str, item: ModelInput | ModelOutput, tensor: PlanTensor, *, loose: bool
) -> None:
    configured = BY_NUMBER[int(item.data_type)]
    provided = _kind(config, role, tensor)
    if provided != item.data_type:
        raise InvalidArgument(
            f"unable to load model '{config.name}', configuration expects datatype {configured.config_name} for {role} "
            f"'{item.name}', model provides {BY_NUMBER[int(provided)].config_name}"
        )
    if item.is_non_linear_format_io or not tensor.linear:
        raise InvalidArgument(
            f"unable to load model '{config.name}': {role} '{item.name}' is not of linear format, which is not built"
        )
    if item.is_shape_tensor != tensor.is_shape:
        raise InvalidArgument(
            f"unable to load model '{config.name}': {role} '{item.name}' is {'a' if tensor.is_shape else 'no'} shape "
            f"tensor in the plan, and its is_shape_tensor is {str(item.is_shape_tensor).lower()}"
        )
    if loose:
        return
    dims = list(item.dims if item.reshape is None else item.reshape.shape)
    if tensor.is_shape:
        # Of a model that batches the first value is the batch's size, which the configuration does not count.
        given = [size if size == -1 else size + 1 for size in dims] if config.max_batch_size > 0 else dims
        check_shape(config.name, item.name, tensor.shape, given, batching=False)
    else:
        check_shape(config.name, item.name, tensor.shape, dims, batching=config.max_batch_size > 0)


def _used(groups: Sequence[ModelInstanceGroup]) -> list[int]:
    """The profiles of all instances."""
    return sorted({index for group in groups for index in profile_indexes(group.profile)}) or [0]


def _batch_hint(config: ModelConfig, signature: Signature) -> bool | None:
    """What the dims that are given say about batching: one fewer than the plan's is a yes; None where none is given."""
    hint: bool | None = None
    for item, tensor in _pairs(config, signature):
        if tensor.is_shape or not item.dims:
            continue
        dims = item.dims if item.reshape is None else item.reshape.shape
        if len(dims) + 1 == len(tensor.shape):
            return True
        if len(dims) == len(tensor.shape):
            hint = False
    return hint


def _pairs(config: ModelConfig, signature: Signature) -> Iterable[tuple[ModelInput | ModelOutput, PlanTensor]]:
    for listed, known in ((config.input, signature.inputs), (config.output, signature.outputs)):
        for item in listed:
            if item.name in known:
                yield item, known[item.name]


def _fill(config: ModelConfig, role: str, item: ModelInput | ModelOutput, tensor: PlanTensor) -> None:
    if not item.data_type:
        item.data_type = _kind(config, role, tensor)
    if item.dims:
        return
    item.is_shape_tensor = tensor.is_shape
    batching = config.max_batch_size > 0
    if tensor.is_shape:
        item.dims = [size if size == -1 or not batching else max(size - 1, 1) for size in tensor.shape] or [1]
        return
    item.dims = list(tensor.shape[1:] if batching else tensor.shape)
    if not item.dims:
        item.dims = [1]
        item.reshape = ModelTensorReshape(shape=[]) if batching else None


def _kind(config: ModelConfig, role: str, tensor: PlanTensor) -> ConfigType:
    if tensor.kind is None:
        raise InvalidArgument(
            f"unable to load model '{config.name}': unsupported type {tensor.type_text} of {role} '{tensor.name}'"
        )
    return ConfigType(tensor.kind.number)
