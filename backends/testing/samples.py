"""Values that backends get wrong first, and how they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schema.datatype import BY_NAME
from ...schema.tensor import Tensor

_STRINGS = (b"", b"a", "über".encode(), b"\x00", b"with\nlines", b"long" * 500)


def sample(datatype: str, rows: int, columns: int, seed: int) -> np.ndarray:
    """[rows, columns] of extremes first, then of anything; other seeds give other values."""
    kind = BY_NAME[datatype]
    dtype: Any = kind.dtype
    values: np.ndarray
    random = np.random.default_rng(seed)
    count = rows * columns
    if kind.name == "BYTES":
        array = np.empty(count, object)
        array[:] = [_STRINGS[(seed + index) % len(_STRINGS)] for index in range(count)]
        return array.reshape(rows, columns)
    if kind.name == "BOOL":
        values = random.integers(0, 2, count).astype(bool)
    elif kind.name == "BF16":  # bit patterns; 0x7F80 is infinite
        values = np.concatenate([[0, 0x8000, 0x7F80, 0x3F80], random.integers(0, 0x7F80, count)])
    elif kind.dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        values = np.concatenate([[most, -most, np.inf, np.nan], random.normal(size=count)])
    else:
        limits = np.iinfo(dtype)
        values = random.integers(limits.min, limits.max, count, dtype=dtype, endpoint=True)
        values[:2] = limits.min, limits.max
    return np.roll(values, -seed)[:count].astype(kind.dtype).reshape(rows, columns)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """In shape and each element; NaN is NaN. Strings may be `str` where bytes are expected."""
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind in "OSU":
        return [_as_bytes(item) for item in found.ravel()] == [_as_bytes(item) for item in expected.ravel()]
    return bool(np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fc"))


def unaligned(name: str, array: np.ndarray) -> Tensor:
    """As the tail of a body has it: read-only bytes that begin anywhere."""
    tensor = Tensor.of(name, array)
    memory = memoryview(b"\xff" + bytes(tensor.memory()))[1:]
    return Tensor(name, tensor.datatype, tensor.shape, memory=memory)


def _as_bytes(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
