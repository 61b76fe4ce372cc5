"""The table of routes: a row, and what a path says that leads to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ....schema.fault import InvalidArgument
from ....schema.inference import LATEST
from ..request.request import JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ...restricted import Category
    from ..request.request import HttpRequest


@attrs.frozen
class Match:
    """A route and what its path said."""

    route: Route
    model: str = ""
    repository: str = ""
    number: int | None = LATEST
    """The version: LATEST if the path names none, None beyond int64."""
    _version_text: str = ""
    region: str = ""
    """Of shared memory."""

    @classmethod
    def of(cls, route: Route, parts: Mapping[str, bytes | None]) -> Match:
        """`parts` are the pattern's named groups."""
        text = _text(parts.get("version"))
        version = LATEST if not text else int(text) if len(text) <= 19 and int(text) < 2**63 else None
        model, repository, region = (_text(parts.get(name)) for name in ("model", "repository", "region"))
        return cls(route, model, repository, version, text, region)

    def version(self) -> int:
        """LATEST if the path names none. Raises InvalidArgument for a number beyond int64."""
        version = self.number
        if version is None:
            raise InvalidArgument(
                f"failed to get model version from specified version string '{self._version_text}' (details: stol), "
                "version should be an integral value > 0"
            )
        return version


@attrs.frozen(eq=False)
class Route:
    """One row of the table. `pattern` matches the whole path; of several routes that match, the first counts."""

    pattern: str
    category: Category
    handlers: Mapping[bytes, Callable[[HttpRequest, Match], None]] = attrs.field(factory=dict)
    """By method. A handler answers now or later, and may raise."""
    slow_handlers: Mapping[bytes, Callable[[HttpRequest, Match], Awaitable[None]]] = attrs.field(factory=dict)
    """Those that wait: each request runs in a task of its own."""
    content_type: bytes = JSON
    """Of the errors that the handler raises."""

    def takes(self, method: bytes) -> bool:
        return method in self.handlers or method in self.slow_handlers


def _text(part: bytes | None) -> str:
    return (part or b"").decode("utf-8", "replace")
