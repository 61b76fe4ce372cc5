"""The generation: for how long what is remembered of earlier requests holds.

    a model is loaded, unloaded, swapped ─┬─▶ `bump()` ──▶ each keeper lets go of what it remembers
    traces are switched on ───────────────┘

What a door's settings say (keys, forwarded headers, limits) is frozen while it serves, so it is part of every
generation. Whoever makes one of them changeable bumps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from ..port.caller import Keeper


class Generation:
    """One for each engine; on the trio thread only."""

    __slots__ = ("_keepers",)

    def __init__(self) -> None:
        self._keepers: WeakSet[Keeper] = WeakSet()

    def keep(self, keeper: Keeper) -> None:
        """Tells `keeper`, which is held weakly, when the present generation is over, once."""
        self._keepers.add(keeper)

    def bump(self) -> None:
        """Something has changed that may have gone into what is remembered."""
        keepers, self._keepers = list(self._keepers), WeakSet()
        for keeper in keepers:
            keeper.let_go()
