"""BF16, which numpy lacks: bit patterns in `uint16` here, ONNX Runtime's own values there."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...schema.datatype import DataType

_BFLOAT16 = 16
"""ONNX's number."""


class BitPatterns:
    """A session's `run` for models with tensors of BF16: the same arguments and results. One array more is written for
    each output of BF16, none for inputs."""

    def __init__(self, ort: Any, session: Any, inputs: frozenset[str], outputs: frozenset[str]) -> None:
        self._value = ort.OrtValue
        self._session = session
        self._inputs = inputs
        self._outputs = outputs

    @classmethod
    def of(
        cls, ort: Any, session: Any, inputs: Mapping[str, DataType], outputs: Mapping[str, DataType]
    ) -> BitPatterns | None:
        """None for models without such tensors."""
        theirs, ours = (
            frozenset(name for name, kind in kinds.items() if kind.name == "BF16") for kinds in (inputs, outputs)
        )
        return cls(ort, session, theirs, ours) if theirs or ours else None

    def run(self, names: Sequence[str], feeds: Mapping[str, np.ndarray], run_options: Any) -> list[np.ndarray]:
        """Raises what ONNX Runtime raises."""
        values = {name: self._as_value(name, array) for name, array in feeds.items()}
        results = self._session.run_with_ort_values(list(names), values, run_options)
        return [
            _bits(result) if name in self._outputs else result.numpy()
            for name, result in zip(names, results, strict=True)
        ]

    def _as_value(self, name: str, array: np.ndarray) -> Any:
        array = np.asarray(array, order="C")
        if name in self._inputs:
            return self._value.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
        return self._value.ortvalue_from_numpy(array)


def _bits(value: Any) -> np.ndarray:
    shape = tuple(value.shape())
    return np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * math.prod(shape)), np.uint16).reshape(shape)
