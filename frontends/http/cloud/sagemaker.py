"""The door of SageMaker: whether the server is well, one model to invoke, and many to load and unload.

GET  /ping          ─▶ /v2/health/ready
POST /invocations   ─▶ /v2/models/<default>/infer, generate or generate_stream
/models...          ─▶ many_models.py, in repositories of their own
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import attrs
import trio

from ....schema.fault import NotLoaded
from ...log_settings import LogSettings
from ..handler.handlers import routes_of
from ..handler.postponed import postpone
from ..handler.problems import reply_problem
from ..handler.router import Router
from ..handler.routes import Match, Route
from ..request.notes import Notes
from ..request.request import JSON, TEXT
from ..request.stand_in import StandIn
from ..server import HttpServer, serve_routing
from .infer import FormInferHandler
from .many_models import ManyModels, status_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ...access_log import AccessLog
    from ..request.request import Buffer, Field, HttpRequest
    from ..settings import HttpSettings
    from .many_models import RepositoryCaller
    from .settings import SageMakerSettings

logger = logging.getLogger("despina.http")

FORM: Final = b"application/vnd.sagemaker-triton.binary+json;json-header-size="
_MODEL: Final = "/models/(?P<model>[^/]+)"


async def serve_sagemaker(
    engine: RepositoryCaller,
    http: HttpSettings,
    settings: SageMakerSettings,
    *,
    sockets: Sequence[socket.socket],
    access_log: AccessLog | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve_http`, with the limits and restrictions of `http`."""
    limits = attrs.evolve(http, tls=None, forward_pattern="")

    def routing(nursery: trio.Nursery) -> SageMakerRouting:
        return SageMakerRouting(engine, limits, settings, nursery)

    await serve_routing(engine, limits, routing, sockets=sockets, access_log=access_log, task_status=task_status)


class SageMakerRouting:
    """Turns the request into one for the protocol's API and hands it on, or keeps the service's models itself."""

    def __init__(
        self, engine: RepositoryCaller, http: HttpSettings, settings: SageMakerSettings, nursery: trio.Nursery
    ) -> None:
        self._engine = engine
        self._infer = infer = FormInferHandler(engine, http, nursery, FORM, answers_in_form=True)
        self._many = many = ManyModels(engine)
        self._models = Router(
            engine,
            [
                Route("/models/?", "model-repository", {b"GET": many.list}, {b"POST": many.load}),
                Route(_MODEL, "model-repository", {b"GET": many.show}, {b"POST": many.load, b"DELETE": many.unload}),
                Route(f"{_MODEL}/invoke", "inference", {b"POST": self._invoke}),
            ],
            http,
            nursery,
        )
        self._single = Router(engine, routes_of(engine, http, LogSettings(), nursery, infer=infer), http, nursery)
        self._paths = {
            b"/ping": f"/v2/health/{settings.ping_mode}".encode(),
            b"/invocations": f"/v2/models/{settings.default_model}/{settings.inference_type}".encode(),
        }

    def is_probe(self, method: bytes, path: bytes) -> bool:
        return method == b"GET" and path == b"/ping"

    def handle(self, request: HttpRequest) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("SageMaker request: %s %s", request.method.decode(), request.path.decode("utf-8", "replace"))
        request.notes = Notes()  # heads that share theirs may differ in the content type, which decides here
        path = self._paths.get(request.path)
        if path is not None:
            request.path = path
            self._single.handle(request)
            return
        route = self._models.route_of(request.path)
        if route is None or not route.takes(request.method):
            request.reply(400)
        else:
            self._models.handle(request)

    def _invoke(self, request: HttpRequest, match: Match) -> None:
        model = self._many.find(match.model)
        if model is None:
            request.reply(404)
            return
        logger.info("Invoking SageMaker TargetModel: %s", model.target)
        infer: Callable[[HttpRequest, Match], None] = self._infer
        invocation = _Invocation(request)
        asked = attrs.evolve(match, model=model.target)
        try:
            infer(invocation, asked)
        except NotLoaded as fault:
            postpone(self._engine, infer, invocation, asked, fault)
        except Exception as problem:
            reply_problem(invocation, problem, JSON)


class _Invocation(StandIn):
    """Whatever fails is 400, but for want of memory."""

    __slots__ = ()

    def reply(
        self, status: int, content_type: bytes = TEXT, buffers: Sequence[Buffer] = (), fields: Sequence[Field] = ()
    ) -> None:
        if status >= 400:
            status, content_type = status_of(b"".join(buffers).decode("utf-8", "replace")), JSON
        self._request.reply(status, content_type, buffers, fields)

    def reply_and_tell(
        self,
        on_sent: Callable[[], None],
        status: int,
        content_type: bytes = TEXT,
        buffers: Sequence[Buffer] = (),
        fields: Sequence[Field] = (),
    ) -> None:
        if status >= 400:
            status, content_type = status_of(b"".join(buffers).decode("utf-8", "replace")), JSON
        self._request.reply_and_tell(on_sent, status, content_type, buffers, fields)
