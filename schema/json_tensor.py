"""The `data` array of a JSON input to the wire form of its elements.

Nesting is flattened depth first and not compared with the shape. Integers wrap to their width without a word, doubles
too large for FP32 become infinite; both are the protocol's.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from .datatype import BY_NAME, NUMBER_CODES
from .fault import Fault, InvalidArgument, MalformedRequest
from .json_text import DEPTH_MAX, as_array, depth_exceeded, wrong_type
from .large_json import LongNumbers, filled

if TYPE_CHECKING:
    from .tensor import Buffer

_PARSE_DATA = "Unable to parse 'data': "
_WRONG_COUNT = f"{_PARSE_DATA}Shape does not match true shape of 'data' field"
_INTEGER_WORD = {"u": "unsigned-integer", "i": "signed-integer"}


def encode_json_data(name: str, datatype: str, element_count: int, data: Any, byte_size_max: int) -> Buffer:
    """The wire form of `data`, the JSON value of input `name`, whose shape promises `element_count` elements; or what
    stands for it where it is long.

    BYTES elements are not counted here: the engine does that. Raises InvalidArgument for datatypes that JSON cannot
    carry, for too deep nesting and for more than `byte_size_max` bytes, MalformedRequest for elements of the wrong
    type or number.
    """
    if element_count == 0:
        return b""
    if type(data) is LongNumbers:
        wire = _encode_long(name, datatype, element_count, data, byte_size_max)
        if wire is not None:
            return wire
        data = data.whole()
    as_array(data, _PARSE_DATA)
    kind = BY_NAME.get(datatype)
    if kind is None:
        raise InvalidArgument(f"invalid datatype for input {name}")
    if datatype in ("FP16", "BF16"):
        raise InvalidArgument(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    _check_size(name, element_count * kind.byte_size, byte_size_max)
    elements, kinds = _flatten(data)
    if datatype == "BYTES":
        return _encode_strings(name, elements, kinds, byte_size_max)
    surplus = len(elements) > element_count
    if surplus:
        # The first fault in the order of the elements is the one to tell.
        elements = elements[:element_count]
        kinds = set(map(type, elements))
    wire = _encode_numbers(elements, kinds, kind.dtype)
    if surplus or len(elements) < element_count:
        raise MalformedRequest(_WRONG_COUNT)
    return wire


def _encode_long(name: str, datatype: str, element_count: int, data: LongNumbers, byte_size_max: int) -> Buffer | None:
    """The same in pieces; None where anything is wrong, which who has it all finds again, in the right order."""
    kind = BY_NAME.get(datatype)
    if kind is None or datatype in ("FP16", "BF16", "BYTES") or element_count * kind.byte_size > byte_size_max:
        return None
    dtype = kind.dtype
    try:
        return filled(
            data, element_count, dtype, lambda elements: _encode_numbers(*_flatten(elements, data.depth), dtype)
        )
    except (Fault, ValueError):
        return None


def encode_json_text(name: str, datatype: str, element_count: int, text: bytes, byte_size_max: int) -> Buffer | None:
    """As `encode_json_data`, for the array that `text` spells in JSON; None where anything is wrong with that, which
    only the whole document's reader can tell in the right order."""
    try:
        elements = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    code = NUMBER_CODES.get(datatype)
    try:
        if code is not None and len(elements) == element_count and b"e" not in text:  # neither `true` nor `false`
            # It checks all other kinds, and ranges, as it takes the elements.
            wire = array(code, elements).tobytes()
            if len(wire) <= byte_size_max:
                return wire
    except (TypeError, OverflowError):
        pass  # nested, or wrapped to its width
    try:
        return encode_json_data(name, datatype, element_count, elements, byte_size_max)
    except Fault:
        return None


def too_large(what: str, byte_size: int, byte_size_max: int) -> Fault:
    """The refusal of a tensor that the option `--http-max-input-size` keeps out."""
    return InvalidArgument(
        f"{what} has a byte_size ({byte_size} bytes) that exceeds the maximum allowed value of {byte_size_max} bytes. "
        "Use --http-max-input-size to increase the limit."
    )


def _check_size(name: str, byte_size: int, byte_size_max: int) -> None:
    if byte_size > byte_size_max:
        raise too_large(f"JSON input '{name}'", byte_size, byte_size_max)


def _flatten(data: list[Any], depth: int = 1) -> tuple[list[Any], set[type]]:
    """The elements depth first, and their types, of a list that is so deep itself. Levels that are lists throughout are
    peeled off whole."""
    if depth > DEPTH_MAX:
        raise depth_exceeded()
    while list in (kinds := set(map(type, data))):
        if len(kinds) > 1:
            data = _flatten_ragged(data, depth)
            return data, set(map(type, data))
        data = data[0] if len(data) == 1 else list(chain.from_iterable(data))
        depth += 1
        if depth > DEPTH_MAX:
            raise depth_exceeded()
    return data, kinds


def _flatten_ragged(data: list[Any], depth: int) -> list[Any]:
    """The elements of a level where lists and others are mixed, itself `depth` deep."""
    elements: list[Any] = []
    levels = [iter(data)]
    while levels:
        for item in levels[-1]:
            if type(item) is list:
                levels.append(iter(item))
                break
            elements.append(item)
        else:
            levels.pop()
        if depth + len(levels) - 1 > DEPTH_MAX:
            raise depth_exceeded()
    return elements


def _encode_numbers(elements: list[Any], kinds: set[type], dtype: np.dtype[np.generic]) -> bytes:
    if dtype.kind == "b":
        if kinds - {bool}:
            raise wrong_type("boolean", _PARSE_DATA)
        return bytes(elements)
    if dtype.kind == "f":
        if kinds - {int, float}:
            raise wrong_type("double", _PARSE_DATA)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.fromiter(elements, np.float64, len(elements)).astype(dtype).tobytes()
    word = _INTEGER_WORD[dtype.kind]
    if kinds - {int} or (dtype.kind == "u" and elements and min(elements) < 0):
        raise wrong_type(word, _PARSE_DATA)
    try:
        widest = np.fromiter(elements, np.uint64 if dtype.kind == "u" else np.int64, len(elements))
    except OverflowError:
        raise wrong_type(word, _PARSE_DATA) from None
    return widest.astype(dtype).tobytes()


def _encode_strings(name: str, elements: list[Any], kinds: set[type], byte_size_max: int) -> bytes:
    if kinds - {str}:
        raise wrong_type("string", "Unable to parse JSON bytes array: ")
    parts: list[bytes] = []
    for element in elements:
        text = element.encode("utf-8", "surrogateescape")
        parts.append(len(text).to_bytes(4, "little"))
        parts.append(text)
    wire = b"".join(parts)
    _check_size(name, len(wire), byte_size_max)
    return wire
