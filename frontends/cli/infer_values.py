"""Tensors as people write them on a command line, and as they like to read them.

NAME=1,2,3            elements; the shape comes from the model
NAME=[[1,2],[3,4]]    JSON; nested lists give the shape
NAME=@picture.npy     a numpy array
NAME=@values.json     JSON, as above
NAME=@-               standard input, read as a file
NAME=@file            the file's bytes: one element of a BYTES input, else the raw little-endian elements
NAME:2x3=...          any of them with the shape given
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ...schema.datatype import BY_NAME
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class BadInput(Exception):
    """An input that cannot be sent; the text names it and says what was expected."""


def split_input(text: str) -> tuple[str, list[int] | None, str]:
    """`NAME[:SHAPE]=VALUE` as name, shape and value. Raises BadInput."""
    head, equals, value = text.partition("=")
    name, shape = head, None
    sized = re.fullmatch(r"(.+):([0-9]+(?:x[0-9]+)*)", head)
    if sized:
        name, shape = sized[1], [int(size) for size in sized[2].split("x")]
    if not equals or not name:
        raise BadInput(f"--input is NAME=VALUE or NAME=@FILE, got '{text}'")
    return name, shape, value


def tensor_of(name: str, datatype: str, expected: Sequence[int], value: str, shape: list[int] | None) -> Tensor:
    """The tensor that `value` stands for. `expected` is the model's shape with -1 for any. Raises BadInput."""
    if datatype not in BY_NAME:
        raise BadInput(f"input '{name}': the model wants datatype {datatype}, which is not known here")
    try:
        array = _array(datatype, value)
    except (OSError, ValueError, OverflowError, TypeError) as error:
        raise BadInput(f"input '{name}': {error}") from None
    if shape is None and array.ndim == len(expected) and _fits(array.shape, expected):
        shape = list(array.shape)
    if shape is None:
        shape = _filled(expected, array.size)
    if shape is None or math.prod(shape) != array.size:
        wanted = shape or list(expected)
        raise BadInput(
            f"input '{name}': expected shape {wanted}, got {array.size} elements of shape {list(array.shape)}; "
            f"a shape may be given as --input {name}:2x3=..."
        )
    return Tensor.of(name, array.reshape(shape), datatype)


def text_of(tensor: Tensor) -> str:
    """A heading with name, datatype and shape, and the elements; long tensors are shortened."""
    array = tensor.numpy()
    if tensor.datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    shape = "x".join(str(size) for size in tensor.shape) or "scalar"
    if tensor.datatype == "BYTES":
        shown = [_readable(item) for item in array.ravel()[:100]]
        body = "\n".join(f"  {item}" for item in shown)
        if array.size > 100:
            body += f"\n  ... {array.size - 100} more"
    else:
        body = np.array2string(array, separator=", ", threshold=200, prefix="  ", max_line_width=110)
        body = f"  {body}"
    return f"{tensor.name}: {tensor.datatype} {shape}\n{body}"


def plain(tensor: Tensor) -> Any:
    """The elements as JSON values; bytes that are no text are shown escaped."""
    array = tensor.numpy()
    if tensor.datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if tensor.datatype == "BYTES":
        return [item.decode("utf-8", "backslashreplace") for item in array.ravel()]
    return array.ravel().tolist()


def converted(datatype: str, array: np.ndarray) -> np.ndarray:
    """Elements of the protocol's type. Raises ValueError for what the type cannot hold."""
    if datatype == "BYTES":
        return array
    if array.dtype == object or array.dtype.kind in "SUV":
        raise ValueError(f"expected numbers in rows of one length for {datatype}")
    if datatype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2")
    kind = BY_NAME[datatype].dtype
    if kind.kind in "iu":
        if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
            raise ValueError(f"expected integers for {datatype}")
        bounds = np.iinfo(kind.str)
        if array.size and not (bounds.min <= int(array.min()) and int(array.max()) <= bounds.max):
            raise ValueError(f"expected {bounds.min} to {bounds.max} for {datatype}")
    return array.astype(kind)


def _array(datatype: str, value: str) -> np.ndarray:
    if value.startswith("@"):
        path = Path(value[1:])
        if path.suffix == ".npy":
            return converted(datatype, np.load(path, allow_pickle=False))
        data = sys.stdin.buffer.read() if value == "@-" else path.read_bytes()
        if path.suffix == ".json":
            return _from_json(datatype, data)
        if datatype == "BYTES":
            return np.array([data], dtype=object)
        kind = BY_NAME[datatype]
        if len(data) % kind.byte_size:
            raise ValueError(f"{path} has {len(data)} bytes, which is no multiple of {datatype}'s {kind.byte_size}")
        return np.frombuffer(data, kind.dtype)
    if value.startswith("["):
        return _from_json(datatype, value)
    if datatype == "BYTES":
        return np.array([item.encode() for item in value.split(",")], dtype=object)
    return converted(datatype, np.array([_scalar(datatype, item.strip()) for item in value.split(",")]))


def _from_json(datatype: str, text: str | bytes) -> np.ndarray:
    try:
        items = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"bad JSON: {error}") from None
    items = items if isinstance(items, list) else [items]
    return converted(datatype, np.array(items, dtype=object if datatype == "BYTES" else None))


def _scalar(datatype: str, text: str) -> bool | int | float:
    if datatype == "BOOL":
        if text.lower() in ("true", "1"):
            return True
        if text.lower() in ("false", "0"):
            return False
        raise ValueError(f"expected true or false, got '{text}'")
    is_float = datatype in ("FP16", "BF16", "FP32", "FP64")
    try:
        return float(text) if is_float else int(text)
    except ValueError:
        raise ValueError(f"expected {'a number' if is_float else 'an integer'}, got '{text}'") from None


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return all(wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True))


def _filled(expected: Sequence[int], count: int) -> list[int] | None:
    """The model's shape with its last -1 as large as needed and every other -1 as 1; None if nothing fits."""
    shape = list(expected)
    free = [index for index, size in enumerate(shape) if size == -1]
    for index in free:
        shape[index] = 1
    rest = math.prod(shape)
    if free and rest and count % rest == 0:
        shape[free[-1]] = count // rest
    return shape if math.prod(shape) == count else None


def _readable(item: bytes) -> str:
    try:
        text = item.decode()
    except UnicodeDecodeError:
        return repr(item)
    return text if text.isprintable() else repr(text)
