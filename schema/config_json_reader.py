"""A configuration from JSON, as protobuf's reader takes it: what a load may give instead of config.pbtxt."""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Any, Final

from .fault import InvalidArgument
from .lenient_json import JsonNumber, JsonObject, parse_json
from .message_type import FieldType, enum_names, fields_of
from .scalar import FLOATS, INTEGER_RANGES, to_float
from .wire.generated.inference import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIZE_MAX: Final = 16 << 20
"""Characters of one text."""

DIGITS_MAX: Final = 400
"""Characters of one number: as many as a double can need."""

_TRUTH: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}
_SPECIAL_FLOATS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def config_from_json(text: str | bytes) -> ModelConfig:
    """The configuration that a JSON object writes, by protobuf's rules.

    Names in snake_case or camelCase; enums by name in any case, or by number; numbers and truth as strings, too; a
    value where a list is meant, lists in lists; null as unset. What is given again counts anew, is added to a list, or
    is merged into a message. See `lenient_json` for the syntax.

    Raises InvalidArgument that names the member at fault: an unknown one, a value of another type, a number out of
    range, two members of a oneof.
    """
    if len(text) > SIZE_MAX:
        raise InvalidArgument(f"the model configuration has {len(text)} characters, the limit is {SIZE_MAX}")
    try:
        parsed = parse_json(text if isinstance(text, str) else text.decode())
    except ValueError as error:
        raise InvalidArgument(f"the model configuration is not JSON: {error}") from None
    return ModelConfig(**_read_fields(parsed, "ModelConfig", fields_of(ModelConfig), ""))


def _read_fields(parsed: Any, owner: str, fields: Mapping[str, FieldType], path: str) -> dict[str, Any]:
    if not isinstance(parsed, JsonObject):
        raise InvalidArgument(f"{path or owner}: expected an object, found {_kind(parsed)}")
    by_name = {field.json_name: field for field in fields.values()} | dict(fields)
    given: dict[str, list[Any]] = {}
    """What each field was given, in order, except null."""
    for name, item in parsed:
        field = by_name.get(name)
        if field is None:
            near = difflib.get_close_matches(name[:64], fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InvalidArgument(f"{path or owner}: unknown field '{_shown(name)}'{hint}")
        if item is not None:
            given.setdefault(field.name, []).append(item)
    values: dict[str, Any] = {}
    oneofs: dict[str, str] = {}
    for name, items in given.items():
        field = fields[name]
        where = f"{path}.{name}" if path else name
        if field.oneof is not None:
            if len(items) > 1:
                raise InvalidArgument(f"{where}: is given twice")
            if oneofs.setdefault(field.oneof, name) != name:
                raise InvalidArgument(f"{where}: excludes '{oneofs[field.oneof]}', which is set too")
        values[field.attribute] = _read_field(items, field, where)
    return values


def _read_field(items: list[Any], field: FieldType, path: str) -> Any:
    if field.entry is not None:
        return _read_map(items, field.entry, path)
    if field.repeated:
        return [_read_value(item, field, f"{path}[{index}]") for index, item in enumerate(_flat(items))]
    if field.message is not None and len(items) > 1:
        objects = [item if isinstance(item, JsonObject) else JsonObject() for item in items]
        for item in items:
            _read_value(item, field, path)
        items = [JsonObject(member for one in objects for member in one)]
    return [_read_value(item, field, path) for item in items][-1]


def _read_map(items: list[Any], entry: Mapping[str, FieldType], path: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for item in items:
        if not isinstance(item, JsonObject):
            raise InvalidArgument(f"{path}: expected an object, found {_kind(item)}")
        names: set[str] = set()
        for name, element in item:
            where = f"{path}['{_shown(name)}']"
            if name in names:
                raise InvalidArgument(f"{where}: is given twice")
            names.add(name)
            key = _read_value(name, entry["key"], path)
            found[key] = _unset(entry["value"]) if element is None else _read_value(element, entry["value"], where)
    return found


def _flat(items: list[Any]) -> Sequence[Any]:
    """The elements of all lists, of lists in them, and what stands there without a list; null is no element."""
    found: list[Any] = []
    waiting = items[::-1]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list) and not isinstance(item, JsonObject):
            waiting.extend(reversed(item))
        elif item is not None:
            found.append(item)
    return found


def _unset(field: FieldType) -> Any:
    """What null stands for in a map."""
    return field.message() if field.message is not None else "" if field.kind == "string" else 0


def _read_value(item: Any, field: FieldType, path: str) -> Any:
    if field.message is not None:
        return field.message(**_read_fields(item, field.message.__name__, fields_of(field.message), path))
    is_text = isinstance(item, str) and not isinstance(item, JsonNumber)
    if field.kind == "bool":
        truth = item if isinstance(item, bool) else _TRUTH.get(item.lower()) if is_text else None
        if truth is None:
            raise InvalidArgument(f"{path}: expected true or false, found {_kind(item)}")
        return truth
    if field.kind == "string":
        if is_text:
            return _checked_text(item, path)
        raise InvalidArgument(f"{path}: expected a string, found {_kind(item)}")
    if not isinstance(item, str):
        raise InvalidArgument(f"{path}: expected a number, found {_kind(item)}")
    if field.enum is not None:
        return _read_enum(item, field, path)
    return _read_float(item, field, path) if field.kind in FLOATS else _read_integer(item, field, path)


def _read_enum(item: str, field: FieldType, path: str) -> Any:
    assert field.enum is not None
    if isinstance(item, JsonNumber):
        return field.enum(_read_integer(item, field, path))  # the wire may carry numbers that have no name
    names = enum_names(field.enum)
    number = names.get(item.upper().replace("-", "_"))
    if number is None and _INTEGER.fullmatch(item) and len(item) <= DIGITS_MAX:
        number = int(item)
    if number is None or number not in names.values():
        raise InvalidArgument(f"{path}: expected one of {', '.join(names)}, found '{_shown(item)}'")
    return field.enum(number)


def _checked_text(item: str, path: str) -> str:
    try:
        item.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{path}: the string has half of a surrogate pair") from None
    return item


def _read_integer(item: str, field: FieldType, path: str) -> int:
    low, high = INTEGER_RANGES[field.kind]
    number: float | None = None
    if len(item) <= DIGITS_MAX:
        if _INTEGER.fullmatch(item):
            number = int(item)
        elif isinstance(item, JsonNumber):  # 8.0 and 1e3 are integers; as a string they are none
            number = float(item)
    if number is None or not low <= number <= high or number != int(number):
        raise InvalidArgument(f"{path}: expected an integer from {low} to {high}, found {_shown(item)}")
    return int(number)


def _read_float(item: str, field: FieldType, path: str) -> float:
    if not isinstance(item, JsonNumber) and item in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[item]
    if len(item) <= DIGITS_MAX and (isinstance(item, JsonNumber) or _DECIMAL.fullmatch(item)):
        number = to_float(field.kind, float(item))
        if math.isfinite(number):
            return number
    raise InvalidArgument(f"{path}: expected a number that fits a {field.kind}, found '{_shown(item)}'")


def _kind(item: Any) -> str:
    if item is None:
        return "null"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, JsonNumber):
        return f"the number {_shown(item)}"
    return "an object" if isinstance(item, JsonObject) else "a list" if isinstance(item, list) else "a string"


def _shown(text: str) -> str:
    """As much of a client's text as a complaint repeats, without halves of surrogate pairs."""
    return text[:64].encode(errors="replace").decode()
