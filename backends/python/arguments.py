"""What models pass to `pb_utils`, checked where it is passed, as the reference's compiled module does: TypeError."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from ...schema.text import encodable

INT64 = (-(2**63), 2**63 - 1)
UINT64 = (0, 2**64 - 1)
UINT32 = (0, 2**32 - 1)


def text(function: str, name: str, value: object) -> str:
    """`value` where a str belongs; bytes are one in UTF-8. Raises TypeError for all else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise TypeError(f"{function}(): expected {name} to be a str, got bytes that are not UTF-8") from None
    raise TypeError(f"{function}(): expected {name} to be a str, got {type(value)}")


def message(function: str, value: object) -> str:
    """The same for a text that people read: what UTF-8 cannot have is replaced."""
    return encodable(value if type(value) is str else text(function, "message", value))


def number(function: str, name: str, value: Any, limits: tuple[int, int]) -> int:
    """`value` where an integer belongs, of numpy's too. Raises TypeError for all else and beyond the limits."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{function}(): expected {name} to be an int, got {type(value)}") from None
    low, high = limits
    if not low <= found <= high:
        raise TypeError(f"{function}(): expected {name} to be an int from {low} to {high}")
    return found


def sequence(function: str, name: str, value: object) -> Sequence[Any]:
    """`value` where a list belongs. Raises TypeError for what is none, a str included."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return value
    raise TypeError(f"{function}(): expected {name} to be a list, got {type(value)}")
