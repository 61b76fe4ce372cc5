"""The TensorRT backend: opens plans, completes and checks configurations, makes instances."""

from __future__ import annotations

import ctypes
import importlib.metadata
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...schema.fault import Internal, Unavailable
from ..device import Gpu, file_for
from .configuration import check, check_profiles, complete, first_device, only_gpus, profile_indexes
from .graphs import wanted_graphs
from .instance import TensorRTInstance
from .messages import Errors, make_logger
from .options import SETTINGS, Options
from .signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext

_process = threading.Lock()
_errors = Errors()
_loggers: dict[int, Any] = {}
"""One, by the framework's identity: TensorRT keeps the first that it is given."""
_plugins: set[str] = set()


class TensorRTBackend:
    name = "tensorrt"
    preferred_kind: InstanceKind | None = None
    settings: Mapping[str, str] = MappingProxyType(SETTINGS)

    def open_model(self, context: ModelContext) -> TensorRTModel:
        try:
            import tensorrt
        except (ImportError, OSError) as error:  # its libraries are loaded with it
            raise Unavailable(
                f"unable to load model '{context.name}': tensorrt cannot be imported ({error}); "
                "to get it: pip install 'despina[tensorrt]'"
            ) from error
        return TensorRTModel(tensorrt, context)

    def config_summary(self) -> str:
        """Does not import the framework: the table is printed before any model needs it."""
        try:
            return f"tensorrt {importlib.metadata.version('tensorrt')}"
        except importlib.metadata.PackageNotFoundError:
            return "tensorrt is not installed (pip install 'despina[tensorrt]')"


class TensorRTModel:
    """One opened version. Instances on one device share its engine, so its weights are there once."""

    def __init__(self, trt: Any, context: ModelContext) -> None:
        self._trt = trt
        self._context = context
        self._lock = threading.Lock()  # instances may open at the same time
        self._engines: dict[int, tuple[Any, Any]] = {}
        """By device, each with the runtime that has read it."""
        config = context.config
        device_id = first_device(config)
        self._options = Options.of(config, context.backend_config)
        self._logger = _set_up(trt, config.name, self._options)
        self._signature = Signature.of(trt, self._engine(Gpu.open(device_id, config.name, "tensorrt")))
        check_profiles(config, self._signature)
        if context.auto_complete:
            config = complete(config, self._signature)
        check(config, self._signature)
        self.config = config
        self._graphs = wanted_graphs(config)

    def open_instance(self, instance: InstanceContext) -> TensorRTInstance:
        if instance.kind != "GPU":
            raise only_gpus(self.config.name)
        gpu = Gpu.open(instance.device_id, self.config.name, "tensorrt")
        engine = self._engine(gpu)
        with self._lock:  # contexts of one engine are made one after the other
            return TensorRTInstance(
                instance.name,
                self._trt,
                engine,
                gpu,
                self.config,
                self._signature,
                [self._signature.profiles[index] for index in profile_indexes(instance.profiles)],
                self._graphs,
                self._options,
                _errors,
            )

    def close(self) -> None:
        self._engines.clear()

    def _engine(self, gpu: Gpu) -> Any:
        """The plan on that device, read once for it. On return the calling thread uses the device."""
        gpu.use()
        with self._lock:
            found = self._engines.get(gpu.device_id)
            if found is None:
                self._engines[gpu.device_id] = found = self._read(self._file(gpu))
            return found[0]

    def _read(self, path: Path) -> tuple[Any, Any]:
        _errors.take()
        engine: Any = None
        problem: object = "TensorRT does not say why"
        try:
            runtime = self._trt.Runtime(self._logger)
            runtime.engine_host_code_allowed = self._options.version_compatible
            engine = runtime.deserialize_cuda_engine(path.read_bytes())
        except Exception as error:  # the binding has no better word for a runtime that there is not: TypeError
            problem = error
        if engine is None:
            reason = _errors.take() or problem
            raise Internal(f"unable to create TensorRT engine for model '{self._context.name}': {reason}")
        return engine, runtime

    def _file(self, gpu: Gpu) -> Path:
        config = self._context.config
        default = config.default_model_filename or "model.plan"
        name = file_for(gpu.capability(), config.cc_model_filenames, default) if config.cc_model_filenames else default
        path = self._context.version_path / name
        if not path.is_file():
            raise Unavailable(f"unable to find '{path}' for model instance '{self._context.name}'")
        return path


def _set_up(trt: Any, model_name: str, options: Options) -> Any:
    """What a process does once: the logger, TensorRT's own plug-ins, and libraries of others."""
    with _process:
        logger = _loggers.get(id(trt))
        if logger is None:
            _loggers[id(trt)] = logger = make_logger(trt, _errors)
            trt.init_libnvinfer_plugins(logger, "")
        for path in options.plugins:
            if path in _plugins:
                continue
            try:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise Internal(f"unable to load model '{model_name}': plugin '{path}' of tensorrt: {error}") from error
            _plugins.add(path)
        return logger
