"""From model parameters, optimisation and backend settings to what TensorFlow's sessions are asked for.

Every wrong value is an InvalidArgument that names the parameter; parameters of other readers pass unread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...engine.port.backend import InstanceKind
    from ...schema.wire.generated.inference import ModelConfig

_log = logging.getLogger("despina.backends.tensorflow")

THREADS_MAX = 1024
"""Of one pool. Ours: TensorFlow starts as many as it is told."""
_TRUTH = {"true": True, "on": True, "1": True, "yes": True, "false": False, "off": False, "0": False, "no": False}


@attrs.frozen(kw_only=True)
class Options:
    """Of one model."""

    graph_tags: frozenset[str]
    signature_name: str
    """Empty: the model's default."""
    instances_per_session: int
    init_file: str
    """Names the operations to run before the first execution; empty for none."""
    intra_threads: int
    """0: TensorFlow's choice."""
    inter_threads: int
    """0: TensorFlow's choice; -1: every operation runs on the instance's own thread."""
    own_threads: bool
    """Sessions have pools of their own, else the process's."""
    soft_placement: bool
    gpu_memory_fraction: float
    """0: as it is needed."""
    jit_level: int
    """TensorFlow's number."""
    mixed_precision: bool

    @classmethod
    def of(cls, config: ModelConfig, backend_config: Mapping[str, str]) -> Options:
        """Raises InvalidArgument for values that cannot be."""
        inter = _count(config, "TF_NUM_INTER_THREADS")
        return cls(
            graph_tags=frozenset((_text(config, "TF_GRAPH_TAG") or "serve").split(",")),
            signature_name=_text(config, "TF_SIGNATURE_DEF"),
            instances_per_session=_share_count(config),
            init_file=_text(config, "TF_INIT_OPS_FILE"),
            intra_threads=_count(config, "TF_NUM_INTRA_THREADS"),
            # One operation at a time needs no thread but the one that waits for it.
            inter_threads=-1 if inter == 1 else inter,
            own_threads=_truth("TF_USE_PER_SESSION_THREADS", _text(config, "TF_USE_PER_SESSION_THREADS") or "false"),
            soft_placement=_truth("allow-soft-placement", backend_config.get("allow-soft-placement") or "true"),
            gpu_memory_fraction=_fraction(backend_config.get("gpu-memory-fraction") or "0"),
            jit_level=_jit_level(config),
            mixed_precision=_mixed_precision(config),
        )

    def session_config(self, tf: Any, kind: InstanceKind) -> Any:
        """A ConfigProto."""
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=self.intra_threads,
            inter_op_parallelism_threads=self.inter_threads,
            use_per_session_threads=self.own_threads,
            allow_soft_placement=self.soft_placement,
        )
        config.graph_options.optimizer_options.global_jit_level = self.jit_level
        if kind == "CPU":
            config.device_count["GPU"] = 0
            return config
        config.gpu_options.per_process_gpu_memory_fraction = self.gpu_memory_fraction
        config.gpu_options.allow_growth = self.gpu_memory_fraction == 0
        if self.mixed_precision:
            config.graph_options.rewrite_options.auto_mixed_precision = 1  # RewriterConfig.ON
        return config


def _text(config: ModelConfig, name: str) -> str:
    given = config.parameters.get(name)
    return "" if given is None else given.string_value


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"failed to convert '{text}' to integral number for parameter {name}") from None


def _count(config: ModelConfig, name: str) -> int:
    count = _number(name, _text(config, name) or "0")
    if count < 0:
        raise InvalidArgument(f"parameter '{name}' must be non-negative number for TensorFlow model '{config.name}'")
    if count > THREADS_MAX:
        raise InvalidArgument(
            f"parameter '{name}' must be at most {THREADS_MAX} for TensorFlow model '{config.name}', got {count}"
        )
    return count


def _share_count(config: ModelConfig) -> int:
    count = _number("MAX_SESSION_SHARE_COUNT", _text(config, "MAX_SESSION_SHARE_COUNT") or "1")
    if count <= 0:
        raise InvalidArgument(
            f"parameter 'MAX_SESSION_SHARE_COUNT' must be positive number for TensorFlow model '{config.name}'"
        )
    return count


def _truth(name: str, text: str) -> bool:
    found = _TRUTH.get(text.lower())
    if found is None:
        raise InvalidArgument(f"failed to convert '{text}' to boolean for parameter {name}")
    return found


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise InvalidArgument(f"backend setting gpu-memory-fraction must be a number from 0.0 to 1.0, got '{text}'")
    return fraction


def _jit_level(config: ModelConfig) -> int:
    """OptimizerOptions.GlobalJitLevel: OFF is -1, DEFAULT 0, ON_1 1, ON_2 2."""
    optimization = config.optimization
    level = optimization.graph.level if optimization is not None and optimization.graph is not None else 0
    return max(-1, min(level, 2))


def _mixed_precision(config: ModelConfig) -> bool:
    """Of the accelerators, the one that is an option of sessions. Raises InvalidArgument for those that are not
    there."""
    accelerators = config.optimization.execution_accelerators if config.optimization is not None else None
    if accelerators is None:
        return False
    if accelerators.cpu_execution_accelerator:
        raise InvalidArgument("CPU Execution Accelerator is not supported in TensorFlow backend")
    names = [item.name for item in accelerators.gpu_execution_accelerator]
    for name in names:
        if name == "tensorrt":
            raise InvalidArgument(
                f"model '{config.name}': Execution Accelerator 'tensorrt' is not available: TensorFlow's packages are "
                "built without TensorRT"
            )
        if name not in ("auto_mixed_precision", "gpu_io"):
            raise InvalidArgument(f"unknown Execution Accelerator '{name}' is requested")
    return "auto_mixed_precision" in names
