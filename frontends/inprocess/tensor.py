"""Tensors as the in-process package has them: over memory of the CPU's, exchanged by DLPack or as numpy arrays."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema.datatype import BY_NUMBER
from ...schema.tensor import Tensor as EngineTensor
from .errors import InvalidArgumentError, UnsupportedError, told

if TYPE_CHECKING:
    from collections.abc import Sequence

DataType = IntEnum("DataType", [(row.name, number) for number, row in BY_NUMBER.items()])  # type: ignore[misc]  # a table


class MemoryType(IntEnum):
    CPU = 0
    CPU_PINNED = 1
    GPU = 2


class Tensor:
    """Values with a datatype and a shape. Read-only where they are a response's."""

    def __init__(self, tensor: EngineTensor) -> None:
        self._tensor = tensor

    @classmethod
    def of(cls, value: object) -> Tensor:
        """What programs give as inputs: a Tensor, an array, a list, anything with DLPack. Raises
        InvalidArgumentError."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, list):
            value = np.array(value, object if value and isinstance(value[0], str | bytes) else None)
        if not isinstance(value, np.ndarray):
            return cls.from_dlpack(value)
        if value.dtype.kind in "OU":
            value = _as_bytes(value)
        with told():
            return cls(EngineTensor.of("", value))

    @classmethod
    def from_dlpack(cls, owner: Any) -> Tensor:
        if not hasattr(owner, "__dlpack__"):
            raise InvalidArgumentError("Object does not support DLPack protocol")
        try:
            return cls.of(np.from_dlpack(owner))
        except (BufferError, RuntimeError, TypeError) as problem:
            raise InvalidArgumentError(f"cannot take the object by DLPack: {problem}") from problem

    @classmethod
    def from_bytes_array(cls, array: np.ndarray) -> Tensor:
        return cls.of(np.asarray(array, object))

    @classmethod
    def from_string_array(cls, array: np.ndarray) -> Tensor:
        return cls.of(np.asarray(array, object))

    @property
    def data_type(self) -> Any:
        return DataType[self._tensor.datatype]

    @property
    def shape(self) -> Sequence[int]:
        return tuple(self._tensor.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._tensor.memory())

    @property
    def memory_type(self) -> MemoryType:
        return MemoryType.CPU

    @property
    def memory_type_id(self) -> int:
        return 0

    def numpy(self) -> np.ndarray:
        with told():
            return self._tensor.numpy()

    def to_bytes_array(self) -> np.ndarray:
        """Of BYTES: an object array of `bytes`. Raises InvalidArgumentError for others."""
        if self._tensor.datatype != "BYTES":
            raise InvalidArgumentError(f"a tensor of {self._tensor.datatype} has no bytes")
        return self.numpy()

    def to_string_array(self) -> np.ndarray:
        """The same as text."""
        return np.array([item.decode() for item in self.to_bytes_array().ravel()], object).reshape(self.shape)

    def to_host(self) -> Tensor:
        return self

    def to_device(self, device: str) -> Tensor:
        if device.split(":")[0] != "cpu":
            raise UnsupportedError(f"tensors are in CPU memory, not on '{device}'")
        return self

    def __dlpack__(self, *, stream: object = None, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """Text as models have it: in UTF-8."""
    items = [item.encode() if isinstance(item, str) else item for item in array.ravel()]
    encoded = np.empty(len(items), object)
    encoded[:] = items
    return encoded.reshape(array.shape)
