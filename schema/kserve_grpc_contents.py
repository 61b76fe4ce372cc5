"""Tensor elements that came as typed protobuf lists instead of raw bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .datatype import BY_NAME
from .fault import InvalidArgument
from .tensor import encode_bytes

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
