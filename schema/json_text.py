"""JSON text to Python values in the protocol's dialect, and the protocol's words for what is wrong with it.

The dialect is RFC 8259 plus `NaN`, `Infinity`, `Inf` and their negatives. Integers outside [-2^63, 2^64) come out as
floats, so that no accessor takes them for integers. Where a member is repeated, the last one counts.
Bytes that are not UTF-8 are refused, except in strings under a member named `data`: tensors carry bytes, and such a
string holds them as lone surrogates (`surrogateescape`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import orjson
import rapidjson

from .fault import InvalidArgument, MalformedRequest

if TYPE_CHECKING:
    from .tensor import Buffer

DEPTH_MAX = 100
"""Arrays inside arrays that one tensor's data may have."""

_DOCUMENT_DEPTH_MAX = DEPTH_MAX + 3
"""The deepest legal data lies in an input, in `inputs`, in the document."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = np.zeros(256, np.int32)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1
_RAPIDJSON_MESSAGE = re.compile(r"Parse error at offset ([0-9]+): (.*)", re.DOTALL)
_STAND_INS = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
"""Private characters that stand for the surrogates of single bytes while a parser that knows only UTF-8 looks."""
_SURROGATES = {stand_in: surrogate for surrogate, stand_in in _STAND_INS.items()}
_ANY_STAND_IN = re.compile("[\U0010ff80-\U0010ffff]")


def read_json(text: Buffer) -> Any:
    """The value that `text` spells. Raises MalformedRequest with the reason and the byte offset, and InvalidArgument
    when arrays and objects nest so deep that a parser might exhaust its stack."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _read_dialect(bytes(text))


def depth_exceeded() -> InvalidArgument:
    return InvalidArgument(f"JSON nesting depth exceeds maximum allowed limit ({DEPTH_MAX})")


def _read_dialect(text: bytes) -> Any:
    if _depth(text) > _DOCUMENT_DEPTH_MAX:
        raise depth_exceeded()
    if text.startswith(b"\xef\xbb\xbf"):
        text = b"   " + text[3:]
    try:
        text.decode()
    except UnicodeDecodeError as problem:
        return _read_with_stray_bytes(text, problem.start)
    return _parse(text)


def _depth(text: bytes) -> int:
    """How deep arrays and objects nest, strings left out. Cheap when there are too few brackets to matter."""
    if text.count(b"[") + text.count(b"{") <= _DOCUMENT_DEPTH_MAX:
        return 0
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    return int(_STEP[np.frombuffer(brackets, np.uint8)].cumsum().max(initial=0))


def _parse(text: bytes) -> Any:
    try:
        return rapidjson.loads(text, number_mode=rapidjson.NM_NAN | rapidjson.NM_NATIVE)
    except rapidjson.JSONDecodeError as problem:
        found = _RAPIDJSON_MESSAGE.match(str(problem))
        reason, offset = (found[2], int(found[1])) if found else (str(problem), 0)
    # Each stand-in took four bytes for one.
    offset -= 3 * len(_ANY_STAND_IN.findall(text[:offset].decode("utf-8", "ignore")))
    # The reference server words a raw control character this way, where newer parsers speak of encoding.
    _refuse(reason.replace("Invalid encoding in string.", "Invalid escape character in string."), offset)


def _refuse(reason: str, offset: int) -> NoReturn:
    raise MalformedRequest(f"failed to parse the request JSON buffer: {reason} at {offset}")


def _read_with_stray_bytes(text: bytes, offset: int) -> Any:
    """The value of a text with bytes that are not UTF-8, the first of them at `offset`."""
    characters = text.decode("utf-8", "surrogateescape")
    if _ANY_STAND_IN.search(characters):
        _refuse("Invalid encoding in string.", offset)
    value = _parse(characters.translate(_STAND_INS).encode())
    try:
        return _with_surrogates(value, in_data=False)
    except UnicodeError:
        _refuse("Invalid encoding in string.", offset)


def _with_surrogates(value: Any, in_data: bool) -> Any:
    """`value` with the stand-ins replaced. Raises UnicodeError for one outside of tensor data."""
    if type(value) is str:
        if _ANY_STAND_IN.search(value) is None:
            return value
        if not in_data:
            raise UnicodeError
        return value.translate(_SURROGATES)
    if type(value) is list:
        return [_with_surrogates(item, in_data) for item in value]
    if type(value) is dict:
        return {
            _with_surrogates(key, in_data): _with_surrogates(item, in_data or key == "data")
            for key, item in value.items()
        }
    return value


# Accessors. Each returns the value with its type known, or raises MalformedRequest with `prefix` before the
# protocol's text: `Unable to parse 'id': attempt to access JSON non-string as string`.


def member(value: Any, name: str, prefix: str = "") -> Any:
    """The member `name` of an object; missing when `value` is no object at all."""
    if type(value) is not dict or name not in value:
        raise MalformedRequest(f"{prefix}attempt to access non-existing object member '{name}'")
    return value[name]


def members(value: Any, prefix: str = "") -> dict[str, Any]:
    if type(value) is not dict:
        raise MalformedRequest(f"{prefix}attempt to get members for non-object")
    return value


def as_object(value: Any, prefix: str = "") -> dict[str, Any]:
    if type(value) is not dict:
        raise wrong_type("object", prefix)
    return value


def as_array(value: Any, prefix: str = "") -> list[Any]:
    if type(value) is not list:
        raise wrong_type("array", prefix)
    return value


def as_string(value: Any, prefix: str = "") -> str:
    if type(value) is not str:
        raise wrong_type("string", prefix)
    return value


def as_boolean(value: Any, prefix: str = "") -> bool:
    if type(value) is not bool:
        raise wrong_type("boolean", prefix)
    return value


def as_signed(value: Any, prefix: str = "") -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise wrong_type("signed-integer", prefix)
    return value


def as_unsigned(value: Any, prefix: str = "") -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise wrong_type("unsigned-integer", prefix)
    return value


def as_number(value: Any, prefix: str = "") -> float:
    if type(value) is not float and type(value) is not int:
        raise wrong_type("double", prefix)
    return float(value)


def wrong_type(wanted: str, prefix: str = "") -> MalformedRequest:
    """The complaint that a value is not a `wanted`."""
    found = "number" if wanted == "double" else wanted
    return MalformedRequest(f"{prefix}attempt to access JSON non-{found} as {wanted}")
