"""Requests for models that load on request: they wait, without a task, and are handled again from the beginning.

handler ──NotLoaded──▶ engine.when_loaded ──┬─▶ handled again
                                            ├─▶ its fault is the reply
                                            └─▶ the client leaves: nobody waits any more
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ....schema.fault import Fault, NotLoaded
from .problems import reply_fault, reply_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.caller import Caller
    from ..request.request import HttpRequest
    from .routes import Match

    Handler = Callable[[HttpRequest, Match], None]


def postpone(engine: Caller, handler: Handler, request: HttpRequest, match: Match, fault: NotLoaded) -> None:
    """Has `handler` called again once the model is loaded. Never raises."""
    if request.is_gone:
        return
    again = partial(_again, engine, handler, request, match)
    try:
        waiting = engine.when_loaded(fault.model_name, again)
    except Exception as problem:
        reply_problem(request, problem, match.route.content_type)
        return
    request.when_gone(waiting.cancel)


def _again(engine: Caller, handler: Handler, request: HttpRequest, match: Match, fault: Fault | None) -> None:
    request.when_gone(None)
    if fault is not None:
        reply_fault(request, fault, match.route.content_type)
        return
    try:
        handler(request, match)
    except NotLoaded as problem:
        postpone(engine, handler, request, match, problem)
    except Exception as problem:
        reply_problem(request, problem, match.route.content_type)
