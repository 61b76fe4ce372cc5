"""The generation: a number that whoever remembers earlier requests compares before it uses what it remembers.

    a model is loaded, unloaded, swapped ─┬─▶ `bump()` ─┬─ `number` is another one: what was remembered is void
    traces are switched on ───────────────┘             └─ each keeper lets go, so that nothing void stays in memory

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

    __slots__ = ("_keepers", "number")

    def __init__(self) -> None:
        self.number = 0
        """Never twice the same."""
        self._keepers: WeakSet[Keeper] = WeakSet()

    def keep(self, keeper: Keeper) -> None:
        """Tells `keeper`, which is held weakly, when the present generation is over, once."""
        self._keepers.add(keeper)

    def bump(self) -> None:
        """Something has changed that may have gone into what is remembered. The only place where `number` moves."""
        self.number += 1
        keepers, self._keepers = list(self._keepers), WeakSet()
        for keeper in keepers:
            keeper.let_go()
