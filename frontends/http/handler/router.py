"""Which handler answers which path. The table is the protocol's; paths are matched as received, undecoded.

request ──path──▶ Route ──restricted? 403──▶ method? 405 ──▶ handler(request, Match)
             └──no route: 404
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ....schema.fault import NotFound, NotLoaded, Restricted
from ....schema.kserve_http_reply import encode_error
from ..request.request import TEXT
from ..request.verbose import VERBOSITY, log_request
from .postponed import postpone
from .problems import reply_fault, reply_problem
from .routes import Match

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import trio

    from ....engine.port.caller import Caller
    from ...restricted import Category
    from ..request.request import HttpRequest
    from ..settings import HttpSettings
    from .routes import Route

_MATCHES_MAX: Final = 1024
_PATH_BYTES_MAX: Final = 512


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
        if VERBOSITY.is_high:
            log_request(request)
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


async def _run_slow(
    handler: Callable[[HttpRequest, Match], Awaitable[None]], request: HttpRequest, match: Match
) -> None:
    try:
        await handler(request, match)
    except Exception as problem:
        reply_problem(request, problem, match.route.content_type)
