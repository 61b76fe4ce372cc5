"""Inputs of the models that the tests of doors ask, for any of the real client's modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def tensor(module: Any, name: str, datatype: str, values: npt.NDArray[Any]) -> Any:
    """An input with its data set."""
    made = module.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def sums(module: Any, value: int = 1) -> list[Any]:
    """The inputs of `simple`; OUTPUT0 is 0 ... 15, each with `value` added."""
    rows = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), value, np.int32)
    return [tensor(module, f"INPUT{place}", "INT32", row) for place, row in enumerate(rows)]


def one_number(module: Any, name: str) -> list[Any]:
    """The number 1, for a model with one such input."""
    return [tensor(module, name, "INT32", np.ones(1, np.int32))]


def nap(module: Any, seconds: float) -> list[Any]:
    """The input that makes `nap` sleep."""
    return [tensor(module, "SECONDS", "FP32", np.array([seconds], np.float32))]
