"""Which argument of `forward` an input is, and which result an output: by name, by index, or in order.

| inputs                                         | are                                            |
|------------------------------------------------|------------------------------------------------|
| all named as arguments of `forward`            | those arguments                                |
| all `<name>__<index>`, `ARGS[i]`, `KWARGS[k]`  | the arguments of these indexes, or names       |
| else                                           | arguments in the configuration's order         |
| of a `forward` with one `Dict[str, Tensor]`    | its keys                                       |
| outputs, all `<name>__<index>` or `RESULT[i]`  | the results of these indexes, else in order    |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

_INDEX: Final = re.compile(r".*__(\d+)$|^(?:ARGS|RESULT)\[(\d+)\]$", re.DOTALL)
_KEY: Final = re.compile(r"^KWARGS\[(.+)\]$")


@attrs.frozen
class Arguments:
    """How `forward` is called."""

    positions: tuple[str, ...] = ()
    """Inputs by position."""
    keywords: tuple[tuple[str, str], ...] = ()
    """Argument and input."""
    is_dictionary: bool = False
    """All inputs are one dictionary."""
    is_by_order: bool = False
    """Neither names nor indexes say which is which."""


def arguments_of(names: Sequence[str], forward: Sequence[str], *, takes_dictionary: bool) -> Arguments:
    """`names` are the inputs', in the configuration's order; `forward` are the names of its arguments.

    Raises InvalidArgument for indexes that are not 0, 1, ... each once.
    """
    if takes_dictionary:
        return Arguments(is_dictionary=True)
    if names and all(name in forward for name in names):
        return Arguments(keywords=tuple((name, name) for name in names))
    keywords = {name: found[1] for name in names if (found := _KEY.match(name))}
    places = {name: index for name in names if (index := index_of(name)) is not None}
    if len(keywords) + len(places) < len(names):
        return Arguments(positions=tuple(names), is_by_order=True)
    return Arguments(_in_places(places, "input"), tuple((key, name) for name, key in keywords.items()))


def results_of(names: Sequence[str]) -> tuple[str, ...]:
    """Outputs by the position of their results; the empty name for a result that is none. Raises InvalidArgument for
    two of one index."""
    places = {name: index for name in names if (index := index_of(name)) is not None}
    if len(places) < len(names):
        return tuple(names)
    by_place = _by_place(places, "output")
    return tuple(by_place.get(place, "") for place in range(max(by_place, default=-1) + 1))


def index_of(name: str) -> int | None:
    """What the name says of its place."""
    found = _INDEX.match(name)
    return None if found is None else int(found[1] or found[2])


def _in_places(places: dict[str, int], role: str) -> tuple[str, ...]:
    by_place = _by_place(places, role)
    if sorted(by_place) != list(range(len(by_place))):
        raise InvalidArgument(f"{role}s have the indexes {sorted(by_place)}, expected each from 0 on")
    return tuple(by_place[place] for place in range(len(by_place)))


def _by_place(places: dict[str, int], role: str) -> dict[int, str]:
    by_place: dict[int, str] = {}
    for name, place in places.items():
        if place in by_place:
            raise InvalidArgument(f"{role}s '{by_place[place]}' and '{name}' have the same index")
        by_place[place] = name
    return by_place
