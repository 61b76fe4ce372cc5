"""The trace extension: what is traced, shown and changed, for all models or one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from ....schema.fault import MalformedRequest
from ....schema.json_text import as_string, read_first
from ...trace_changes import NUMBERS, levels_of, number_of, refuse_file
from ..request.request import JSON, HttpRequest
from .routes import Match, Route

if TYPE_CHECKING:
    from ....engine.port.caller import Caller
    from ....engine.port.settings import TraceChanges


def trace_routes(engine: Caller) -> list[Route]:
    doors = _Handlers(engine)
    return [
        Route(
            "(?:/v2/models/(?P<model>[^/]+)|/v2)/trace/setting",
            "trace",
            {b"GET": doors.show, b"POST": doors.change},
        )
    ]


class _Handlers:
    """What they raise, the router answers."""

    def __init__(self, engine: Caller) -> None:
        self._tracer = engine.tracer

    def show(self, request: HttpRequest, match: Match) -> None:
        shown = self._tracer.shown(match.model)
        # Every value is a string, but for the levels.
        document = {name: list(values) if name == "trace_level" else values[0] for name, values in shown.items()}
        request.reply(200, JSON, [orjson.dumps(document)])

    def change(self, request: HttpRequest, match: Match) -> None:
        """Null takes a setting back to what it follows; unknown members are ignored. Answers with what holds now."""
        self._tracer.check_model(match.model)
        document = read_first(request.body)
        wanted = document if isinstance(document, dict) else {}
        if "trace_file" in wanted:
            raise refuse_file()
        changes: TraceChanges = {}
        if "trace_level" in wanted:
            names = wanted["trace_level"]
            if names is not None and not isinstance(names, list):
                raise MalformedRequest("attempt to access JSON non-array as array")
            changes["level"] = None if names is None else levels_of([as_string(name) for name in names])
        for name, field in NUMBERS.items():
            if name in wanted:
                value = wanted[name]
                changes[field] = None if value is None else number_of(name, as_string(value))
        self._tracer.change(changes, match.model)
        self.show(request, match)
