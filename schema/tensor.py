"""A named tensor over somebody's bytes: a view of the request as received, or of the array that the model made."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .datatype import BY_NAME, name_of_dtype
from .fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Buffer = bytes | bytearray | memoryview


COPY_BYTES_MAX = 4096
"""Up to here a copy costs less than a view."""
_LENGTH = struct.Struct("<I")
_length_at = _LENGTH.unpack_from


def bytes_of(part: Buffer) -> bytes:
    """Itself where it is bytes: compiled code would call their type, 840 machine instructions, to find that out."""
    return part if isinstance(part, bytes) else bytes(part)


def size_of(parts: Iterable[Buffer]) -> int:
    """Bytes in all. `sum(map(len, parts))` looks three names up and takes three detours where it is compiled: 2,500
    machine instructions for three parts."""
    size = 0
    for part in parts:
        size += len(part)
    return size


class Tensor:
    """Name, datatype, shape, and the elements in one of two forms, each made from the other on first use.

    `memory()` is the wire form: row-major, little-endian, no padding; BYTES elements each follow their uint32 length.
    `numpy()` is the array form: shape and dtype as in the datatype table, BYTES as an object array of `bytes`.
    Neither copies where a view will do, so treat both as read-only. Not thread-safe; one owner at a time.
    `wire` and `array` are the forms that are there already, None for one not made yet. Bytes that came over the wire
    are unchecked until `numpy()` has made its array.
    """

    __slots__ = ("array", "datatype", "name", "shape", "wire")

    def __init__(
        self,
        name: str,
        datatype: str,
        shape: Sequence[int],
        memory: Buffer | None = None,
        array: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.wire = memory
        self.array = array

    @classmethod
    def of(cls, name: str, array: np.ndarray, datatype: str | None = None) -> Tensor:
        """A tensor over `array`. Strings and objects become BYTES; an unknown dtype raises InvalidArgument, a masked
        array TypeError."""
        if type(array) is not np.ndarray:
            array = plain_array(name, array)
        kind = datatype or name_of_dtype(array.dtype)
        if kind is None:
            raise InvalidArgument(f"tensor '{name}': numpy dtype '{array.dtype}' has no datatype in the protocol")
        if kind == "BYTES" and array.dtype != object:
            array = np.array([_as_bytes(item) for item in array.ravel()], dtype=object).reshape(array.shape)
        elif kind != "BYTES" and array.dtype != BY_NAME[kind].dtype:
            array = array.astype(BY_NAME[kind].dtype)
        return cls(name, kind, array.shape, array=array)

    def memory(self) -> Buffer:
        """The wire form. A flat buffer whose `len` is its size in bytes."""
        memory = self.wire
        if memory is None:
            array = self.array
            assert array is not None, "a tensor has at least one form"
            if self.datatype == "BYTES":
                memory = encode_bytes(array.ravel())
            elif array.size == 0:
                memory = b""
            else:
                # A small copy costs less than the view, and is joined into the reply anyhow.
                small = array.nbytes <= COPY_BYTES_MAX
                memory = array.tobytes() if small else np.ascontiguousarray(array).data.cast("B")
            self.wire = memory
        return memory

    def numpy(self) -> np.ndarray:
        """The array form. Raises InvalidArgument when the bytes are not just the elements that the shape promises."""
        array = self.array
        if array is None:
            memory = self.wire
            assert memory is not None, "a tensor has at least one form"
            kind = BY_NAME.get(self.datatype)
            shape = self.shape
            if kind is not None and kind.byte_size and len(memory) == math.prod(shape) * kind.byte_size:
                try:
                    self.array = array = np.ndarray(shape, kind.dtype, memory)
                except (ValueError, OverflowError):
                    # Two negative dimensions, or no elements and others beyond what an array may have.
                    raise InvalidArgument(f"tensor '{self.name}': no array has the shape {list(shape)}") from None
            else:
                self.array = array = self._array_of_bytes(memory)
        return array

    def _array_of_bytes(self, memory: Buffer) -> np.ndarray:
        """The array form of BYTES; for all else, the fault that the bytes do not fit."""
        kind = BY_NAME.get(self.datatype)
        if kind is None:
            raise InvalidArgument(f"tensor '{self.name}': unknown datatype '{self.datatype}'")
        if kind.byte_size and len(memory) % kind.byte_size:
            raise InvalidArgument(
                f"tensor '{self.name}': {len(memory)} bytes are no whole number of {self.datatype} elements"
            )
        items = decode_bytes(memory, self.name) if kind.byte_size == 0 else range(len(memory) // kind.byte_size)
        expected = math.prod(self.shape)
        if len(items) != expected or min(self.shape, default=0) < 0:
            raise InvalidArgument(
                f"tensor '{self.name}': shape {list(self.shape)} needs {expected} elements, got {len(items)}"
            )
        array = np.empty(expected, dtype=object)
        array[:] = items
        try:
            return array.reshape(self.shape)
        except (ValueError, OverflowError):
            raise InvalidArgument(f"tensor '{self.name}': no array has the shape {list(self.shape)}") from None

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.datatype}, {list(self.shape)})"


def plain_array(name: str, array: np.ndarray) -> np.ndarray:
    """What a subclass of numpy's array holds, without its class. Raises TypeError for a masked array: what is masked
    has no value to send."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"tensor '{name}': a masked array has elements without a value, pass array.filled(value)")
    return np.asarray(array)


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, (bytearray, memoryview, np.bytes_)):
        return bytes(item)
    return str(item).encode()


def encode_bytes(items: Iterable[object]) -> bytes:
    """BYTES elements to wire form: for each a little-endian uint32 length and the bytes. Strings are UTF-8."""
    given = list(items)
    elements = [*map(_as_bytes, given)] if set(map(type, given)) - {bytes} else cast("list[bytes]", given)
    parts: list[Any] = [None] * (2 * len(elements))
    parts[::2] = map(_LENGTH.pack, map(len, elements))
    parts[1::2] = elements
    return b"".join(parts)


def decode_bytes(memory: Buffer, name: str) -> list[bytes]:
    """BYTES elements from wire form. Raises InvalidArgument when a length points past the end."""
    data = bytes(memory)  # a slice of it is an element: no view that has to be copied
    items: list[bytes] = []
    at = start = 0
    end = len(data)
    try:
        while at < end:
            start = at + 4
            at = start + _length_at(data, at)[0]
            items.append(data[start:at])
    except struct.error:
        raise InvalidArgument(
            f"incomplete string length indicator for inference input '{name}', expecting 4 bytes but only "
            f"{end - at} bytes available. Please make sure the string length indicator is in one buffer."
        ) from None
    if at > end:
        raise InvalidArgument(
            f"incomplete string data for inference input '{name}', expecting string of length {at - start} but only "
            f"{end - start} bytes available"
        )
    return items


def holds_elements(memory: Buffer, count: int) -> bool:
    """Whether these are so many BYTES elements in wire form, and nothing else. The elements are not touched."""
    at, end = 0, len(memory)
    if 4 * count > end:
        return False
    try:
        for _ in range(count):
            at += 4 + _length_at(memory, at)[0]
    except struct.error:
        return False
    return at == end
