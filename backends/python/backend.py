"""The Python backend: finds `model.py`, lets it complete its configuration, makes instances."""

from __future__ import annotations

import os
import platform
import sys
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument, Unsupported
from ..telemetry import refuse_telemetry
from .completion import apply, arguments, helper_for, is_decoupled, is_iterative
from .environments import PARAMETER, Environments
from .event_loop import ThreadLoop
from .imports import ModelImports
from .instance import PythonInstance, UserModel
from .isolated.limits import positive_number
from .isolated.model import IsolatedModel
from .source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext
    from ...schema.wire.generated.inference import ModelConfig

UTILS_NAME = "triton_python_backend_utils"
ISOLATION = "DESPINA_ISOLATION"
"""A model's parameter, and a variable of the environment."""
EXECUTOR = "DESPINA_EXECUTOR"
"""A model's parameter."""
CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"
"""A model's parameter without effect: inputs are on the CPU."""

_SEGMENTS = "shared memory has no name, and grows and shrinks by itself"


_COUNTS = (
    "shm-default-byte-size",
    "shm-growth-byte-size",
    "stub-timeout-seconds",
    "shm_message_queue_size",
    "thread-pool-size",
)
"""Settings that the reference server wants to be positive."""


class PythonBackend:
    """`folder` is that of a backend that is written in Python: its `model.py` is every model's."""

    preferred_kind: InstanceKind | None = "GPU"
    settings: Mapping[str, str] = MappingProxyType(
        {
            "isolation": "",
            "stub-timeout-seconds": "",
            "shm-default-byte-size": _SEGMENTS,
            "shm-growth-byte-size": _SEGMENTS,
            "shm-region-prefix-name": _SEGMENTS,
            "shm_message_queue_size": "how much waits is bounded by what is asked at a time",
            "thread-pool-size": "nested calls take no threads",
        }
    )

    def __init__(self, name: str = "python", folder: Path | None = None) -> None:
        self.name = name
        self._folder = folder
        self._environments = Environments()

    def based(self, name: str, folder: Path) -> PythonBackend:
        """See port/backend.py."""
        return PythonBackend(name, folder)

    def open_model(self, context: ModelContext) -> PythonModel | IsolatedModel:
        self._check_counts(context)
        _check_cpu_only(context)
        source = Source.of(context, self._folder)
        refuse_telemetry()  # models may import ONNX Runtime themselves
        if _is_isolated(context):
            if _is_inline(context.config):
                raise InvalidArgument(
                    f"unable to load model '{context.name}': parameter {EXECUTOR} = inline needs the model in the "
                    f"server's process ({ISOLATION} = none)"
                )
            environment = self._environments.of(context, self._folder)
            try:
                return IsolatedModel(context, source, environment)
            except BaseException:
                if environment is not None:
                    environment.close()
                raise
        if PARAMETER in context.config.parameters:
            raise InvalidArgument(
                f"unable to load model '{context.name}': parameter {PARAMETER} needs a process of the model's own "
                f"({ISOLATION} = process)"
            )
        return PythonModel(context, source)

    def _check_counts(self, context: ModelContext) -> None:
        for setting in _COUNTS:
            positive_number(context.name, setting, context.backend_config.get(setting, ""))

    def config_summary(self) -> str:
        return f"Python {platform.python_version()}"


class PythonModel:
    """One opened version. Every instance loads the file again, into module globals of its own."""

    def __init__(self, context: ModelContext, source: Source) -> None:
        self._context = context
        self._source = source
        _install_utils()
        self.config: ModelConfig = _completed(context, source) if context.auto_complete else context.config

    def open_instance(self, instance: InstanceContext) -> PythonInstance:
        return PythonInstance(
            instance.name,
            partial(_user_model, self._context, self._source),
            arguments=arguments(self._context, self.config, instance),
            output_names=[output.name for output in self.config.output],
            decoupled=is_decoupled(self.config),
            iterative=is_iterative(self.config),
            movable=_may_execute_inline(self.config, instance),
            nested=self._context.nested,
        )

    def close(self) -> None:
        """Instances own everything."""


def _user_model(context: ModelContext, source: Source) -> UserModel:
    """In a module space of its own."""
    imports = ModelImports(context.version_path, source.folders)
    return UserModel(context.name, context.version, source.file, imports, tuple(source.folders))


def _completed(context: ModelContext, source: Source) -> ModelConfig:
    """What the model's `auto_complete_config` makes of the configuration, in module globals that are then dropped."""
    loop = ThreadLoop()
    try:
        completed = _user_model(context, source).complete(helper_for(context.config))
        return context.config if completed is None else apply(completed, context.config)
    finally:
        loop.close()


def _is_inline(config: ModelConfig) -> bool:
    """Whether a model is to execute on the trio thread."""
    wanted = config.parameters.get(EXECUTOR)
    return wanted is not None and wanted.string_value == "inline"


def _may_execute_inline(config: ModelConfig, instance: InstanceContext) -> bool:
    """Whether this instance of it does: the engine leaves those of GPUs, bound ones and streams to their threads."""
    is_free = instance.kind != "GPU" and not instance.host_policy.binds
    return _is_inline(config) and is_free and not is_decoupled(config)


def _check_cpu_only(context: ModelContext) -> None:
    parameter = context.config.parameters.get(CPU_ONLY)
    if parameter is not None and parameter.string_value not in ("yes", "no"):
        raise Unsupported(f"Incorrect value for {CPU_ONLY}: {parameter.string_value}'")  # the quote is the protocol's


def _is_isolated(context: ModelContext) -> bool:
    """Whether the model's instances run in processes of their own, by who is nearest to it: its parameter, the
    backend's setting, the environment."""
    parameter = context.config.parameters.get(ISOLATION)
    if parameter is not None:
        chosen = parameter.string_value
    else:
        chosen = context.backend_config.get("isolation") or os.environ.get(ISOLATION) or "process"
    if chosen not in ("none", "process"):
        raise InvalidArgument(
            f"unable to load model '{context.name}': isolation must be 'none' or 'process', got '{chosen}'"
        )
    return chosen == "process"


def _install_utils() -> None:
    from . import triton_python_backend_utils

    sys.modules[UTILS_NAME] = triton_python_backend_utils
