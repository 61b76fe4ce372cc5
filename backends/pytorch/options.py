"""From model parameters to what PyTorch is asked for. Some are the process's: the first model's say counts."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import attrs

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from ...schema.wire.generated.inference import ModelConfig

_log = logging.getLogger("despina.backends.pytorch")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
THREADS_MAX = 1024


@attrs.frozen(kw_only=True)
class Options:
    """Of one model."""

    inference_mode: bool
    optimized: bool
    shares_weights: bool
    """Instances on one device have one copy of the module."""
    cleans_cache: bool
    """The device's cached memory is given back after each execution."""
    compile: dict[str, Any] | None
    """For `torch.compile`; None where it is not wanted."""

    @classmethod
    def of(cls, config: ModelConfig) -> Options:
        """Raises InvalidArgument for values that cannot be."""
        return cls(
            inference_mode=_switch(config, "INFERENCE_MODE", default=True),
            optimized=not _switch(config, "DISABLE_OPTIMIZED_EXECUTION", default=False),
            shares_weights=_switch(config, "ENABLE_WEIGHT_SHARING", default=False),
            cleans_cache=_switch(config, "ENABLE_CACHE_CLEANING", default=False),
            compile=_compile(config),
        )


_process = threading.Lock()
_threads: dict[str, int] = {}


def apply_to_process(torch: Any, config: ModelConfig) -> None:
    """What holds for the whole process. Raises InvalidArgument for values that cannot be."""
    if _switch(config, "DISABLE_CUDNN", default=False):
        torch.backends.cudnn.enabled = False
    for name, switch in (
        ("ENABLE_JIT_EXECUTOR", "_jit_set_profiling_executor"),
        ("ENABLE_JIT_PROFILING", "_jit_set_profiling_mode"),
        ("ENABLE_TENSOR_FUSER", "_jit_set_texpr_fuser_enabled"),
    ):
        if name in config.parameters:
            getattr(torch._C, switch)(_switch(config, name, default=True))
    with _process:
        for names, setter in (
            (("INTRA_OP_THREAD_COUNT", "NUM_THREADS"), torch.set_num_threads),
            (("INTER_OP_THREAD_COUNT", "NUM_INTEROP_THREADS"), torch.set_num_interop_threads),
        ):
            name, wanted = _count(config, names)
            if not wanted:
                continue
            if names[0] in _threads:
                if _threads[names[0]] != wanted:
                    _log.warning(
                        "model '%s': %s is the process's, and another model has set it to %d: it stays",
                        config.name,
                        name,
                        _threads[names[0]],
                    )
                continue
            try:
                setter(wanted)
            except RuntimeError as error:  # too late: parallel work has begun
                _log.warning("model '%s': %s cannot be set any more: %s", config.name, name, error)
            _threads[names[0]] = wanted


def _text(config: ModelConfig, name: str) -> str:
    given = config.parameters.get(name)
    return "" if given is None else given.string_value


def _switch(config: ModelConfig, name: str, *, default: bool) -> bool:
    text = _text(config, name)
    if not text:
        return default
    found = _TRUTH.get(text.lower())
    if found is None:
        raise InvalidArgument(f"model '{config.name}': parameter {name} must be 'true' or 'false', got '{text}'")
    return found


def _count(config: ModelConfig, names: tuple[str, ...]) -> tuple[str, int]:
    for name in names:
        text = _text(config, name)
        if text:
            if not text.isascii() or not text.isdigit() or not 0 < int(text) <= THREADS_MAX:
                raise InvalidArgument(
                    f"model '{config.name}': parameter {name} must be a number from 1 to {THREADS_MAX}, got '{text}'"
                )
            return name, int(text)
    return names[0], 0


def _compile(config: ModelConfig) -> dict[str, Any] | None:
    name = "TORCH_COMPILE_OPTIONAL_PARAMETERS"
    text = _text(config, name)
    if not text:
        return None
    try:
        given = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"model '{config.name}': parameter {name} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidArgument(f"model '{config.name}': parameter {name} must be a JSON object")
    return given
