"""What backends share whose files say what tensors a model has: whether a configuration fits, and in which words not.

Everything that does not fit is an InvalidArgument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schema.config.normal_form import shape_text
from ..schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..engine.port.backend import ModelContext
    from ..schema.wire.generated.inference import ModelInput


def default_max_batch_size(context: ModelContext) -> int:
    """What a model gets that could batch and does not say how far."""
    text = context.backend_config.get("default-max-batch-size", "4")
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"backend setting default-max-batch-size must be a number, got '{text}'") from None


def check_shape(
    model_name: str, tensor_name: str, expected: Sequence[int], dims: Sequence[int], *, batching: bool
) -> None:
    """Raises InvalidArgument unless `dims` fit the model's shape, where -1 takes any size."""
    prefix = f"model '{model_name}', tensor '{tensor_name}': "
    if batching and (not expected or expected[0] != -1):
        raise InvalidArgument(
            f"{prefix}for the model to support batching the shape should have at least 1 dimension and the first "
            f"dimension must be -1; but shape expected by the model is {shape_text(expected)}"
        )
    given = [-1, *dims] if batching else list(dims)
    if len(given) == len(expected) and all(size in (-1, has) for size, has in zip(expected, given, strict=True)):
        return
    if batching:
        specifies = (
            f"{len(given)} dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit "
            f"tensor shape, making complete shape {shape_text(given)})"
        )
    else:
        specifies = f"{len(given)} dimensions (shape {shape_text(given)})"
    raise InvalidArgument(
        f"{prefix}the model expects {len(expected)} dimensions (shape {shape_text(expected)}) but the model "
        f"configuration specifies {specifies}"
    )


def check_told(model_name: str, item: ModelInput, expected: Sequence[int]) -> None:
    """What `batch_input` makes. Its size differs from batch to batch: the rank has to fit, and the width of a row."""
    if len(expected) != len(item.dims) or any(
        size not in (-1, given) for size, given in zip(expected[1:], item.dims[1:], strict=True)
    ):
        raise InvalidArgument(
            f"model '{model_name}', tensor '{item.name}': the model expects {len(expected)} dimensions (shape "
            f"{shape_text(expected)}) but its batch input has the shape {shape_text(item.dims)}"
        )


def check_ragged(model_name: str, item: ModelInput, expected: Sequence[int]) -> None:
    """An input of whose elements the model sees one flat row."""
    if item.optional:
        raise InvalidArgument(
            f"unable to load model '{model_name}', configuration expects model provides input with shape [-1] for "
            f"ragged input '{item.name}', which is not supported for optional input"
        )
    if tuple(expected) != (-1,):
        raise InvalidArgument(
            f"unable to load model '{model_name}', configuration expects model provides input with shape [-1]  for "
            f"ragged input '{item.name}', model provides {shape_text(expected)}"
        )


def unexpected(role: str, name: str, allowed: Iterable[str]) -> str:
    return f"unexpected inference {role} '{name}', allowed {role}s are: {', '.join(sorted(allowed))}"
