"""Which ensembles ask a model: noted when what they are made of changes, so that nobody looks at all models for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.ensemble.graph import members

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .reading import Reading


class Asking:
    """By what clients call the models. For the trio thread."""

    def __init__(self) -> None:
        self._askers: dict[str, dict[str, None]] = {}
        """What is asked -> the identifiers of the ensembles that ask it."""
        self._asked: dict[str, set[str]] = {}
        """An ensemble's identifier -> what it asks."""

    def note(self, name: str, readings: Iterable[Reading | None]) -> None:
        """A model serves, or is to serve, these readings and no others; `name` is its identifier."""
        asked = {part for reading in readings if reading is not None for part in members(reading.config)}
        before = self._asked.pop(name, set())
        if asked:
            self._asked[name] = asked
        for part in before - asked:
            askers = self._askers[part]
            del askers[name]
            if not askers:
                del self._askers[part]
        for part in asked - before:
            self._askers.setdefault(part, {})[name] = None

    def ensembles(self, client_name: str) -> list[str]:
        """Those that serve, or are to serve, and have a step of that name."""
        return list(self._askers.get(client_name, ()))
