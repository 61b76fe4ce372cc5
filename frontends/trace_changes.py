"""The trace extension's texts as values, for both doors: numbers are read as the protocol reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from ..schema.fault import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.port.settings import TraceLevel

NumberName = Literal["trace_rate", "trace_count", "log_frequency"]
NUMBERS: Final[dict[NumberName, Literal["rate", "count", "log_frequency"]]] = {
    "trace_rate": "rate",
    "trace_count": "count",
    "log_frequency": "log_frequency",
}
"""Protocol name -> field, in the order in which they are looked at."""

_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_RANGES: Final = {"rate": (0, 2**32 - 1), "count": (-1, 2**31 - 1), "log_frequency": (0, 2**32 - 1)}


def number_of(name: NumberName, text: str, *, separator: str = "") -> int:
    """The number that `text` begins with; what follows it is ignored, as the protocol has it.

    Raises InvalidArgument. `separator` stands before the value in one of the texts, in which the doors differ.
    """
    found = _NUMBER.match(text)
    if found is None:
        raise InvalidArgument(f"Unable to parse '{name}', got: {text}")
    digits = found.group(1)
    least, most = _RANGES[NUMBERS[name]]
    number = int(digits) if len(digits) <= 20 else most + 1
    if name == "trace_count" and -(2**31) <= number < least:
        raise InvalidArgument(f"Unable to parse '{name}'. Expecting value >= -1, got:{separator}{text}")
    if not least <= number <= most:
        raise InvalidArgument(f"Unable to parse '{name}', value is out of range [ {least}, {most} ], got: {text}")
    return number


def levels_of(names: Sequence[str]) -> tuple[TraceLevel, ...]:
    """The levels among these names; others are ignored. Raises InvalidArgument for OFF with company."""
    if "OFF" in names and len(names) > 1:
        raise InvalidArgument("Expect only one trace level 'OFF' is specified")
    found: list[TraceLevel] = []
    if "TIMESTAMPS" in names:
        found.append("TIMESTAMPS")
    if "TENSORS" in names:
        found.append("TENSORS")
    return tuple(found)


def refuse_file() -> Unsupported:
    return Unsupported("trace file location can not be updated through network protocol")
