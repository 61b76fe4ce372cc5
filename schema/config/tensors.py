"""Inputs and outputs as a configuration declares them: which declarations make sense."""

from __future__ import annotations

from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, NoReturn

from ..datatype import BY_NUMBER
from ..fault import InvalidArgument
from ..message_type import enum_name
from ..wire.generated.inference import BatchInputKind, BatchOutputKind, DataType, ModelInputFormat
from .backend_names import TENSORRT_PLATFORM
from .collecting import collected, refuse_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..wire.generated.inference import BatchInput, BatchOutput, ModelConfig, ModelInput, ModelOutput

WILDCARD = -1
"""A dimension of any size."""

_ELEMENTS_MAX = 2**63 - 1


def validate_io(config: ModelConfig) -> None:
    """Refuses inputs, outputs, batch inputs and batch outputs that are wrong: all of them at once."""
    found: list[str] = []
    for tensor in config.input:
        with collected(found):
            _validate_shape(tensor, config, "model input")
            if tensor.format in (ModelInputFormat.NHWC, ModelInputFormat.NCHW) and len(tensor.dims) != 3:
                _refuse(config, "model input NHWC/NCHW require 3 dims")
            _validate_special(tensor, config, "input")
    for output in config.output:
        with collected(found):
            _validate_shape(output, config, "model output")
            _validate_special(output, config, "output")
    for batch_input in config.batch_input:
        with collected(found):
            _validate_batch_input(batch_input, config)
    for batch_output in config.batch_output:
        with collected(found):
            _validate_batch_output(batch_output, config)
    refuse_all(found)


def _refuse(config: ModelConfig, message: str) -> NoReturn:
    raise InvalidArgument(f"{message} for {config.name}")


def _validate_shape(tensor: ModelInput | ModelOutput, config: ModelConfig, prefix: str) -> None:
    if not tensor.name:
        _refuse(config, f"{prefix} must specify 'name'")
    prefix = f"{prefix} '{tensor.name}'"
    reshape = tensor.reshape.shape if tensor.reshape is not None else None
    if tensor.data_type == DataType.TYPE_INVALID:
        _refuse(config, f"{prefix} must specify 'data_type'")
    if int(tensor.data_type) not in BY_NUMBER:
        _refuse(config, f"{prefix} has 'data_type' {int(tensor.data_type)}, the number of no datatype,")
    if not tensor.dims:
        _refuse(config, f"{prefix} must specify 'dims'")
    if reshape == [] and config.max_batch_size == 0:
        _refuse(
            config,
            f"{prefix} cannot have empty reshape for non-batching model as scalar tensors are not supported",
        )
    if any(dim < 1 and dim != WILDCARD for dim in tensor.dims):
        _refuse(config, f"{prefix} dimension must be integer >= 1, or -1 to indicate a variable-size dimension")
    if reshape is None:
        return
    if any(dim < 1 and dim != WILDCARD for dim in reshape):
        _refuse(
            config, f"{prefix} reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"
        )
    if max(_fixed_product(tensor.dims), _fixed_product(reshape)) > _ELEMENTS_MAX:
        _refuse(config, f"{prefix} has more elements than a 64-bit number counts")
    if not reshape:
        fits = WILDCARD not in tensor.dims and prod(tensor.dims) == 1
        if not fits:
            _refuse(config, f"{prefix} has different size for dims and reshape")
        return
    if (WILDCARD in tensor.dims) != (WILDCARD in reshape):
        _refuse(config, f"{prefix} has different size for dims and reshape")
    if tensor.dims.count(WILDCARD) != reshape.count(WILDCARD):
        _refuse(config, f"{prefix} has different number of variable-size dimensions for dims and reshape")
    if _sizes_between_wildcards(tensor.dims) != _sizes_between_wildcards(reshape):
        _refuse(config, f"{prefix} has different size for dims and reshape")


def _fixed_product(dims: Sequence[int]) -> int:
    """Exact up to _ELEMENTS_MAX; some larger number where there are more."""
    product = 1
    for dim in dims:
        if dim != WILDCARD and product <= _ELEMENTS_MAX:
            product *= dim
    return product


def _sizes_between_wildcards(dims: Sequence[int]) -> list[int]:
    """[2, 4, -1, 6] is [8, 6]: a reshape may move elements only between neighbours that no wildcard parts."""
    sizes = [1]
    for wild, run in groupby(dims, WILDCARD.__eq__):
        for dim in run:
            if wild:
                sizes.append(1)
            else:
                sizes[-1] *= dim
    return sizes


def _validate_special(tensor: ModelInput | ModelOutput, config: ModelConfig, kind: str) -> None:
    if tensor.is_shape_tensor and config.platform != TENSORRT_PLATFORM:
        _refuse(config, "shape tensors are only supported for TensorRT platform")
    if tensor.is_non_linear_format_io:
        if config.platform != TENSORRT_PLATFORM:
            _refuse(config, "Non-linear IO format is only supported for the TensorRT platform")
        if len(tensor.dims) != 3:
            _refuse(config, f"Non-linear IO format {kind} requires 3 dims")


def _validate_batch_input(batch_input: BatchInput, config: ModelConfig) -> None:
    kind = enum_name(BatchInputKind(batch_input.kind))
    if not kind:
        _refuse(config, f"unknown batch input kind '{kind}'")
    if len(batch_input.source_input) != 1:
        _refuse(config, f"batch input kind '{kind}' expects 1 source input, got {len(batch_input.source_input)}")
    if batch_input.data_type not in (DataType.TYPE_INT32, DataType.TYPE_FP32):
        _refuse(config, "batch input data type must be TYPE_INT32 or TYPE_FP32")
    _validate_sources(batch_input.source_input, config)


def _validate_batch_output(batch_output: BatchOutput, config: ModelConfig) -> None:
    kind = enum_name(BatchOutputKind(batch_output.kind))
    if not kind:
        _refuse(config, f"unknown batch output kind '{kind}'")
    if len(batch_output.source_input) != 1:
        _refuse(config, f"batch output kind '{kind}' expects 1 source input, got {len(batch_output.source_input)}")
    _validate_sources(batch_output.source_input, config)
    outputs = {output.name for output in config.output}
    seen: set[str] = set()
    for target in batch_output.target_name:
        if target not in outputs:
            _refuse(config, f"unknown target output name '{target}'")
        if target in seen:
            _refuse(config, f"target output name '{target}' can only be specified once")
        seen.add(target)


def _validate_sources(sources: Sequence[str], config: ModelConfig) -> None:
    inputs = {tensor.name for tensor in config.input}
    for source in sources:
        if source not in inputs:
            _refuse(config, f"unknown source input name '{source}'")
