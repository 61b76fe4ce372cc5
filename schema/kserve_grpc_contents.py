"""Tensor elements that came as typed protobuf lists instead of raw bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .datatype import BY_NAME
from .fault import InvalidArgument
from .tensor import encode_bytes
from .texts import pause
from .wire.packed import unpack_varints
from .wire.varint import read_varint

if TYPE_CHECKING:
    from .tensor import Buffer
    from .wire.generated.inference import ModelInferRequestInferInputTensor

_LISTS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("bool_contents", "BOOL", ("BOOL",), "?"),
    ("int_contents", "INT32", ("INT8", "INT16", "INT32"), "<i4"),
    ("int64_contents", "INT64", ("INT64",), "<i8"),
    ("uint_contents", "UINT32", ("UINT8", "UINT16", "UINT32"), "<u4"),
    ("uint64_contents", "UINT64", ("UINT64",), "<u8"),
    ("fp32_contents", "FP32", ("FP32",), "<f4"),
    ("fp64_contents", "FP64", ("FP64",), "<f8"),
    ("bytes_contents", "BYTES", ("BYTES",), ""),
)
"""Field, the type that error texts call it by, the datatypes that may use it, numpy dtype of what the field holds."""


def typed_contents(entry: ModelInferRequestInferInputTensor, model: str) -> Buffer:
    """The wire form of the elements in `entry.contents`; no elements at all are zero bytes.

    Raises InvalidArgument when the filled list is not the datatype's, or more than one is filled. Integers are cut to
    the datatype's width.
    """
    contents = entry.contents
    assert contents is not None, "the caller has checked"
    memory: Buffer | None = None
    for field, list_type, datatypes, held in _LISTS:
        elements = getattr(contents, field)
        if not elements:
            continue
        if memory is not None:
            raise InvalidArgument(
                f"unexpected explicit tensor data for input tensor '{entry.name}' for model '{model}', "
                "binary data was already supplied."
            )
        if entry.datatype not in datatypes:
            raise InvalidArgument(
                f"unexpected explicit tensor data for input tensor '{entry.name}' for model '{model}' of type "
                f"'{list_type}', expected datatype '{entry.datatype}'"
            )
        if held:
            memory = np.array(elements, held).astype(BY_NAME[entry.datatype].dtype).tobytes()
        else:
            memory = encode_bytes(elements)
    return b"" if memory is None else memory


_TEXT = 0x42
"""The tag of a text."""
_NUMBERS = {
    (number << 3 | 2, datatype): (BY_NAME[datatype].dtype, 32 if held[-1:] == "4" else 64)
    for number, (_, _, datatypes, held) in enumerate(_LISTS, start=1)
    for datatype in datatypes
}
"""By the tag of each list of InferTensorContents and a datatype that may use it: what is made of the numbers, and of
how many of their bits."""


def memory_in(contents: Buffer, datatype: str) -> Buffer:
    """The same for an input's encoded InferTensorContents; numbers must be one packed list, and the only one. Raises
    ValueError or LookupError for all else, which is to be decoded as a message: no elements at all, too. From any
    thread; lets others run."""
    if datatype == "BYTES":
        return _texts_in(contents)
    dtype, bits = _NUMBERS[contents[0], datatype]
    size, at = contents[1], 2
    if size > 127:
        size, at = read_varint(contents, 1)
    if at + size != len(contents):
        raise ValueError("more than one list")
    data = contents[at:]
    if dtype.kind != "f":
        return unpack_varints(data, bits).astype(dtype).tobytes()
    if size % dtype.itemsize:
        raise ValueError("a part of an element")
    return data


def _texts_in(contents: Buffer) -> bytearray:
    memory = bytearray()  # and no list of parts: millions of them would keep the garbage collector busy
    at, end, count = 0, len(contents), 0
    while at < end:
        if contents[at] != _TEXT:
            raise ValueError("more than texts")
        size, start = read_varint(contents, at + 1)
        at = start + size
        memory += size.to_bytes(4, "little")
        memory += contents[start:at]
        count += 1
        pause(count)
    if at != end:
        raise ValueError("a text that is cut off")
    return memory
