"""The JSON form of a configuration, as the model configuration API answers it. `config_json_reader` reads it."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import rapidjson

from .message_type import FieldType, enum_name, fields_of
from .scalar import FLOATS, to_float

if TYPE_CHECKING:
    import betterproto2

    from .wire.generated.inference import ModelConfig

_STRING_64_BIT = frozenset({"initial_state.dims", "secondary_devices.device_id", "input.dim"})
"""The 64-bit fields that the protocol writes as strings, which is proto3's rule; it makes numbers of all others."""


def config_to_json(config: ModelConfig) -> bytes:
    """Every field in the order of declaration, defaults included; sub-messages and oneof members only when set. An
    empty configuration is an empty body."""
    return _write_message(config, "").encode() if bytes(config) else b""


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
