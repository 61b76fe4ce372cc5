"""Every RPC but the two inference ones: what the engine knows, in the protocol's messages.

What the engine has at hand is told at once, without a task: clients and load balancers ask for it all the time. The
rest implements the generated service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....schema.fault import InvalidArgument, NotLoaded, Unsupported
from ....schema.version import parse_version
from ....schema.wire.generated import inference as pb
from ....schema.wire.generated.grpc.health import v1 as health
from ...log_settings import NAMES, SWITCHES
from ..request.prompt import PromptMethod
from ..request.tasks import methods_of
from .reflection import reflection_methods
from .shared_memory import SharedMemoryService
from .stream_infer import StreamInfer
from .trace_service import TraceService
from .unary_infer import UnaryInfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...log_settings import LogSettings
    from ..request.port import Method
    from ..settings import GrpcSettings

_PREFIX = "/inference.GRPCInferenceService/"


def open_methods(
    engine: Any, settings: GrpcSettings, logs: LogSettings, *, is_logged: bool = False
) -> dict[str, Method]:
    """Path -> method of everything that the port serves. `is_logged`: calls are noted in an access log."""
    methods: dict[str, Method] = {}
    methods.update(methods_of(InferenceService(engine, logs)))
    methods.update(methods_of(health.HealthBase()))
    methods.update(prompt_methods(engine))
    methods[_PREFIX + "ModelInfer"] = UnaryInfer(engine, settings, is_logged=is_logged)
    methods[_PREFIX + "ModelStreamInfer"] = StreamInfer(engine, settings)
    methods.update(reflection_methods(methods))
    return methods


def _refuse_repository(name: str) -> None:
    if name:
        raise Unsupported("'repository_name' specification is not supported")


class InferenceService(SharedMemoryService, TraceService):
    """The management RPCs. Each raises the Fault that the client gets."""

    def __init__(self, engine: Any, logs: LogSettings) -> None:
        self._engine = engine
        self._logs = logs

    async def _loaded(self, look: Callable[[], Any]) -> Any:
        """What `look` finds, after its model was loaded if it loads on request."""
        while True:
            try:
                return look()
            except NotLoaded as fault:
                await self._engine.bring(fault.model_name)

    async def model_ready(self, message: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Maybe not at once: a model may have a say in it."""
        version = parse_version(message.version)
        return pb.ModelReadyResponse(ready=await self._engine.says_ready(message.name, version))

    async def model_metadata(self, message: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        version = parse_version(message.version)
        metadata: pb.ModelMetadataResponse = await self._loaded(
            lambda: self._engine.model_metadata(message.name, version)
        )
        return metadata

    async def model_config(self, message: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        version = parse_version(message.version)
        model = await self._loaded(lambda: self._engine.model(message.name, version))
        return pb.ModelConfigResponse(config=model.config)

    async def model_statistics(self, message: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        version = parse_version(message.version)
        return pb.ModelStatisticsResponse(model_stats=self._engine.statistics(message.name, version))

    async def repository_index(self, message: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        _refuse_repository(message.repository_name)
        return pb.RepositoryIndexResponse(models=await self._engine.index(message.ready))

    async def repository_model_load(self, message: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        _refuse_repository(message.repository_name)
        config: str | None = None
        files: dict[str, bytes] = {}
        for key, value in message.parameters.items():
            if key == "config":
                if value.string_param is None:
                    raise InvalidArgument("invalid value type for load parameter 'config', expected string_param.")
                config = value.string_param
            elif key.startswith("file:"):
                if value.bytes_param is None:
                    raise InvalidArgument(f"invalid value type for load parameter '{key}', expected bytes_param.")
                files[key.removeprefix("file:")] = bytes(value.bytes_param)
            else:
                raise InvalidArgument(f"unrecognized load parameter '{key}'.")
        await self._engine.load(message.model_name, config=config, files=files or None)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, message: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        _refuse_repository(message.repository_name)
        unload_dependents = False
        value = message.parameters.get("unload_dependents")
        if value is not None:
            if value.bool_param is None:
                raise InvalidArgument("invalid value type for 'unload_dependents' parameter, expected bool_param.")
            unload_dependents = value.bool_param
        await self._engine.unload(message.model_name, unload_dependents=unload_dependents)
        return pb.RepositoryModelUnloadResponse()

    async def log_settings(self, message: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        for name in NAMES:
            if name in message.settings:
                self._logs.put(name, _log_value(name, message.settings[name]))
        shown = {name: _log_setting(value) for name, value in self._logs.shown().items()}
        return pb.LogSettingsResponse(settings=shown)


def _log_value(name: str, value: pb.LogSettingsRequestSettingValue) -> bool | int | str:
    """The value of one log setting. Raises InvalidArgument when it is of another kind."""
    if name in SWITCHES:
        if value.bool_param is None:
            raise InvalidArgument(f"expect boolean for '{name}'")
        return value.bool_param
    if name == "log_verbose_level":
        if value.uint32_param is None:
            raise InvalidArgument(f"expect int32 for '{name}'")
        return value.uint32_param
    if name == "log_format" and value.string_param is None:
        raise InvalidArgument(f"expect string for '{name}'")
    return value.string_param or ""


def _log_setting(value: bool | int | str) -> pb.LogSettingsResponseSettingValue:
    if isinstance(value, bool):
        return pb.LogSettingsResponseSettingValue(bool_param=value)
    if isinstance(value, int):
        return pb.LogSettingsResponseSettingValue(uint32_param=min(value, 2**32 - 1))
    return pb.LogSettingsResponseSettingValue(string_param=value)


def prompt_methods(engine: Any) -> dict[str, Method]:
    """Path -> method of the RPCs that ask for nothing but a look."""

    def live(message: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=engine.is_live())

    def ready(message: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=engine.is_ready())

    def metadata(message: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        found: pb.ServerMetadataResponse = engine.metadata()
        return found

    def check(message: health.HealthCheckRequest) -> health.HealthCheckResponse:
        """`grpc.health.v1.Health`: the server's readiness, whatever service is asked for."""
        status = health.HealthCheckResponseServingStatus
        return health.HealthCheckResponse(status=status.SERVING if engine.is_ready() else status.NOT_SERVING)

    return {
        _PREFIX + "ServerLive": PromptMethod(pb.ServerLiveRequest, live),
        _PREFIX + "ServerReady": PromptMethod(pb.ServerReadyRequest, ready),
        _PREFIX + "ServerMetadata": PromptMethod(pb.ServerMetadataRequest, metadata),
        "/grpc.health.v1.Health/Check": PromptMethod(health.HealthCheckRequest, check),
    }
