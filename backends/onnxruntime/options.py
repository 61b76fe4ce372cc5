"""From model parameters and backend settings to ONNX Runtime's session and run options.

Every wrong value is an InvalidArgument that names the parameter and what it takes; parameters of other readers (the
engine's own, a user's notes) pass unread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...schema.wire.generated.inference import ModelConfig

THREADS_MAX = 1024
"""Of one pool. Ours: ONNX Runtime starts them all at once, and takes minutes for thousands."""

_FATAL_ONLY = 4
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def session_options(ort: Any, config: ModelConfig, backend_config: Mapping[str, str]) -> Any:
    """An `onnxruntime.SessionOptions` for the model. `ort` is the imported framework.

    Thread counts: the model's parameter, then the backend setting, then ONNX Runtime's own choice (0).
    """
    values = parameters(config)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # errors come back as exceptions, and we log those ourselves
    options.graph_optimization_level = _graph_level(ort, config)
    options.intra_op_num_threads = _count(values, backend_config, "intra_op_thread_count")
    options.inter_op_num_threads = _count(values, backend_config, "inter_op_thread_count")
    if (mode := values.get("execution_mode", "")) != "":
        chosen = {"0": ort.ExecutionMode.ORT_SEQUENTIAL, "1": ort.ExecutionMode.ORT_PARALLEL}.get(mode)
        if chosen is None:
            raise InvalidArgument(
                f"Invalid configuration value provided. Expected values for  execution_mode are 0 or 1 but got {mode} ."
            )
        options.execution_mode = chosen
    if (arena := _switch(values, "enable_mem_arena")) is not None:
        options.enable_cpu_mem_arena = arena
    if (pattern := _switch(values, "enable_mem_pattern")) is not None:
        options.enable_mem_pattern = pattern
    if (allocator := _switch(values, "session.use_device_allocator_for_initializers")) is not None:
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1" if allocator else "0")
    shared = backend_config.get("enable-global-threadpool", "")
    if shared and _truth("enable-global-threadpool", shared):
        # The pool itself is sized once per process; see the backend.
        options.use_per_session_threads = False
    return options


def run_options(ort: Any, config: ModelConfig) -> Any:
    """An `onnxruntime.RunOptions` used for every execution, or None where the defaults do."""
    shrink = parameters(config).get("memory.enable_memory_arena_shrinkage", "")
    if not shrink:
        return None
    for part in shrink.split(";"):
        kind, _, device = part.partition(":")
        if kind not in ("cpu", "gpu") or not device.isdecimal():
            raise InvalidArgument(
                "Invalid configuration value provided. Expected values for memory.enable_memory_arena_shrinkage are "
                f"like 'cpu:0;gpu:0' but got {shrink} ."
            )
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
    return options


def parameters(config: ModelConfig) -> dict[str, str]:
    """The model's parameters as plain strings."""
    return {key: value.string_value for key, value in config.parameters.items()}


def global_threads(backend_config: Mapping[str, str]) -> tuple[int, int] | None:
    """Intra- and inter-operator threads of the pool that all models share, or None where each has its own."""
    shared = backend_config.get("enable-global-threadpool", "")
    if not shared or not _truth("enable-global-threadpool", shared):
        return None
    return _count({}, backend_config, "intra_op_thread_count"), _count({}, backend_config, "inter_op_thread_count")


def _graph_level(ort: Any, config: ModelConfig) -> Any:
    levels = ort.GraphOptimizationLevel
    level = config.optimization.graph.level if config.optimization and config.optimization.graph else 0
    match level:
        case -1:
            return levels.ORT_ENABLE_BASIC
        case 1:
            return levels.ORT_ENABLE_EXTENDED
        case 2:
            return levels.ORT_DISABLE_ALL
        case _:
            return levels.ORT_ENABLE_ALL


def _count(values: Mapping[str, str], backend_config: Mapping[str, str], name: str) -> int:
    text = values.get(name) or backend_config.get(name) or "0"
    try:
        count = int(text)
    except ValueError:
        raise InvalidArgument(f"failed to convert '{text}' to integral number for parameter {name}") from None
    if not 0 <= count <= THREADS_MAX:
        raise InvalidArgument(
            f"Invalid configuration value provided. Expected values for {name} are 0 to {THREADS_MAX} but got {text} ."
        )
    return count


def _switch(values: Mapping[str, str], name: str) -> bool | None:
    text = values.get(name, "")
    return None if text == "" else _truth(name, text)


def _truth(name: str, text: str) -> bool:
    found = _TRUTH.get(text.lower())
    if found is None:
        raise InvalidArgument(
            f"Invalid configuration value provided. Expected values for {name} are 0 or 1 but got {text} ."
        )
    return found
