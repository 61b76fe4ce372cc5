"""`pb_utils.Tensor`: a named array as user models see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...schema.datatype import BY_NAME, name_of_dtype
from ...schema.subclasses import mypyc_attr
from ...schema.tensor import Tensor as WireTensor
from ...schema.tensor import encode_bytes, plain_array
from . import arguments
from .bfloat import capsule_of, told_to_be_integers
from .error import TritonModelException
from .memory import COPY_BYTES_MAX, copied, is_alone, may_be_kept, sole_holders

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...schema.tensor import Buffer

_CPU_DEVICE: Final = (1, 0)


@mypyc_attr(allow_interpreted_subclasses=True)
class Tensor:
    """A name and a numpy array. Shapes include the batch dimension; strings are object arrays of `bytes`.

    Its value is the array's when it is made: what is written into the array later is not to be relied on, and never
    becomes another request's answer.
    """

    __slots__ = ("_array", "_datatype", "_name", "_shape", "_taken", "_wire")

    _wire: WireTensor | None
    """Of an input, and of an output that was handed over."""
    _array: np.ndarray | None
    """As the model gave it or was given it."""
    _taken: bytes | None
    """The wire form of what a model made, where it was copied at once."""

    def __init__(self, name: object, array: object) -> None:
        """Raises TritonModelException for an empty name and for element types that the protocol does not have.

        Strings and small arrays are copied, others where that is needed (memory.py) or their rows are not in order.
        """
        name = arguments.text("Tensor", "name", name)
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Tensor '{name}': expected a numpy array, got {type(array)}")
        if type(array) is not np.ndarray:
            array = plain_array(name, array)
        datatype = name_of_dtype(array.dtype)
        if datatype is None:
            raise TritonModelException("NumPy dtype is not supported.")
        given = array
        dtype = BY_NAME[datatype].dtype
        if not array.flags.c_contiguous or (array.dtype != dtype and datatype != "BYTES"):  # big-endian
            array = array.astype(dtype, order="C")
        self._name = name
        self._datatype = datatype
        self._shape = array.shape
        self._wire = None
        self._array = array
        if datatype == "BYTES":
            self._taken = encode_bytes(array.ravel().tolist())
        elif array.nbytes <= COPY_BYTES_MAX:
            self._taken = array.tobytes()
        else:
            self._taken = None
            if array is given and not may_be_kept(array):
                self._array = copied(array)

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
            # Writable bytes are the request's own body. An array that is there may be a caller's in this process.
            is_ours = wire.array is None or is_alone(wire)
            array = wire.numpy()
            if not is_ours or not array.flags.behaved:  # writable and aligned
                array = array.copy()
            self._array = array
        return array

    def triton_dtype(self) -> int:
        """The datatype's number in the configuration, e.g. 11 for TYPE_FP32."""
        return BY_NAME[self._kind()].number

    def shape(self) -> list[int]:
        return list(self._shape if self._wire is None else self._wire.shape)

    def is_cpu(self) -> bool:
        return True

    def to_dlpack(self) -> Any:
        """A DLPack capsule over the same memory."""
        return self.__dlpack__()

    def __dlpack__(self, *, stream: object = None) -> Any:
        if self._kind() == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        if self._kind() == "BF16":
            assert self._wire is not None, "numpy has none"
            bits = np.frombuffer(self._wire.memory(), np.uint16).reshape(self._wire.shape)
            return capsule_of(bits if bits.flags.behaved else bits.copy())
        return self.as_numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU_DEVICE

    @staticmethod
    def from_dlpack(name: object, obj: Any) -> Tensor:
        """A tensor over the memory of a DLPack capsule or of an object with `__dlpack__`. CPU memory only."""
        named = arguments.text("from_dlpack", "name", name)
        is_capsule = type(obj).__name__ == "PyCapsule"
        if not is_capsule and not (hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__")):
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule or have `__dlpack__` and "
                "`__dlpack_device__` attributes"
            )
        are_bfloats = False
        try:
            if is_capsule or tuple(obj.__dlpack_device__()) == _CPU_DEVICE:
                capsule = obj if is_capsule else obj.__dlpack__()
                are_bfloats = told_to_be_integers(capsule)
                obj = _Capsule(capsule)
            array = np.from_dlpack(obj)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TritonModelException(f"cannot make tensor '{named}' from DLPack: {error}") from error
        if not array.flags.c_contiguous:
            raise TritonModelException(
                "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are "
                "supported."
            )
        if are_bfloats:
            return Tensor.received(WireTensor(named, "BF16", array.shape, array.tobytes()))
        return Tensor(named, array)

    def answer(self, inputs: Iterable[Tensor]) -> WireTensor:
        """This output as the response carries it, safe from whatever the model does with its array afterwards.

        `inputs` are the request's own tensors, whose references to an array do not count.
        """
        copied = self._copied()
        if copied is not None:
            return copied
        datatype = self._kind()
        holders = sole_holders(self, inputs)
        array = self._array
        assert array is not None, "what has no array is copied"
        if holders is None:
            array = array.copy()
        else:
            for tensor in holders:
                tensor._give(array.data)
        return WireTensor(self._name, datatype, array.shape, None, array)

    def _copied(self) -> WireTensor | None:
        """What `answer` gives where there is no array that it could hand over."""
        wire = self._wire
        array = self._array
        if wire is None:
            return None if self._taken is None else WireTensor(self._name, self._datatype, self._shape, self._taken)
        if array is None:  # untouched by the model
            memory = wire.memory()
            self._give(memory)
            return WireTensor(wire.name, wire.datatype, wire.shape, memory)
        if wire.datatype == "BYTES":
            return WireTensor(wire.name, "BYTES", array.shape, encode_bytes(array.ravel().tolist()))
        if array.nbytes <= COPY_BYTES_MAX:
            return WireTensor(wire.name, wire.datatype, array.shape, array.tobytes())
        return None

    def passed(self, *, waits: bool) -> WireTensor:
        """This as an input of another model. Without a copy where the model that passes it `waits`, or lets it go."""
        array = self._array
        small = self._wire is None and self._taken is not None
        if not waits or array is None or small or self._kind() == "BYTES":
            return self.answer(())
        view = array.view()
        view.flags.writeable = False
        return WireTensor(self._name, self._kind(), array.shape, None, view)

    def holds(self, array: np.ndarray) -> bool:
        """Whether this is the very array that `as_numpy` gives."""
        return self._array is array

    def _give(self, memory: Buffer) -> None:
        """An answer has this tensor's memory from now on; the model gets copies."""
        readonly = memoryview(memory).cast("B").toreadonly()
        self._wire = WireTensor(self._name, self._kind(), self.shape(), readonly)
        self._array = None

    def _kind(self) -> str:
        """The datatype's name."""
        return self._datatype if self._wire is None else self._wire.datatype


class _Capsule:
    """numpy takes objects only, older models have bare capsules of CPU tensors."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU_DEVICE
