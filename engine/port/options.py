"""The keywords of `open_engine`, typed: EngineSettings' fields as people write them, but the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    rate_limit: RateLimit
    rate_limit_resource: Iterable[ResourceLimit]
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
