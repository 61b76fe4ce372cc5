"""Where a model's own modules come from: what an instance needs of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


class Imports(Protocol):
    """Where a model's modules are found and live."""

    asker: object
    """What its model asks other models with, while it may."""

    def load(self, file: Path) -> ModuleType:
        """Executes the model's own file. Raises whatever it raises."""
        ...

    def close(self) -> None: ...
