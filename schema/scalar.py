"""Ranges of the protobuf number types, and what a number becomes when a field of that type holds it."""

from __future__ import annotations

import math
import struct

INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "enum": (-(2**31), 2**31 - 1),
}
"""Inclusive bounds by type. Enums are open: a number without a name is kept."""

FLOATS = frozenset({"float", "double"})


def to_float(kind: str, value: float) -> float:
    """`value` as a field of type `kind` keeps it: a `float` is rounded to 32 bits and overflows to infinity."""
    if kind == "double" or not math.isfinite(value):
        return value
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded
