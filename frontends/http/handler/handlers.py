"""The routes besides inference: health, metadata, configuration, statistics, and the repository's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....schema.base64_text import decode_base64
from ....schema.config_json import config_to_json
from ....schema.fault import Internal, InvalidArgument, MalformedRequest, Unsupported
from ....schema.json_text import as_boolean, as_object, as_string, read_first
from ... import answers
from ..request.request import JSON, TEXT, HttpRequest
from .generate import GenerateHandler
from .infer import InferHandler
from .log_handlers import LogHandlers
from .openapi import description_routes
from .routes import Match, Route
from .shared_memory import shared_memory_routes
from .trace_handlers import trace_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from ....engine.port.caller import Caller
    from ...log_settings import LogSettings
    from ..settings import HttpSettings

_MODEL = "/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
_REPOSITORY = "/v2/repository(?:/(?P<repository>[^/]+))?"


def routes_of(
    engine: Caller,
    settings: HttpSettings,
    logs: LogSettings,
    nursery: trio.Nursery,
    infer: InferHandler | None = None,
) -> list[Route]:
    """The protocol's table of routes over `engine`, first match first. `nursery` runs what takes a thread; `infer`
    takes inferences in place of the protocol's handler."""
    infer = infer or InferHandler(engine, settings, nursery)
    doors = _Handlers(engine, says_health=settings.health_bodies)
    logging = LogHandlers(logs)
    routes = [
        Route(f"{_MODEL}/infer", "inference", _post(infer), content_type=TEXT),
        Route("/v2/health/live", "health", _get(doors.live), content_type=TEXT),
        Route("/v2/health/ready", "health", _get(doors.ready), content_type=TEXT),
        Route("/v2", "metadata", _get(doors.server_metadata)),
        Route("/v2/models/stats", "statistics", _get(doors.all_statistics)),
        Route(_MODEL, "metadata", _get(doors.model_metadata)),
        Route(f"{_MODEL}/ready", "health", slow_handlers={b"GET": doors.model_ready}, content_type=TEXT),
        Route(f"{_MODEL}/config", "model-config", _get(doors.model_config)),
        Route(f"{_MODEL}/stats", "statistics", _get(doors.model_statistics)),
        Route(f"{_REPOSITORY}/index", "model-repository", slow_handlers={b"POST": doors.repository_index}),
        Route(f"{_REPOSITORY}/models/(?P<model>[^/]+)/load", "model-repository", slow_handlers={b"POST": doors.load}),
        Route(
            f"{_REPOSITORY}/models/(?P<model>[^/]+)/unload", "model-repository", slow_handlers={b"POST": doors.unload}
        ),
        Route(f"{_MODEL}/generate", "inference", _post(GenerateHandler(engine, settings, streaming=False))),
        Route(f"{_MODEL}/generate_stream", "inference", _post(GenerateHandler(engine, settings, streaming=True))),
        Route("/v2/logging", "logging", {b"GET": logging.show, b"POST": logging.change}),
        *trace_routes(engine),
        *shared_memory_routes(engine),
    ]
    return [*routes, *description_routes(engine, routes)]


def _get(handler: Callable[[HttpRequest, Match], None]) -> dict[bytes, Callable[[HttpRequest, Match], None]]:
    return {b"GET": handler}


def _post(handler: Callable[[HttpRequest, Match], None]) -> dict[bytes, Callable[[HttpRequest, Match], None]]:
    return {b"POST": handler}


class _Handlers:
    """Each method answers one route, in the protocol's words; what it raises, the router answers."""

    def __init__(self, engine: Caller, *, says_health: bool) -> None:
        self._engine = engine
        self._says_health = says_health

    def live(self, request: HttpRequest, match: Match) -> None:
        is_live = self._engine.is_live()
        if self._says_health:
            request.reply(200 if is_live else 400, JSON, [answers.liveness(is_live)])
        else:
            request.reply(200 if is_live else 400)

    def ready(self, request: HttpRequest, match: Match) -> None:
        """Empty, as in the protocol, unless something is not ready: then the body says what, whatever the status; or
        unless bodies are asked for."""
        status = 200 if self._engine.is_ready() else 400
        health = self._engine.health()
        if health.problems or self._says_health:
            request.reply(status, JSON, [answers.readiness(health)])
        else:
            request.reply(status)

    def server_metadata(self, request: HttpRequest, match: Match) -> None:
        request.reply(200, JSON, [answers.server_metadata(self._engine.metadata())])

    def model_metadata(self, request: HttpRequest, match: Match) -> None:
        request.reply(200, JSON, [answers.model_metadata(self._engine.model_metadata(match.model, match.version()))])

    async def model_ready(self, request: HttpRequest, match: Match) -> None:
        if await self._engine.says_ready(match.model, match.version()):
            request.reply(200)
        else:
            raise InvalidArgument("Model version not ready")

    def model_config(self, request: HttpRequest, match: Match) -> None:
        request.reply(200, JSON, [config_to_json(self._engine.model(match.model, match.version()).config)])

    def model_statistics(self, request: HttpRequest, match: Match) -> None:
        request.reply(200, JSON, [answers.statistics(self._engine.statistics(match.model, match.version()))])

    def all_statistics(self, request: HttpRequest, match: Match) -> None:
        request.reply(200, JSON, [answers.statistics(self._engine.statistics())])

    async def repository_index(self, request: HttpRequest, match: Match) -> None:
        wanted = _object_of(request)
        ready = as_boolean(wanted["ready"]) if "ready" in wanted else False
        request.reply(200, JSON, [answers.repository_index(await self._engine.index(ready))])

    async def load(self, request: HttpRequest, match: Match) -> None:
        """Answers when the model serves, or has failed to. A client that leaves does not stop it."""
        _refuse_repository(match)
        config: str | None = None
        files: dict[str, bytes] = {}
        for name, value in _parameters_of(request).items():
            if name == "config":
                config = as_string(value)
            elif name.startswith("file:"):
                files[name.removeprefix("file:")] = _file_content(name, as_string(value))
            else:
                as_string(value)
                raise Internal("unexpected error on creating Triton parameter")
        await self._engine.load(match.model, config=config, files=files or None)
        request.reply(200, JSON)

    async def unload(self, request: HttpRequest, match: Match) -> None:
        """Answers when the unload is under way. A value of `unload_dependents` that is no boolean counts as false."""
        _refuse_repository(match)
        dependents = _parameters_of(request).get("unload_dependents") is True
        await self._engine.unload(match.model, unload_dependents=dependents)
        request.reply(200, JSON)


def _object_of(request: HttpRequest) -> dict[str, Any]:
    """The body's JSON object; an empty body is an empty object. Raises MalformedRequest."""
    return as_object(read_first(request.body)) if len(request.body) else {}


def _parameters_of(request: HttpRequest) -> dict[str, Any]:
    parameters = _object_of(request).get("parameters", {})
    if not isinstance(parameters, dict):
        raise MalformedRequest("attempt to get members for non-object")
    return parameters


def _refuse_repository(match: Match) -> None:
    if match.repository:
        raise Unsupported("'repository_name' specification is not supported")


def _file_content(name: str, text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as problem:
        raise MalformedRequest(f"load parameter '{name}' is not base64: {problem}") from problem
