"""`pb_utils.Tensor`: a named array as user models see it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema.datatype import BY_NAME, name_of_dtype
from ...schema.tensor import Tensor as WireTensor
from ...schema.tensor import encode_bytes
from .error import TritonModelException

if TYPE_CHECKING:
    from collections.abc import Iterable

COPY_BYTES_MAX = 64 * 1024
"""Outputs up to this size are copied out at once, which also makes their wire form; larger ones only where shared."""

_CPU_DEVICE = (1, 0)


class Tensor:
    """A name and a numpy array. Shapes include the batch dimension; strings are object arrays of `bytes`."""

    __slots__ = ("_array", "_name", "_wire")

    def __init__(self, name: str, array: np.ndarray) -> None:
        """Raises TritonModelException for an empty name and for element types that the protocol does not have.

        An array that is not contiguous in C order is copied.
        """
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Tensor '{name}': expected a numpy array, got {type(array)}")
        if name_of_dtype(array.dtype) is None:
            raise TritonModelException("NumPy dtype is not supported.")
        self._name = name
        self._wire: WireTensor | None = None
        self._array: np.ndarray | None = array if array.flags.c_contiguous else np.ascontiguousarray(array)

    @classmethod
    def received(cls, wire: WireTensor) -> Tensor:
        """An input, over the request's bytes."""
        tensor = cls.__new__(cls)
        tensor._name = wire.name
        tensor._wire = wire
        tensor._array = None
        return tensor

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        """The array, the same object each time. The model may write to it: what is not the request's own is copied."""
        array = self._array
        if array is None:
            wire = self._wire
            assert wire is not None, "a tensor has an array or a wire form"
            if wire.datatype == "BF16":
                raise TritonModelException(
                    "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
                )
            array = wire.numpy()
            # A writable wire form is the request's own body. An array may be a caller's in this process: never written.
            if wire.wire is None or not array.flags.behaved:  # behaved: writable and aligned
                array = array.copy()
            self._array = array
        return array

    def triton_dtype(self) -> int:
        """The datatype's number in the configuration, e.g. 11 for TYPE_FP32."""
        return BY_NAME[self._datatype()].number

    def shape(self) -> list[int]:
        if self._array is not None:
            return list(self._array.shape)
        assert self._wire is not None
        return list(self._wire.shape)

    def is_cpu(self) -> bool:
        return True

    def to_dlpack(self) -> Any:
        """A DLPack capsule over the same memory."""
        return self.__dlpack__()

    def __dlpack__(self, *, stream: object = None) -> Any:
        if self._datatype() == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        if self._datatype() == "BF16":
            raise TritonModelException("DLPack of BF16 tensors is not supported yet.")
        return self.as_numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU_DEVICE

    @staticmethod
    def from_dlpack(name: str, obj: Any) -> Tensor:
        """A tensor over the memory of a DLPack capsule or of an object with `__dlpack__`. CPU memory only."""
        if type(obj).__name__ == "PyCapsule":
            obj = _Capsule(obj)
        elif not (hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__")):
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule or have `__dlpack__` and "
                "`__dlpack_device__` attributes"
            )
        try:
            array = np.from_dlpack(obj)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TritonModelException(f"cannot make tensor '{name}' from DLPack: {error}") from error
        if not array.flags.c_contiguous:
            raise TritonModelException(
                "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are "
                "supported."
            )
        return Tensor(name, array)

    def answer(self, inputs: Iterable[Tensor]) -> WireTensor:
        """This output as the response carries it, safe from whatever the model does with its array afterwards.

        Small arrays are copied. A large one is handed over when nobody else refers to it; `inputs` are the request's
        own tensors, whose references do not count.
        """
        array = self._array
        if array is None:  # an input passed through untouched
            assert self._wire is not None
            wire = self._wire
            return WireTensor(wire.name, wire.datatype, wire.shape, wire.memory())
        datatype = name_of_dtype(array.dtype)
        assert datatype is not None, "checked when the tensor was made"
        if datatype == "BYTES":
            return WireTensor(self._name, datatype, array.shape, encode_bytes(array.ravel().tolist()))
        dtype = BY_NAME[datatype].dtype
        if array.dtype != dtype:  # big-endian
            array = array.astype(dtype)
        if array.nbytes <= COPY_BYTES_MAX:
            return WireTensor(self._name, datatype, array.shape, array.tobytes())
        # References known here: ours in `_array`, this local, getrefcount's argument, and those of the inputs.
        known = 3
        passed_through = False
        for tensor in inputs:
            if tensor._array is array:
                passed_through = True
                known += 1 + (tensor._wire is not None and tensor._wire.array is array)
        if sys.getrefcount(array) > known or not (passed_through or _owns_memory(array)):
            array = array.copy()
        return WireTensor(self._name, datatype, array.shape, None, array)

    def _datatype(self) -> str:
        if self._wire is not None:
            return self._wire.datatype
        assert self._array is not None
        return name_of_dtype(self._array.dtype) or ""


class _Capsule:
    """numpy takes objects only, older models have bare capsules of CPU tensors."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU_DEVICE


def _owns_memory(array: np.ndarray) -> bool:
    """True when the memory is the array's, or belongs to a parent array that only this view refers to."""
    base = array.base
    if base is None:
        return True
    # `base` here, the view's reference, getrefcount's argument.
    return isinstance(base, np.ndarray) and base.base is None and sys.getrefcount(base) <= 3
