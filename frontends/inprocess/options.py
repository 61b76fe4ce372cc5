"""The options of a server, with the in-process package's names and defaults."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import attrs
import orjson

from ..capi.options import Note, settings_of
from .errors import InvalidArgumentError, told


class ModelControlMode(IntEnum):
    NONE = 0
    POLL = 1
    EXPLICIT = 2


class RateLimiterMode(IntEnum):
    OFF = 0
    EXEC_COUNT = 1


class LogFormat(IntEnum):
    DEFAULT = 0
    ISO8601 = 1


@attrs.define(kw_only=True)
class Options:
    """What a server is told."""

    model_repository: str | list[str] = attrs.field(factory=list)
    server_id: str = "triton"
    model_control_mode: ModelControlMode = ModelControlMode.NONE
    startup_models: list[str] = attrs.field(factory=list)
    strict_model_config: bool = False
    rate_limiter_mode: RateLimiterMode = RateLimiterMode.OFF
    rate_limiter_resources: list[tuple[str, int, int]] = attrs.field(factory=list)
    """Name, count and device of each; -1 for all devices."""
    pinned_memory_pool_size: int = 1 << 28
    cuda_memory_pool_sizes: dict[int, int] = attrs.field(factory=dict)
    cache_config: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    cache_directory: str = "/opt/tritonserver/caches"
    min_supported_compute_capability: float = 6.0
    exit_on_error: bool = True
    strict_readiness: bool = True
    exit_timeout: int = 30
    buffer_manager_thread_count: int = 0
    model_load_thread_count: int = 4
    model_load_retry_count: int = 0
    model_namespacing: bool = False
    enable_peer_access: bool = True
    log_file: str | None = None
    log_info: bool = False
    log_warn: bool = False
    log_error: bool = False
    log_format: LogFormat = LogFormat.DEFAULT
    log_verbose: int = 0
    metrics: bool = True
    gpu_metrics: bool = True
    cpu_metrics: bool = True
    metrics_interval: int = 2000
    backend_directory: str = "/opt/tritonserver/backends"
    repo_agent_directory: str = "/opt/tritonserver/repoagents"
    backend_configuration: dict[str, dict[str, str]] = attrs.field(factory=dict)
    host_policies: dict[str, dict[str, str]] = attrs.field(factory=dict)
    metrics_configuration: dict[str, dict[str, str]] = attrs.field(factory=dict)

    def engine_options(self) -> dict[str, Any]:
        """Keywords for `open_engine`. Raises InvalidArgumentError with every complaint."""
        if not self.model_repository:
            raise InvalidArgumentError("Model repository must be specified.")
        with told():
            engine = settings_of(self._notes()).engine
        return {field.name: getattr(engine, field.name) for field in attrs.fields(type(engine))}

    def _notes(self) -> list[Note]:
        """As the C API's setters would have noted them, so both mean the same."""
        paths = [self.model_repository] if isinstance(self.model_repository, str) else self.model_repository
        notes: list[Note] = [["SetModelRepositoryPath", str(path)] for path in paths]
        notes += [["SetStartupModel", name] for name in self.startup_models]
        notes += [["AddRateLimiterResource", *resource] for resource in self.rate_limiter_resources]
        notes += [
            ["SetCacheConfig", name, orjson.dumps(settings).decode()] for name, settings in self.cache_config.items()
        ]
        for setter, given in (
            ("SetBackendConfig", self.backend_configuration),
            ("SetHostPolicy", self.host_policies),
            ("SetMetricsConfig", self.metrics_configuration),
        ):
            notes += [[setter, name, key, value] for name, pairs in given.items() for key, value in pairs.items()]
        return [
            *notes,
            ["SetServerId", self.server_id],
            ["SetModelControlMode", int(self.model_control_mode)],
            ["SetStrictModelConfig", self.strict_model_config],
            ["SetRateLimiterMode", int(self.rate_limiter_mode)],
            ["SetCacheDirectory", self.cache_directory],
            ["SetMinSupportedComputeCapability", self.min_supported_compute_capability],
            ["SetExitOnError", self.exit_on_error],
            ["SetStrictReadiness", self.strict_readiness],
            ["SetExitTimeout", self.exit_timeout],
            ["SetModelLoadThreadCount", self.model_load_thread_count],
            ["SetModelLoadRetryCount", self.model_load_retry_count],
            ["SetModelNamespacing", self.model_namespacing],
            ["SetBackendDirectory", self.backend_directory],
            ["SetRepoAgentDirectory", self.repo_agent_directory],
        ]
