"""The JSON form of a configuration: read strictly, written as the model configuration API answers it."""

from __future__ import annotations

import difflib
import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn

import rapidjson

from .fault import InvalidArgument
from .message_type import FieldType, enum_name, enum_names, fields_of
from .scalar import FLOATS, INTEGER_RANGES, to_float
from .wire.generated.inference import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    import betterproto2

SIZE_MAX = 16 << 20
"""Characters of one text."""

_STRING_64_BIT = frozenset({"initial_state.dims", "secondary_devices.device_id", "input.dim"})
"""The 64-bit fields that the protocol writes as strings, which is proto3's rule; it makes numbers of all others."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def config_to_json(config: ModelConfig) -> bytes:
    """Every field in the order of declaration, defaults included; sub-messages and oneof members only when set. An
    empty configuration is an empty body."""
    return _write_message(config, "").encode() if bytes(config) else b""


def config_from_json(text: str | bytes) -> ModelConfig:
    """The configuration that a JSON object writes, by proto3's rules: names in snake_case or camelCase, enums by name
    in any case or by number, 64-bit numbers as strings or numbers, null as unset.

    Raises InvalidArgument that names the member at fault: an unknown or repeated one, a value of another type, a number
    out of range.
    """
    if len(text) > SIZE_MAX:
        raise InvalidArgument(f"the model configuration has {len(text)} characters, the limit is {SIZE_MAX}")
    try:
        parsed = json.loads(
            text, object_pairs_hook=_unique, parse_float=_Number, parse_int=_Number, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise InvalidArgument("the model configuration is nested too deep") from None
    except ValueError as error:
        raise InvalidArgument(f"the model configuration is not JSON: {error}") from None
    values = _read_fields(parsed, "ModelConfig", fields_of(ModelConfig), "")
    return ModelConfig(**values)


# Writing.


def _write_message(message: betterproto2.Message, path: str) -> str:
    members: list[str] = []
    # Scalar members of a oneof come last: they are no part of the defaults that are laid out first.
    ordered = sorted(fields_of(type(message)).items(), key=lambda item: item[1].is_optional_scalar)
    for name, field in ordered:
        value = getattr(message, field.attribute)
        if value is None:
            continue
        where = f"{path}.{name}"
        if field.entry is not None:
            item = field.entry["value"]
            # JSON's keys are strings, whatever the map's.
            entries = (f"{_text(str(key))}:{_write_value(item, element, where)}" for key, element in value.items())
            members.append(f"{_text(name)}:{{{','.join(entries)}}}")
        elif field.repeated:
            elements = (_write_value(field, element, where) for element in value)
            members.append(f"{_text(name)}:[{','.join(elements)}]")
        else:
            members.append(f"{_text(name)}:{_write_value(field, value, where)}")
    return f"{{{','.join(members)}}}"


def _write_value(field: FieldType, value: Any, path: str) -> str:
    if field.message is not None:
        return _write_message(value, path)
    if field.kind == "string":
        return _text(value)
    if field.kind == "bool":
        return "true" if value else "false"
    if field.enum is not None:
        member = field.enum(value)
        name = enum_name(member)
        return _text(name) if name else str(int(member))
    if field.kind in FLOATS:
        return _write_float(field.kind, value)
    if field.kind in ("int64", "uint64") and ".".join(path.split(".")[-2:]) in _STRING_64_BIT:
        return f'"{value}"'
    return str(value)


def _text(value: str) -> str:
    written: str = rapidjson.dumps(value, ensure_ascii=False)
    return written


def _write_float(kind: str, value: float) -> str:
    """A number as the reference server prints it. Its floats pass through two printers: protobuf's, with the fewest of
    6 or 9 (15 or 17) digits that read back the same, and rapidjson's, which prints what it read of that: an integer
    when there was neither point nor exponent."""
    if not math.isfinite(value):
        return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
    few, many = (6, 9) if kind == "float" else (15, 17)
    short = f"{value:.{few}g}"
    if to_float(kind, float(short)) != value:
        short = f"{value:.{many}g}"
    if short.lstrip("-").isdigit():
        return str(int(short))
    digits, exponent = _shortest(float(short))
    sign = "-" if value < 0 else ""
    point = len(digits) + exponent
    if 0 < point <= 21:
        whole = digits[:point].ljust(point, "0")
        return f"{sign}{whole}.{digits[point:] or '0'}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1}"


def _shortest(value: float) -> tuple[str, int]:
    """The fewest digits that are this number, and the power of ten of the last of them."""
    number = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(number.exponent, int), "the number is finite"
    return "".join(map(str, number.digits)), number.exponent


# Reading.


class _Number(str):
    """A JSON number, as written: only the field knows what it is to become."""

    __slots__ = ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"member '{twice[:64]}' is given twice")
    return members


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _read_fields(parsed: Any, owner: str, fields: Mapping[str, FieldType], path: str) -> dict[str, Any]:
    if not isinstance(parsed, dict):
        raise InvalidArgument(f"{path or owner}: expected an object, found {_kind(parsed)}")
    by_name = {field.json_name: field for field in fields.values()} | dict(fields)
    values: dict[str, Any] = {}
    oneofs: dict[str, str] = {}
    for name, item in parsed.items():
        field = by_name.get(name)
        if field is None:
            near = difflib.get_close_matches(name[:64], fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InvalidArgument(f"{path or owner}: unknown field '{name[:64]}'{hint}")
        where = f"{path}.{field.name}" if path else field.name
        if field.attribute in values:
            raise InvalidArgument(f"{where}: given twice, in snake_case and in camelCase")
        if item is None:
            continue
        if field.oneof is not None and oneofs.setdefault(field.oneof, field.name) != field.name:
            raise InvalidArgument(f"{where}: excludes '{oneofs[field.oneof]}', which is set too")
        values[field.attribute] = _read_field(item, field, where)
    return values


def _read_field(item: Any, field: FieldType, path: str) -> Any:
    if field.entry is not None:
        if not isinstance(item, dict):
            raise InvalidArgument(f"{path}: expected an object, found {_kind(item)}")
        key, value = field.entry["key"], field.entry["value"]
        return {
            _read_value(name if key.kind == "string" else _Number(name), key, path): _read_value(
                element, value, f"{path}['{name[:64]}']"
            )
            for name, element in item.items()
        }
    if field.repeated:
        if not isinstance(item, list):
            raise InvalidArgument(f"{path}: expected a list, found {_kind(item)}")
        return [_read_value(element, field, f"{path}[{index}]") for index, element in enumerate(item)]
    return _read_value(item, field, path)


def _read_value(item: Any, field: FieldType, path: str) -> Any:
    if field.message is not None:
        return field.message(**_read_fields(item, field.message.__name__, fields_of(field.message), path))
    if field.kind == "bool":
        if isinstance(item, bool):
            return item
        raise InvalidArgument(f"{path}: expected true or false, found {_kind(item)}")
    if field.kind == "string":
        if isinstance(item, str) and not isinstance(item, _Number):
            return _checked_text(item, path)
        raise InvalidArgument(f"{path}: expected a string, found {_kind(item)}")
    if field.enum is not None and isinstance(item, str) and not isinstance(item, _Number):
        names = enum_names(field.enum)
        number = names.get(item.upper())
        if number is None:
            raise InvalidArgument(f"{path}: expected one of {', '.join(names)}, found '{item[:64]}'")
        return field.enum(number)
    if not isinstance(item, str):
        raise InvalidArgument(f"{path}: expected a number, found {_kind(item)}")
    if field.kind in FLOATS:
        return _read_float(item, field, path)
    number = _read_integer(item, field, path)
    return number if field.enum is None else field.enum(number)


def _checked_text(item: str, path: str) -> str:
    try:
        item.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{path}: the string has half of a surrogate pair") from None
    return item


def _read_integer(item: str, field: FieldType, path: str) -> int:
    low, high = INTEGER_RANGES[field.kind]
    try:
        # 1.0 and 1e3 are integers to proto3; the length keeps the arithmetic cheap.
        number = Decimal(item) if _NUMBER.fullmatch(item) and len(item) < 64 else None
    except InvalidOperation:  # pragma: no cover (the pattern admits nothing that Decimal refuses)
        number = None
    if number is None or number != number.to_integral_value() or not low <= number <= high:
        raise InvalidArgument(f"{path}: expected an integer from {low} to {high}, found {item[:64]}")
    return int(number)


def _read_float(item: str, field: FieldType, path: str) -> float:
    if not isinstance(item, _Number) and item in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[item]
    if _NUMBER.fullmatch(item):
        number = to_float(field.kind, float(item))
        if math.isfinite(number):
            return number
    raise InvalidArgument(f"{path}: expected a number that fits a {field.kind}, found '{item[:64]}'")


def _kind(item: Any) -> str:
    if item is None:
        return "null"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, _Number):
        return f"the number {item[:64]}"
    return "an object" if isinstance(item, dict) else "a list" if isinstance(item, list) else "a string"
