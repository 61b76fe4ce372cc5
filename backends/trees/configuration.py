"""A model's configuration against what it answers: what to fill in, and what does not fit. Faults: InvalidArgument."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import attrs

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.sequence_tensors import added_inputs, state_outputs
from ...schema.datatype import BY_NUMBER
from ...schema.fault import InvalidArgument
from ...schema.wire.generated.inference import DataType as ConfigType
from ...schema.wire.generated.inference import ModelConfig, ModelDynamicBatching, ModelInput, ModelOutput
from ..fitting import check_shape
from ..ragged import is_ragged

if TYPE_CHECKING:
    import numpy as np

    from .options import Wanted

INPUT, OUTPUT, CONTRIBUTIONS = "input__0", "output__0", "treeshap_output"
"""FIL's names. Ours may be others, but for the contributions."""


@attrs.frozen(kw_only=True)
class Shape:
    """What a model takes and answers."""

    features: int | None
    wanted: Wanted
    columns: int
    """Of what is wanted, -1 where nobody knows; for probabilities of two classes either 1 or 2 will do."""
    is_binary: bool
    has_text_labels: bool
    contributions: tuple[int, ...] | None
    """Of a row; None where the model does not explain itself."""


def complete(config: ModelConfig, shape: Shape, default_max_batch_size: int) -> ModelConfig:
    """A completed copy. Every model here takes rows, so one that says nothing of them batches."""
    config = copy.deepcopy(config)
    if config.max_batch_size == 0 and not config.input and not config.output:
        config.max_batch_size = max(default_max_batch_size, 1)
    if config.max_batch_size > 1 and config.dynamic_batching is None and config.sequence_batching is None:
        config.dynamic_batching = ModelDynamicBatching(preferred_batch_size=[config.max_batch_size])
    rows = [] if config.max_batch_size else [-1]
    if not config.input:
        dims = [*rows, -1 if shape.features is None else shape.features]
        config.input.append(ModelInput(name=INPUT, data_type=ConfigType.TYPE_FP32, dims=dims))
    if not config.output:
        is_text = shape.wanted == "class" and shape.has_text_labels
        kind = ConfigType.TYPE_STRING if is_text else ConfigType.TYPE_FP32
        config.output.append(ModelOutput(name=OUTPUT, data_type=kind, dims=[*rows, shape.columns]))
    return config


def check(config: ModelConfig, shape: Shape) -> None:
    """Everything that does not fit, at once."""
    name = config.name
    found: list[str] = []
    if is_ragged(config) or added_inputs(config) or state_outputs(config):
        found.append(f"model '{name}': models of rows have no ragged batches, batch inputs, controls or states")
    if len(config.input) != 1:
        found.append(f"model '{name}': must have one input, rows of features; it has {len(config.input)}")
    answers = [item for item in config.output if item.name != CONTRIBUTIONS]
    if len(answers) != 1:
        found.append(
            f"model '{name}': must have one output besides '{CONTRIBUTIONS}'; it has "
            f"{', '.join(item.name for item in answers) or 'none'}"
        )
    refuse_all(found)
    with collected(found):
        _check_input(config, config.input[0], shape)
    for item in config.output:
        with collected(found):
            if item.name == CONTRIBUTIONS:
                _check_contributions(config, item, shape)
            else:
                _check_answer(config, item, shape)
    refuse_all(found)


def _check_input(config: ModelConfig, item: ModelInput, shape: Shape) -> None:
    kind = BY_NUMBER[int(item.data_type)]
    if item.optional or kind.name in ("BYTES", "BF16"):
        raise InvalidArgument(
            f"model '{config.name}': input '{item.name}' must be numbers and not optional, e.g. TYPE_FP32"
        )
    _check_dims(config, item, (-1 if shape.features is None else shape.features,))


def _check_answer(config: ModelConfig, item: ModelOutput, shape: Shape) -> None:
    kind = BY_NUMBER[int(item.data_type)]
    is_float = kind.name in ("FP16", "FP32", "FP64")
    if shape.wanted == "class":
        fits = kind.name != "BF16" and (kind.name != "BYTES" or shape.has_text_labels)
    else:
        fits = is_float
    if not fits:
        raise InvalidArgument(
            f"model '{config.name}': output '{item.name}' cannot be {kind.config_name}: it is "
            f"{'a class' if shape.wanted == 'class' else 'a number with a fraction, e.g. TYPE_FP32'}"
        )
    columns = shape.columns
    if shape.wanted == "probabilities" and shape.is_binary and columns_of(config, item) in (1, 2):
        columns = columns_of(config, item)
    _check_dims(config, item, (columns,))


def _check_contributions(config: ModelConfig, item: ModelOutput, shape: Shape) -> None:
    if shape.contributions is None:
        raise InvalidArgument(
            f"model '{config.name}': output '{CONTRIBUTIONS}' is there for models of XGBoost and LightGBM only"
        )
    if BY_NUMBER[int(item.data_type)].name not in ("FP32", "FP64"):
        raise InvalidArgument(f"model '{config.name}': output '{CONTRIBUTIONS}' must be TYPE_FP32 or TYPE_FP64")
    _check_dims(config, item, shape.contributions)


def columns_of(config: ModelConfig, item: ModelOutput) -> int:
    """As the configuration says, a row of numbers has so many; -1 where it does not."""
    dims = item.dims if item.reshape is None else item.reshape.shape
    own = list(dims) if config.max_batch_size > 0 else list(dims[1:])
    return own[0] if len(own) == 1 else -1


def _check_dims(config: ModelConfig, item: ModelInput | ModelOutput, row: tuple[int, ...]) -> None:
    batching = config.max_batch_size > 0
    dims = list(item.dims if item.reshape is None else item.reshape.shape)
    own = dims if batching else dims[1:]
    if len(own) == len(row):  # what the configuration leaves open, a request may get wrong
        own = [has if size == -1 else size for size, has in zip(own, row, strict=True)]
    check_shape(config.name, item.name, (-1, *row), own if batching else [*dims[:1], *own], batching=batching)


def labels_are_text(labels: np.ndarray | None) -> bool:
    return labels is not None and labels.dtype.kind in "OUS"
