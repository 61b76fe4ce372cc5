"""What stands for the engine where a listener has none behind it, as the metrics page's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.port.caller import Keeper


class Alone:
    """Passes that start nothing, and a generation in which nobody keeps anything."""

    def __init__(self) -> None:
        self.number = 0

    def keep(self, keeper: Keeper) -> None:
        """Nothing is remembered of models that are not there."""

    def bump(self) -> None:
        """Something has changed."""
        self.number += 1

    def begin_pass(self, *, is_alone: bool = False) -> None:
        """Nothing follows that could share a batch."""

    def end_pass(self) -> None:
        """Nothing was started."""
