"""The one table of tensor datatypes: protocol name, configuration name and number, numpy dtype, bytes per element."""

from __future__ import annotations

import sys

import attrs
import numpy as np


@attrs.frozen
class DataType:
    name: str
    """As the protocol spells it: `INT32`, `BYTES`."""
    config_name: str
    """As config.pbtxt spells it: `TYPE_INT32`, `TYPE_STRING`."""
    number: int
    """The enum number in ModelConfig."""
    dtype: np.dtype[np.generic]
    """Element type of arrays. BYTES is `object`; BF16, which numpy lacks, is its bit pattern in `uint16`."""
    byte_size: int
    """Bytes per element, 0 for BYTES, whose elements carry their own length."""


def _row(name: str, number: int, dtype: str, byte_size: int) -> DataType:
    config_name = "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"
    return DataType(name, config_name, number, np.dtype(dtype), byte_size)


TABLE: tuple[DataType, ...] = (
    _row("BOOL", 1, "?", 1),
    _row("UINT8", 2, "u1", 1),
    _row("UINT16", 3, "<u2", 2),
    _row("UINT32", 4, "<u4", 4),
    _row("UINT64", 5, "<u8", 8),
    _row("INT8", 6, "i1", 1),
    _row("INT16", 7, "<i2", 2),
    _row("INT32", 8, "<i4", 4),
    _row("INT64", 9, "<i8", 8),
    _row("FP16", 10, "<f2", 2),
    _row("FP32", 11, "<f4", 4),
    _row("FP64", 12, "<f8", 8),
    _row("BYTES", 13, "O", 0),
    _row("BF16", 14, "<u2", 2),
)

BY_NAME: dict[str, DataType] = {row.name: row for row in TABLE}
BY_CONFIG_NAME: dict[str, DataType] = {row.config_name: row for row in TABLE}
BY_NUMBER: dict[int, DataType] = {row.number: row for row in TABLE}

NUMBER_CODES: dict[str, str] = {
    row.name: row.dtype.char
    for row in TABLE
    if row.dtype.kind in "iuf" and row.name not in ("FP16", "BF16") and sys.byteorder == "little"
}
"""Of the types whose elements are numbers also to Python: what `array` and `memoryview` call them."""

_BY_DTYPE: dict[np.dtype[np.generic], str] = {row.dtype: row.name for row in TABLE if row.name != "BF16"}


def name_of_dtype(dtype: np.dtype[np.generic]) -> str | None:
    """The protocol name for a numpy dtype, or None. Strings of any width and objects are BYTES."""
    found = _BY_DTYPE.get(dtype)
    if found is None:
        if dtype.kind in "SUO":
            return "BYTES"
        found = _BY_DTYPE.get(dtype.newbyteorder("<"))
    return found
