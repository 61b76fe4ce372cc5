"""Which optimisation profile a batch is executed with: of those that take its shapes, the one made for the nearest.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .signature import Profile, Range, Shape


def choose(profiles: Iterable[Profile], shapes: Mapping[str, Shape], values: Mapping[str, Shape]) -> Profile:
    """`shapes` are the inputs', whole; `values` what shape tensors hold. Of two that are as near the first counts.

    Raises InvalidArgument, with what the last profile refuses, where none takes them.
    """
    best: Profile | None = None
    least = 0
    reason = "the instance has no optimization profile"
    for profile in profiles:
        refused = misfit(profile, shapes, values)
        if refused:
            reason = refused
            continue
        far = distance(profile, shapes, values)
        if best is None or far < least:
            best, least = profile, far
    if best is None:
        raise InvalidArgument(reason)
    return best


def misfit(profile: Profile, shapes: Mapping[str, Shape], values: Mapping[str, Shape]) -> str:
    """Why the profile does not take these; empty if it does."""
    for name, shape in shapes.items():
        refused = _outside("shape of dimension", profile.shapes[name], shape)
        if refused:
            return f"request specifies invalid shape for input '{name}': {refused}"
    for name, value in values.items():
        known = profile.values.get(name)
        refused = _outside("shape value at index", known, value) if known is not None else ""
        if refused:
            return f"request specifies invalid shape value for input '{name}': {refused}"
    return ""


def distance(profile: Profile, shapes: Mapping[str, Shape], values: Mapping[str, Shape]) -> int:
    """How far they are from what the profile is best at."""
    far = sum(_distance(profile.shapes[name].optimal, shape) for name, shape in shapes.items())
    return far + sum(
        _distance(profile.values[name].optimal, value) for name, value in values.items() if name in profile.values
    )


def _distance(optimal: Shape, given: Shape) -> int:
    return sum(abs(best - size) for best, size in zip(optimal, given, strict=True))


def _outside(what: str, known: Range, given: Shape) -> str:
    if len(given) != len(known.lowest):
        return f"model expected {len(known.lowest)} dimensions but received {len(given)}"
    for index, (low, size, high) in enumerate(zip(known.lowest, given, known.highest, strict=True)):
        if not low <= size <= high:
            return f"model expected the {what} {index} to be between {low} and {high} but received {size}"
    return ""
