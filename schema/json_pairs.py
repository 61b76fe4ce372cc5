"""Objects of JSON whose members may be repeated, and the parser that keeps them apart."""

from __future__ import annotations

from typing import Any

import rapidjson


class Pairs(list[tuple[str, Any]]):
    """An object's members as they come."""

    def first(self) -> dict[str, Any]:
        """Of each name the first."""
        return dict(reversed(self))

    def as_first(self) -> list[tuple[str, Any]]:
        """The members as they come, each with the value that its name has first."""
        first = self.first()
        return [(name, first[name]) for name, _ in self]


class PairsDecoder(rapidjson.Decoder):
    """Objects are Pairs."""

    def start_object(self) -> list[tuple[str, Any]]:
        return []

    def end_object(self, pairs: list[tuple[str, Any]]) -> Any:
        return Pairs(pairs)


class FirstDecoder(PairsDecoder):
    """Objects are dicts with the first of each member."""

    def end_object(self, pairs: list[tuple[str, Any]]) -> Any:
        return Pairs(pairs).first()
