"""What stands for the engine where a listener has none behind it, as the metrics page's."""

from __future__ import annotations


class Alone:
    """Passes that start nothing."""

    def begin_pass(self, *, is_alone: bool = False) -> None:
        """Nothing follows that could share a batch."""

    def end_pass(self) -> None:
        """Nothing was started."""
