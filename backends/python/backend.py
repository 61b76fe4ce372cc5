"""The Python backend: finds `model.py`, lets it complete its configuration, makes instances."""

from __future__ import annotations

import platform
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...schema.fault import Internal, InvalidArgument
from ..telemetry import refuse_telemetry
from .event_loop import ThreadLoop
from .instance import PythonInstance, UserModel
from .model_config import ModelConfig as ConfigHelper
from .model_config import apply, helper_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext
    from ...schema.wire.generated.inference import ModelConfig

UTILS_NAME = "triton_python_backend_utils"


_IN_PROCESS = "models run in this process"


class PythonBackend:
    name = "python"
    preferred_kind: InstanceKind | None = "GPU"
    settings: Mapping[str, str] = MappingProxyType(
        dict.fromkeys(
            (
                "shm-default-byte-size",
                "shm-growth-byte-size",
                "shm-region-prefix-name",
                "stub-timeout-seconds",
                "thread-pool-size",
            ),
            _IN_PROCESS,
        )
    )

    def open_model(self, context: ModelContext) -> PythonModel:
        return PythonModel(context)

    def config_summary(self) -> str:
        return f"Python {platform.python_version()}, models run in this process"


class PythonModel:
    """One opened version. Every instance loads the file again, into module globals of its own."""

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._file = _model_file(context)
        if "EXECUTION_ENV_PATH" in context.config.parameters:
            raise InvalidArgument(
                f"unable to load model '{context.name}': parameter EXECUTION_ENV_PATH is not supported yet"
            )
        _install_utils()
        refuse_telemetry()  # models may import ONNX Runtime themselves
        self.config: ModelConfig = _completed(context, self._file) if context.auto_complete else context.config

    def open_instance(self, instance: InstanceContext) -> PythonInstance:
        wanted = self.config.parameters.get("DESPINA_EXECUTOR")
        movable = wanted is not None and wanted.string_value == "inline"
        return PythonInstance(self._context, self.config, self._file, instance, movable=movable)

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


def _completed(context: ModelContext, file: Path) -> ModelConfig:
    """What the model's `auto_complete_config` makes of the configuration, in module globals that are then dropped."""
    loop = ThreadLoop()
    try:
        return _completed_by(UserModel(context, file), context)
    finally:
        loop.close()


def _completed_by(user: UserModel, context: ModelContext) -> ModelConfig:
    try:
        function = getattr(user.model_class, "auto_complete_config", None)
        if function is None:
            return context.config
        with user.failing_as_internal(f"model '{context.name}': auto_complete_config failed"):
            completed = function(helper_for(context.config))
        if not isinstance(completed, ConfigHelper):
            raise Internal(
                f"auto_complete_config function in model '{context.name}' must return a valid pb.ModelConfig object."
            )
        return apply(completed, context.config)
    finally:
        user.imports.close()


def _install_utils() -> None:
    from . import triton_python_backend_utils

    sys.modules[UTILS_NAME] = triton_python_backend_utils
