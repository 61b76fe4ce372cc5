"""The door of Vertex AI: two routes, named by the service. Prediction asks the default model, or whatever API a header
of the request names; everything arrives as POST there.

    GET  AIP_HEALTH_ROUTE  ─▶ /v2/health/ready
    POST AIP_PREDICT_ROUTE ─┬─▶ /v2/models/<default>/infer
                            └─▶ X-Vertex-Ai-Triton-Redirect: v2/models/other/stats
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

import attrs
import trio

from ....schema.fault import InvalidArgument, NotFound, NotLoaded, Unavailable
from ...log_settings import LogSettings
from ...patterns import compiled
from ..handler.handlers import routes_of
from ..handler.router import Router
from ..request.notes import Notes
from ..server import HttpServer, serve_routing
from .infer import FormInferHandler

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ....engine.port.caller import Caller
    from ...access_log import AccessLog
    from ..handler.routes import Route
    from ..request.request import HttpRequest
    from ..settings import HttpSettings
    from .settings import VertexAiSettings

    Page = Callable[[HttpRequest], None]

logger = logging.getLogger("despina.http")

FORM: Final = b"application/vnd.vertex-ai-triton.binary+json;json-header-size="
_REDIRECT: Final = b"x-vertex-ai-triton-redirect"
_NOT_REDIRECTED: Final = ("logging", "trace")
"""What the header cannot name."""


async def serve_vertex_ai(
    engine: Caller,
    http: HttpSettings,
    settings: VertexAiSettings,
    *,
    sockets: Sequence[socket.socket],
    access_log: AccessLog | None = None,
    open_metrics: Callable[[trio.Nursery], Page] | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve_http`, with the limits and restrictions of `http`. `open_metrics` makes the metrics page.

    Raises InvalidArgument before it starts when there is no default model: one that is named has to serve, or to load
    on request; without a name exactly one has to serve.
    """
    default = await _default_model(engine, settings.default_model)
    limits = attrs.evolve(http, tls=None, forward_pattern="")

    def routing(nursery: trio.Nursery) -> VertexAiRouting:
        page = None if open_metrics is None else open_metrics(nursery)
        return VertexAiRouting(engine, limits, settings, default, nursery, page)

    await serve_routing(engine, limits, routing, sockets=sockets, access_log=access_log, task_status=task_status)


async def _default_model(engine: Caller, name: str) -> str:
    ready = {model.name for model in await engine.index(ready_only=True)}
    if not name:
        if len(ready) != 1:
            raise InvalidArgument(
                "Expect the model repository contains only a single model if default model is not specified"
            )
        return ready.pop()
    if name not in ready and not (_loads_on_request(engine, name) and await _is_there(engine, name)):
        raise InvalidArgument(f"Expect the default model '{name}' is loaded")
    return name


def _loads_on_request(engine: Caller, name: str) -> bool:
    try:
        engine.model(name)
    except NotLoaded:
        return True
    except (NotFound, InvalidArgument, Unavailable):
        pass
    return False


async def _is_there(engine: Caller, name: str) -> bool:
    return any(model.name == name for model in await engine.index())


class VertexAiRouting:
    """Turns the request into one for the protocol's API, and hands it on."""

    def __init__(
        self,
        engine: Caller,
        http: HttpSettings,
        settings: VertexAiSettings,
        default_model: str,
        nursery: trio.Nursery,
        metrics: Page | None,
    ) -> None:
        infer = FormInferHandler(engine, http, nursery, FORM, answers_in_form=False)
        routes = [
            route for route in routes_of(engine, http, LogSettings(), nursery, infer=infer) if _may_be_redirected(route)
        ]
        self._router = Router(engine, routes, http, nursery)
        self._is_health = _matcher(settings.health_route)
        self._is_predict = _matcher(settings.predict_route)
        self._predict = f"/v2/models/{default_model}/infer".encode()
        self._metrics = metrics

    def is_probe(self, method: bytes, path: bytes) -> bool:
        return method == b"GET" and self._is_health(path)

    def handle(self, request: HttpRequest) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Vertex AI request: %s %s", request.method.decode(), request.path.decode("utf-8", "replace"))
        request.notes = Notes()  # heads that share theirs may differ in the headers that decide here
        if self._is_health(request.path):
            request.path = b"/v2/health/ready"
            self._router.handle(request)
        elif not self._is_predict(request.path):
            request.reply(400)
        elif (redirect := request.headers.get(_REDIRECT)) is None:
            request.path = self._predict
            self._router.handle(request)
        elif request.method != b"POST":
            request.reply(405)
        else:
            self._redirect(request, b"/" + redirect)

    def _redirect(self, request: HttpRequest, path: bytes) -> None:
        request.path = path
        if path == b"/metrics" and self._metrics is not None:
            request.method = b"GET"
            self._metrics(request)
            return
        route = self._router.route_of(path)
        if route is None:
            request.reply(400)
            return
        if not route.takes(b"POST"):
            request.method = b"GET"
        self._router.handle(request)


def _may_be_redirected(route: Route) -> bool:
    return (
        route.category not in _NOT_REDIRECTED
        and route.pattern.startswith("/v2")
        and not route.pattern.endswith(("/generate", "/generate_stream"))
    )


def _matcher(route: str) -> Callable[[bytes], bool]:
    """Whether a path is `route`, or the whole of what it matches as a regular expression."""
    pattern = re.compile(compiled(route).pattern.encode())
    literal = route.encode()
    return lambda path: path == literal or pattern.fullmatch(path) is not None
