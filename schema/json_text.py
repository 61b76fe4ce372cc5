"""JSON text to Python values in the protocol's dialect, and the protocol's words for what is wrong with it.

The dialect is RFC 8259 plus `NaN`, `Infinity`, `Inf` and their negatives. Integers outside [-2^63, 2^64) come out as
floats, so that no accessor takes them for integers. Where a member is repeated the protocol takes the first, and the
parsers, which are fast, the last: who reads with `read_first`, or looks with `first_of`, gets the protocol's.
Bytes that are not UTF-8 are refused, except in strings under a member named `data`: tensors carry bytes, and such a
string holds them as lone surrogates (`surrogateescape`).
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import orjson
import rapidjson

from .fault import InvalidArgument, MalformedRequest
from .json_pairs import FirstDecoder, Pairs, PairsDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

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
MEMBER = re.compile(rb'"[ \t\r\n]*:')
"""Where a member's name ends; and more than that only in a string that has an escape."""
_DOUBLE = re.compile(rb"[0-9][.eE]")
_LONG_INTEGER = re.compile(rb"[0-9]{19}")
_RAPIDJSON_MESSAGE = re.compile(r"Parse error at offset ([0-9]+): (.*)", re.DOTALL)
_STAND_INS = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
"""Private characters that stand for the surrogates of single bytes while a parser that knows only UTF-8 looks."""
_SURROGATES = {stand_in: surrogate for surrogate, stand_in in _STAND_INS.items()}
_ANY_STAND_IN = re.compile("[\U0010ff80-\U0010ffff]")


def read_json(text: Buffer) -> Any:
    """The value that `text` spells, with the last of repeated members. Raises MalformedRequest with the reason and the
    byte offset, and InvalidArgument when arrays and objects nest so deep that a parser might exhaust its stack."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _read_dialect(bytes(text))


def read_first(text: Buffer) -> Any:
    """The same with the first of repeated members."""
    return first_of(text, read_json(text))


def first_of(text: Buffer, value: Any) -> Any:
    """`value`, which `read_json` made of `text`, itself; or what the text spells with the first of each member, if
    one is repeated."""
    plain = bytes(text)
    return _read_dialect(plain, _loads_first) if _may_repeat(plain, value) else value


def read_pairs(text: Buffer, value: Any) -> Pairs | None:
    """The members of the object in `text` as they come, if any is repeated anywhere in it; `value` is what `read_json`
    made of it. Objects within are Pairs too."""
    plain = bytes(text)
    if not _may_repeat(plain, value):
        return None
    pairs = _read_dialect(plain, _loads_pairs)
    return pairs if type(pairs) is Pairs else None


def depth_exceeded() -> InvalidArgument:
    return InvalidArgument(f"JSON nesting depth exceeds maximum allowed limit ({DEPTH_MAX})")


def _may_repeat(text: bytes, value: Any) -> bool:
    """False if no member is repeated: then there are as many names as members. A name has a colon behind it; strings
    that look like one may only be taken for more."""
    count = _member_count(value)
    return text.count(b":") != count and len(MEMBER.findall(text)) != count


def _member_count(value: Any) -> int:
    """Of all objects in a value, but those in arrays that begin with something else."""
    count = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            count += len(item)
            waiting += [member for member in item.values() if type(member) in (dict, list)]
        elif type(item) is list and item and type(item[0]) in (dict, list):
            waiting += item
    return count


def _read_dialect(text: bytes, loads: Callable[[bytes], Any] | None = None) -> Any:
    """By `loads`, if it must be that parser."""
    if _depth(text) > _DOCUMENT_DEPTH_MAX:
        raise depth_exceeded()
    if text.startswith(b"\xef\xbb\xbf"):
        text = b"   " + text[3:]
    try:
        text.decode()
    except UnicodeDecodeError as problem:
        return _read_with_stray_bytes(text, problem.start, loads)
    return _parse(text, loads)


def _depth(text: bytes) -> int:
    """How deep arrays and objects nest, strings left out. Cheap when there are too few brackets to matter."""
    if text.count(b"[") + text.count(b"{") <= _DOCUMENT_DEPTH_MAX:
        return 0
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    return int(_STEP[np.frombuffer(brackets, np.uint8)].cumsum().max(initial=0))


def _parse(text: bytes, loads: Callable[[bytes], Any] | None) -> Any:
    try:
        value = _loads_rounded(text)
        if loads is None and _DOUBLE.search(text) is not None:
            loads = _loads_exact
        if loads is not None:
            value = loads(text)
            if _LONG_INTEGER.search(text) is not None:
                value = _without_long_integers(value)
        return value
    except rapidjson.JSONDecodeError as problem:
        found = _RAPIDJSON_MESSAGE.match(str(problem))
        reason, offset = (found[2], int(found[1])) if found else (str(problem), 0)
    # Each stand-in took four bytes for one.
    offset -= 3 * len(_ANY_STAND_IN.findall(text[:offset].decode("utf-8", "ignore")))
    # The reference server words a raw control character this way, where newer parsers speak of encoding.
    _refuse(reason.replace("Invalid encoding in string.", "Invalid escape character in string."), offset)


def _refuse(reason: str, offset: int) -> NoReturn:
    raise MalformedRequest(f"failed to parse the request JSON buffer: {reason} at {offset}")


_loads_rounded = partial(rapidjson.loads, number_mode=rapidjson.NM_NAN | rapidjson.NM_NATIVE)
"""Finds every fault, but gets the last bit of some doubles wrong."""
_loads_exact = partial(rapidjson.loads, number_mode=rapidjson.NM_NAN)
"""Knows neither numbers too large for a double nor integers too long for 64 bits."""
_loads_first = FirstDecoder(number_mode=rapidjson.NM_NAN)
_loads_pairs = PairsDecoder(number_mode=rapidjson.NM_NAN)
"""The same with the first of repeated members, and with all of them."""


def _without_long_integers(value: Any) -> Any:
    if type(value) is int:
        return value if -(2**63) <= value < 2**64 else float(value)
    if type(value) is list:
        return [_without_long_integers(item) for item in value]
    if type(value) is Pairs:
        return Pairs([(key, _without_long_integers(item)) for key, item in value])
    if type(value) is dict:
        return {key: _without_long_integers(item) for key, item in value.items()}
    return value


def _read_with_stray_bytes(text: bytes, offset: int, loads: Callable[[bytes], Any] | None) -> Any:
    """The value of a text with bytes that are not UTF-8, the first of them at `offset`."""
    characters = text.decode("utf-8", "surrogateescape")
    if _ANY_STAND_IN.search(characters):
        _refuse("Invalid encoding in string.", offset)
    value = _parse(characters.translate(_STAND_INS).encode(), loads)
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
    if type(value) in (dict, Pairs):
        return type(value)(
            [
                (_with_surrogates(key, in_data), _with_surrogates(item, in_data or key == "data"))
                for key, item in (value.items() if type(value) is dict else value)
            ]
        )
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


def as_unsigned(value: Any, prefix: str = "") -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise wrong_type("unsigned-integer", prefix)
    return value


def wrong_type(wanted: str, prefix: str = "") -> MalformedRequest:
    """The complaint that a value is not a `wanted`."""
    found = "number" if wanted == "double" else wanted
    return MalformedRequest(f"{prefix}attempt to access JSON non-{found} as {wanted}")
