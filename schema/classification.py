"""The classification extension: an output's highest values, each with its index and label."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .fault import Fault, Internal, InvalidArgument
from .inference import InferenceResponse
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ELEMENTS_MAX = 1_000_000
"""Larger outputs are refused: ranking them would hold up every other request."""


def classify(tensor: Tensor, class_count: int, max_batch_size: int, labels: Sequence[str]) -> Tensor:
    """A BYTES tensor of `value:index` or `value:index:label`, highest value first, at most `class_count` per item.

    When the model batches (`max_batch_size` above 0) the first dimension counts items, each ranked for itself. Equal
    values keep their order, NaN ranks as -Infinity. Raises InvalidArgument for datatypes without an order and for
    outputs of more than ELEMENTS_MAX elements, Internal when the bytes do not fit the shape.
    """
    shape = tuple(tensor.shape)
    if tensor.datatype in ("BOOL", "BYTES", "FP16", "BF16"):
        raise InvalidArgument(f"class result not available for output due to unsupported type '{tensor.datatype}'")
    if math.prod(shape) > ELEMENTS_MAX:
        raise InvalidArgument("classification output tensor too large")
    batched = max_batch_size > 0 and len(shape) > 0
    item_count = shape[0] if batched else 1
    element_count = math.prod(shape[1:] if batched else shape)
    kept = min(class_count, element_count)
    try:
        items = tensor.numpy().reshape(item_count, element_count)
    except (Fault, ValueError):
        raise Internal(f"output tensor shape does not match size of output for '{tensor.name}'") from None
    ranked = np.empty((item_count, kept), dtype=object)
    for place, item in enumerate(items):
        ranked[place] = [_tell(item[index], int(index), labels) for index in _highest(item, kept)]
    shape = (item_count, kept) if batched else (kept,)
    return Tensor(tensor.name, "BYTES", shape, array=ranked.reshape(shape))


def classify_response(
    response: InferenceResponse,
    class_counts: Mapping[str, int],
    max_batch_size: int,
    labels: Mapping[str, Sequence[str]],
) -> InferenceResponse:
    """`response` with each output that `class_counts` names put in its ranked form. The original stays as it is:
    others may hold it too. Raises what `classify` raises."""
    outputs = [
        classify(tensor, class_counts[tensor.name], max_batch_size, labels.get(tensor.name, ()))
        if tensor.name in class_counts
        else tensor
        for tensor in response.outputs
    ]
    return InferenceResponse(
        response.model_name, response.model_version, outputs, id=response.id, parameters=response.parameters
    )


def _highest(item: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` highest values in descending order, the earlier of two equal ones first."""
    if count == 0:
        return np.empty(0, np.intp)
    if item.dtype.kind == "f":
        item = np.where(np.isnan(item), -np.inf, item)
    size = len(item)
    lowest_kept = np.partition(item, size - count)[size - count]
    candidates = np.flatnonzero(item >= lowest_kept)
    # Sorting backwards and reversing gives descending order that is stable.
    backwards = candidates[::-1]
    return backwards[np.argsort(item[backwards], kind="stable")][::-1][:count]


def _tell(value: np.generic, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
    return f"{number}:{index}{label}".encode("utf-8", "surrogateescape")
