"""The Python backend: finds `model.py`, lets it complete its configuration, makes instances."""

from __future__ import annotations

import platform
import sys
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...schema.fault import Internal, InvalidArgument
from ..telemetry import refuse_telemetry
from .completion import apply, arguments, helper_for, is_decoupled, is_iterative
from .event_loop import ThreadLoop
from .imports import ModelImports
from .instance import PythonInstance, UserModel
from .isolated.model import IsolatedModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext
    from ...schema.wire.generated.inference import ModelConfig

UTILS_NAME = "triton_python_backend_utils"


_SEGMENTS = "shared memory has no name, and grows and shrinks by itself"


class PythonBackend:
    name = "python"
    preferred_kind: InstanceKind | None = "GPU"
    settings: Mapping[str, str] = MappingProxyType(
        {
            "isolation": "",
            "stub-timeout-seconds": "",
            "shm-default-byte-size": _SEGMENTS,
            "shm-growth-byte-size": _SEGMENTS,
            "shm-region-prefix-name": _SEGMENTS,
            "thread-pool-size": "nested calls take no threads",
        }
    )

    def open_model(self, context: ModelContext) -> PythonModel | IsolatedModel:
        file = _model_file(context)
        if "EXECUTION_ENV_PATH" in context.config.parameters:
            raise InvalidArgument(
                f"unable to load model '{context.name}': parameter EXECUTION_ENV_PATH is not supported yet"
            )
        refuse_telemetry()  # models may import ONNX Runtime themselves
        if _is_isolated(context):
            return IsolatedModel(context, file)
        return PythonModel(context, file)

    def config_summary(self) -> str:
        return f"Python {platform.python_version()}, models run in this process"


class PythonModel:
    """One opened version. Every instance loads the file again, into module globals of its own."""

    def __init__(self, context: ModelContext, file: Path) -> None:
        self._context = context
        self._file = file
        _install_utils()
        self.config: ModelConfig = _completed(context, self._file) if context.auto_complete else context.config

    def open_instance(self, instance: InstanceContext) -> PythonInstance:
        wanted = self.config.parameters.get("DESPINA_EXECUTOR")
        movable = wanted is not None and wanted.string_value == "inline"
        return PythonInstance(
            instance.name,
            partial(_user_model, self._context, self._file),
            arguments=arguments(self._context, self.config, instance),
            output_names=[output.name for output in self.config.output],
            decoupled=is_decoupled(self.config),
            iterative=is_iterative(self.config),
            movable=movable,
            nested=self._context.nested,
        )

    def close(self) -> None:
        """Instances own everything."""


def _model_file(context: ModelContext) -> Path:
    name = context.config.default_model_filename or "model.py"
    if not name.endswith(".py"):
        raise InvalidArgument(f"model '{context.name}': a Python model's file must end in '.py', got '{name}'")
    path = context.version_path / name
    if not path.is_file():
        raise Internal(f"Python model file not found in '{path}'")
    return path


def _user_model(context: ModelContext, file: Path) -> UserModel:
    """In a module space of its own."""
    imports = ModelImports(context.version_path, context.model_path)
    return UserModel(context.name, context.version, file, imports, (str(context.version_path), str(context.model_path)))


def _completed(context: ModelContext, file: Path) -> ModelConfig:
    """What the model's `auto_complete_config` makes of the configuration, in module globals that are then dropped."""
    loop = ThreadLoop()
    try:
        completed = _user_model(context, file).complete(helper_for(context.config))
        return context.config if completed is None else apply(completed, context.config)
    finally:
        loop.close()


def _is_isolated(context: ModelContext) -> bool:
    """Whether the model's instances run in processes of their own."""
    parameter = context.config.parameters.get("DESPINA_ISOLATION")
    chosen = parameter.string_value if parameter is not None else context.backend_config.get("isolation", "none")
    if chosen not in ("none", "process"):
        raise InvalidArgument(
            f"unable to load model '{context.name}': isolation must be 'none' or 'process', got '{chosen}'"
        )
    return chosen == "process"


def _install_utils() -> None:
    from . import triton_python_backend_utils

    sys.modules[UTILS_NAME] = triton_python_backend_utils
