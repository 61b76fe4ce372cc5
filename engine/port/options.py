"""The keywords of `open_engine`, typed: EngineSettings' fields as people write them, but the repository."""

from __future__ import annotations

import difflib
from os import PathLike
from typing import TYPE_CHECKING, TypedDict, Unpack

from .settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .resources import ResourceLimit
    from .settings import (
        LatencySettings,
        ModelControlMode,
        QueueOrder,
        QueueWhileDown,
        RateLimit,
        Strategy,
        TraceSettings,
    )


class EngineOptions(TypedDict, total=False):
    """What each means, and its default: see EngineSettings."""

    id: str
    model_namespacing: bool
    model_control_mode: ModelControlMode
    load_model: str | Iterable[str]
    load_on_request: bool
    loaded_models_max: int
    loaded_bytes_max: int
    load_wait_secs: float
    repository_poll_secs: float
    exit_on_error: bool
    strict_readiness: bool
    disable_auto_complete_config: bool
    model_config_name: str
    model_load_thread_count: int
    model_load_retry_count: int
    model_load_timeout_secs: float
    exit_timeout_secs: float
    backend_config: Mapping[str, Mapping[str, str]]
    backend_directory: str
    debug_model: str
    rate_limit: RateLimit
    rate_limit_resource: Iterable[ResourceLimit]
    repoagent_directory: str
    cache_directory: str
    host_policy: Mapping[str, Mapping[str, str]]
    min_supported_compute_capability: float
    cache_config: Mapping[str, Mapping[str, str]]
    response_cache_byte_size: int
    cache_joins: bool
    allow_client_shm: bool
    shared_memory_regions_max: int
    shared_memory_input_bytes_max: int
    queue_size_max: int
    stream_responses_max: int
    restart: Strategy
    queue_while_down: QueueWhileDown
    queue_order: QueueOrder
    fair_queueing: str
    trace: TraceSettings
    latencies: LatencySettings


_OF_DOORS = ("allow_http", "allow_grpc", "allow_metrics", "http_", "grpc_", "metrics_", "log_", "reuse_")


def settings_of(
    model_repository: str | PathLike[str] | Sequence[str | PathLike[str]], **options: Unpack[EngineOptions]
) -> EngineSettings:
    """The settings. Raises TypeError for names that there are not, TypeError or ValueError for what cannot be."""
    known = EngineOptions.__annotations__
    strangers = [name for name in options if name not in known]
    if strangers:
        raise TypeError("; ".join(_unknown(name) for name in strangers))
    paths = [model_repository] if isinstance(model_repository, str | PathLike) else model_repository
    return EngineSettings(model_repository=[str(path) for path in paths], **options)


def _unknown(name: str) -> str:
    said = f"open_engine has no option {name!r}"
    if name.startswith("trace_"):
        return f"{said}; traces are set with trace=despina.TraceSettings(...)"
    near = difflib.get_close_matches(name.replace("-", "_"), EngineOptions.__annotations__, n=1)
    if near:
        return f"{said}; did you mean '{near[0]}'?"
    if name.startswith(_OF_DOORS):
        return f"{said}: it is one of `despina serve`, which has doors and a log of its own; an engine has neither"
    return f"{said}; despina.EngineSettings lists them"
