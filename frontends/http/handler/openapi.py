"""The HTTP API described: `/openapi.json`, made from the table of routes, and `/docs`, which shows it.

Route.pattern ──templates_of──▶ paths ─┬─▶ OpenAPI 3.1
OPERATIONS (openapi_operations.py) ────┤
schemas (openapi_schemas.py) ──────────┘
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..request.request import JSON, HttpRequest
from .openapi_operations import ERROR_TYPES, OPERATIONS, Operation, contents
from .openapi_schemas import schemas
from .routes import Match, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....engine.port.caller import Caller

HTML: Final = b"text/html; charset=utf-8"
_PAGE: Final = Path(__file__).resolve().parent / "openapi_page.html"

_REASONS: Final = {
    400: "The request, or something in it, is not acceptable; or the server or model does not serve",
    403: "The API is restricted, and the key is missing or wrong",
    404: "There is no such model, version or region, or a part of the path has another form",
    500: "The JSON does not parse or a member has another type; or the server or model failed",
    501: "Not supported here",
    503: "Not now: overload, a model that is not loaded, or a server that is leaving",
    504: "The request's own time was over",
}
_COMMON: Final = (400, 403, 503)
"""The faults that every operation can have."""
_ABOUT: Final = (
    "The inference protocol of KServe, version 2, with the extensions of Triton. Paths are matched as received: "
    "percent escapes in them are not decoded. The body of every fault is a JSON object with the member "
    "`error`, whatever its content type says. Other methods than those listed get 405. Beneath the operations, HTTP "
    "itself is refused with 400, 408 (too slow) or 431 (head too large), and the connection is "
    "closed."
)
_PARAMETERS: Final[dict[str, Any]] = {
    "model": {"schema": {"type": "string", "pattern": "^[^/]+$"}, "description": "The model's name."},
    "version": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "The model's version."},
    "region": {"schema": {"type": "string", "pattern": "^[^/]+$"}, "description": "The region's name."},
    "repository": {"schema": {"type": "string", "pattern": "^[^/]+$"}, "description": "The repository's name."},
}


def description_routes(engine: Caller, described: Sequence[Route]) -> list[Route]:
    """The document about `described` and about itself, and its page."""
    doors = _Handlers(engine)
    own = [
        Route(r"/openapi\.json", "metadata", {b"GET": doors.document}),
        Route("/docs", "metadata", {b"GET": doors.page}),
    ]
    doors.described = [*described, *own]
    return own


class _Handlers:
    """Both answers are made when they are first asked for, and kept."""

    def __init__(self, engine: Caller) -> None:
        self._engine = engine
        self._document = b""
        self._page = b""
        self.described: Sequence[Route] = ()

    def document(self, request: HttpRequest, match: Match) -> None:
        if not self._document:
            self._document = orjson.dumps(openapi_document(self.described, self._engine.metadata().version))
        request.reply(200, JSON, [self._document])

    def page(self, request: HttpRequest, match: Match) -> None:
        # A file of the package and a few KiB long.
        self._page = self._page or _PAGE.read_bytes()
        request.reply(200, HTML, [self._page])


def openapi_document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The document as a JSON-like value. Raises KeyError for a method of a route that nothing describes."""
    paths: dict[str, Any] = {}
    for route in routes:
        templates = templates_of(route.pattern)
        for method in (*route.handlers, *route.slow_handlers):
            described = OPERATIONS[method.decode(), templates[0]]
            for template in templates:
                paths.setdefault(template, {})[method.decode().lower()] = _operation(
                    described, route, template, templates[0]
                )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Despina", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {
                str(status): {"description": reason, "content": ERROR_TYPES} for status, reason in _REASONS.items()
            },
        },
    }


def templates_of(pattern: str) -> list[str]:
    """The paths that a route's pattern matches, groups as `{name}`; those with the fewest groups first.

    Knows what the patterns of the table are made of: text, named groups, and groups that are optional or a choice.
    """
    found, end = _expand(pattern, 0)
    assert end == len(pattern), pattern
    return sorted(found, key=lambda template: template.count("{"))


def _expand(pattern: str, at: int) -> tuple[list[str], int]:
    """What the pattern matches from `at` up to the end of the group, or of all."""
    choices: list[str] = []
    current = [""]
    while at < len(pattern) and pattern[at] != ")":
        parts = [pattern[at]]
        if pattern.startswith("(?P<", at):
            parts = ["{" + pattern[at + 4 : pattern.index(">", at)] + "}"]
            at = pattern.index(")", at)
        elif pattern.startswith("(?:", at):
            parts, at = _expand(pattern, at + 3)
            if pattern[at + 1 : at + 2] == "?":
                parts = ["", *parts]
                at += 1
        elif pattern[at] == "\\":
            at += 1
            parts = [pattern[at]]
        elif pattern[at] == "|":
            choices += current
            current, parts = [""], [""]
        at += 1
        current = [before + part for before in current for part in parts]
    return choices + current, at


def _operation(described: Operation, route: Route, template: str, shortest: str) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", template)
    added = [name for name in names if f"{{{name}}}" not in shortest]
    parameters = [{"name": name, "in": "path", "required": True, **_PARAMETERS[name]} for name in names]
    operation: dict[str, Any] = {
        "operationId": "_of_".join([described.name, *added]),
        "summary": described.summary,
        "tags": [route.category],
        "parameters": [*parameters, *described.parameters],
        "responses": _responses(described, names),
    }
    if described.description:
        operation["description"] = described.description
    if described.body:
        operation["requestBody"] = {"required": described.body_required, "content": contents(described.body)}
    return operation


def _responses(described: Operation, names: Sequence[str]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if described.succeeds or "region" in names:
        answer: dict[str, Any] = {"description": "Done"}
        responses["200"] = answer
        if described.answer:
            answer["content"] = contents(described.answer)
        if described.answer_headers:
            answer["headers"] = described.answer_headers
    for status in sorted({*_COMMON, *described.statuses, *((404,) if names else ())}):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    if described.failure:
        responses["400"] = {"description": _REASONS[400], "content": {**ERROR_TYPES, **contents(described.failure)}}
    return responses
