"""Which handler answers which path. The table is the protocol's; paths are matched as received, undecoded.

request ──path──▶ Route ──restricted? 403──▶ method? 405 ──▶ handler(request, Match)
             └──no route: 404
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

import attrs

from ....engine.port.concerns import about
from ....schema.fault import InvalidArgument, NotFound, NotLoaded, Restricted
from ....schema.inference import LATEST
from ....schema.kserve_http_reply import encode_error
from ..request.request import JSON, TEXT, HttpRequest
from .postponed import postpone
from .problems import reply_fault, reply_problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import trio

    from ....engine.port.caller import Caller
    from ...restricted import Category
    from ..settings import HttpSettings

logger = logging.getLogger("despina.http")

_MATCHES_MAX: Final = 1024
_PATH_BYTES_MAX: Final = 512
_METHOD_NUMBERS: Final = {
    name: number
    for number, name in enumerate(
        b"GET HEAD POST PUT DELETE MKCOL COPY MOVE OPTIONS PROPFIND PROPPATCH LOCK UNLOCK TRACE CONNECT PATCH".split()
    )
}


@attrs.frozen
class Match:
    """A route and what its path said."""

    route: Route
    model: str = ""
    repository: str = ""
    _version: int | None = LATEST
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
        version = self._version
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


class Router:
    """Takes every request of a server to its handler. `handle` never raises and never blocks."""

    def __init__(self, engine: Caller, routes: Sequence[Route], settings: HttpSettings, nursery: trio.Nursery) -> None:
        self._engine = engine
        self._routes = [(re.compile(route.pattern.encode() + rb"\Z"), route) for route in routes]
        self._restricted = settings.restricted
        self._nursery = nursery
        self._matches: dict[bytes, Match] = {}
        """Paths that matched lately. Bounded: clients choose them."""

    def handle(self, request: HttpRequest) -> None:
        """Answers `request`, or starts what will."""
        if logger.isEnabledFor(logging.DEBUG):
            number = _METHOD_NUMBERS.get(request.method, len(_METHOD_NUMBERS))
            path = request.path.decode("utf-8", "replace")
            logger.debug("HTTP request: %d %s", number, path, extra=about(told=request))
        notes = request.notes
        if notes.handler is not None:
            try:
                notes.handler(request, notes.match)
            except NotLoaded as fault:
                postpone(self._engine, notes.handler, request, notes.match, fault)
            except Exception as problem:
                reply_problem(request, problem, notes.match.route.content_type)
            return
        match = self._matches.get(request.path) or self._match(request.path)
        if match is None:
            reply_fault(request, NotFound("Not Found"), TEXT)
            return
        route = match.route
        if self._restricted and not self._may_pass(request, route.category):
            return
        handler = route.handlers.get(request.method)
        if handler is not None:
            notes.handler, notes.match = handler, match
            try:
                handler(request, match)
            except NotLoaded as fault:
                postpone(self._engine, handler, request, match, fault)
            except Exception as problem:
                reply_problem(request, problem, route.content_type)
            return
        slow_handler = route.slow_handlers.get(request.method)
        if slow_handler is not None:
            self._nursery.start_soon(_run_slow, slow_handler, request, match)
        else:
            request.reply(405, route.content_type, [encode_error("Method Not Allowed")])

    def route_of(self, path: bytes) -> Route | None:
        match = self._matches.get(path) or self._match(path)
        return None if match is None else match.route

    def is_probe(self, method: bytes, path: bytes) -> bool:
        """Whether a request asks for health, and nothing else."""
        route = self.route_of(path)
        return route is not None and route.category == "health" and route.takes(method)

    def _match(self, path: bytes) -> Match | None:
        for pattern, route in self._routes:
            found = pattern.match(path)
            if found is not None:
                match = Match.of(route, found.groupdict())
                if len(path) <= _PATH_BYTES_MAX:
                    if len(self._matches) >= _MATCHES_MAX:
                        self._matches.clear()
                    self._matches[path] = match
                return match
        return None

    def _may_pass(self, request: HttpRequest, category: Category) -> bool:
        key = self._restricted.get(category)
        if key is None or request.headers.get(key[0].lower()) == key[1]:
            return True
        name = key[0].decode("latin-1")
        reply_fault(request, Restricted(f"This API is restricted, expecting header '{name}'"), TEXT)
        return False


def _text(part: bytes | None) -> str:
    return (part or b"").decode("utf-8", "replace")


async def _run_slow(
    handler: Callable[[HttpRequest, Match], Awaitable[None]], request: HttpRequest, match: Match
) -> None:
    try:
        await handler(request, match)
    except Exception as problem:
        reply_problem(request, problem, match.route.content_type)
