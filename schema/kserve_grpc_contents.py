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
_BY_TAG = {number << 3 | 2: (datatypes, held) for number, (_, _, datatypes, held) in enumerate(_LISTS, start=1)}
"""By the tag of each list of InferTensorContents: the datatypes that may use it, and what it holds."""


def memory_in(contents: Buffer, datatype: str) -> Buffer:
    """The same for the encoded field `contents` of an input; numbers must be one packed list, and its only one. Raises
    ValueError for all else, which is to be decoded as a message. From any thread; lets others run."""
    size, at = read_varint(contents, 1)
    if at == len(contents):
        raise ValueError("no elements, which is one thing less to compare")
    tag = contents[at]
    datatypes, held = _BY_TAG.get(tag, ((), ""))
    if datatype not in datatypes:
        raise ValueError("a list that is not the datatype's")
    if not held:
        return _texts_in(contents, at)
    size, at = read_varint(contents, at + 1)
    if at + size != len(contents):
        raise ValueError("more than one list")
    data = contents[at:]
    if held in ("<f4", "<f8"):
        if size % int(held[2]):
            raise ValueError("a part of an element")
        return data
    numbers = unpack_varints(data)
    return (numbers.astype(bool) if held == "?" else numbers.astype(BY_NAME[datatype].dtype)).tobytes()


def _texts_in(contents: Buffer, at: int) -> bytearray:
    memory = bytearray()  # and no list of parts: millions of them would keep the garbage collector busy
    end, count = len(contents), 0
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
