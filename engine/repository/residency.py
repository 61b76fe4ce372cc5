"""Which models give way so that another one finds room. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@attrs.frozen
class Budget:
    """What may be loaded at one time; 0 for no bound."""

    models: int = 0
    bytes: int = 0

    @property
    def is_bounded(self) -> bool:
        return bool(self.models or self.bytes)

    def has_room(self, residents: Collection[Resident], byte_size: int) -> bool:
        """For one model more, of that size."""
        if self.models and len(residents) >= self.models:
            return False
        return not self.bytes or sum(resident.byte_size for resident in residents) + byte_size <= self.bytes


@attrs.frozen
class Resident:
    """One model that takes up room."""

    name: str
    byte_size: int
    used_ns: int
    """When it was last used, on any one clock."""
    may_go: bool
    """Nobody uses it, and it comes back when somebody asks for it."""


def to_evict(residents: Sequence[Resident], byte_size: int, budget: Budget) -> list[str] | None:
    """Who goes so that a model of that size finds room: who was used least lately first, and nobody in vain. None if
    there is no room for it even when all have gone who may."""
    staying = sorted(residents, key=lambda resident: resident.used_ns, reverse=True)
    gone: list[Resident] = []
    for resident in reversed(staying[:]):
        if budget.has_room(staying, byte_size):
            break
        if resident.may_go:
            staying.remove(resident)
            gone.append(resident)
    if not budget.has_room(staying, byte_size):
        return None
    for resident in reversed(gone[:]):  # a small one that went before a large one may have gone for nothing
        if budget.has_room([*staying, resident], byte_size):
            staying.append(resident)
            gone.remove(resident)
    return [resident.name for resident in gone]
