"""The ONNX Runtime backend: opens model files, completes and checks configurations, makes instances."""

from __future__ import annotations

import importlib.metadata
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...schema.fault import Internal, Unavailable
from ...schema.wire.generated.inference import ModelInstanceGroupKind
from ..device import Gpu, file_for
from ..fitting import default_max_batch_size
from ..telemetry import refuse_telemetry, stop_telemetry
from .configuration import check, complete
from .failure import failure_text
from .instance import OnnxInstance
from .options import global_threads, run_options, session_options
from .providers import Provider, check_given, providers_for
from .signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext
    from ...schema.wire.generated.inference import ModelConfig


class OnnxRuntimeBackend:
    name = "onnxruntime"
    preferred_kind: InstanceKind | None = None
    settings: Mapping[str, str] = MappingProxyType(
        dict.fromkeys(("enable-global-threadpool", "intra_op_thread_count", "inter_op_thread_count"), "")
    )

    def open_model(self, context: ModelContext) -> OnnxModel:
        refuse_telemetry()
        try:
            import onnxruntime
        except ImportError as error:
            raise Unavailable(
                f"unable to load model '{context.name}': onnxruntime cannot be imported ({error}); "
                "to get it: pip install 'despina[onnx]'"
            ) from error
        stop_telemetry(onnxruntime)
        return OnnxModel(onnxruntime, context)

    def config_summary(self) -> str:
        """Does not import the framework: the table is printed before any model needs it."""
        for distribution in ("onnxruntime-gpu", "onnxruntime", "onnxruntime-openvino"):
            try:
                return f"{distribution} {importlib.metadata.version(distribution)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return "onnxruntime is not installed (pip install 'despina[onnx]')"


class OnnxModel:
    """One opened version. CPU instances share one session, so its weights are in memory once; GPU ones own theirs."""

    def __init__(self, ort: Any, context: ModelContext) -> None:
        self._ort = ort
        self._context = context
        self._path = _model_file(context)
        self._lock = threading.Lock()  # instances may open at the same time
        self._cpu_session: Any = None
        _start_global_threads(ort, context)
        config = context.config
        if _wants_cpu(config):
            metadata_session = self._shared_cpu_session(config)
        else:
            # Only to read the signature: no optimisation, so no second copy of a transformed graph.
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            metadata_session = self._open_session(options, [("CPUExecutionProvider", {})])
        self._signature = Signature.of(metadata_session)
        if context.auto_complete:
            config = complete(config, self._signature, default_max_batch_size(context))
        check(config, self._signature)
        self.config = config
        self._run_options = run_options(ort, config)

    def open_instance(self, instance: InstanceContext) -> OnnxInstance:
        config = self.config
        on_gpu = instance.kind == "GPU"
        if on_gpu:
            providers = providers_for(config, "GPU", instance.device_id, self._ort.get_available_providers())
            options = session_options(self._ort, config, self._context.backend_config)
            session = self._open_session(options, providers, self._file_for(instance.device_id))
            check_given(config, providers, session.get_providers())
        else:
            session = self._shared_cpu_session(config)
        return OnnxInstance(
            instance.name,
            self._ort,
            session,
            config,
            self._signature,
            movable=not on_gpu,
            run_options=self._run_options,
        )

    def close(self) -> None:
        self._cpu_session = None

    def _shared_cpu_session(self, config: ModelConfig) -> Any:
        with self._lock:
            if self._cpu_session is None:
                providers = providers_for(config, "CPU", 0, self._ort.get_available_providers())
                options = session_options(self._ort, config, self._context.backend_config)
                self._cpu_session = self._open_session(options, providers)
                check_given(config, providers, self._cpu_session.get_providers())
            return self._cpu_session

    def _file_for(self, device_id: int) -> Path:
        """Where the configuration has files for compute capabilities: the device's."""
        chosen = self.config.cc_model_filenames
        if not chosen:
            return self._path
        name = file_for(Gpu.open(device_id, self._context.name, "gpu").capability(), chosen, "")
        return _model_file(self._context, name) if name else self._path

    def _open_session(self, options: Any, providers: list[Provider], path: Path | None = None) -> Any:
        operators = self._context.config.model_operations
        for name in operators.op_library_filename if operators is not None else ():
            _register_operators(options, self._context, name)
        try:
            return self._ort.InferenceSession(str(path or self._path), options, providers=providers, enable_fallback=0)
        except Exception as error:
            raise Internal(failure_text(error)) from error


def _model_file(context: ModelContext, name: str = "") -> Path:
    path = context.version_path / (name or context.config.default_model_filename or "model.onnx")
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise Unavailable(f"unable to find '{path}' for model instance '{context.name}'")
    return path


def _register_operators(options: Any, context: ModelContext, name: str) -> None:
    """Adds a library of custom operators, which lies in the model's directory or in the version's."""
    path = context.version_path / name
    if not path.is_file():
        path = context.model_path / name
    if not path.is_file():
        raise Unavailable(f"unable to find '{path}', a library of operators for model '{context.name}'")
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        raise Internal(failure_text(error)) from error


def _wants_cpu(config: ModelConfig) -> bool:
    """True unless all instances are on GPUs; a group of kind AUTO may land on either."""
    groups = config.instance_group
    return not groups or any(group.kind != ModelInstanceGroupKind.GPU for group in groups)


_global_threads_lock = threading.Lock()
_global_threads_started = False


def _start_global_threads(ort: Any, context: ModelContext) -> None:
    """Sizes the process's one pool before the first session, where the backend setting asks for one."""
    global _global_threads_started
    counts = global_threads(context.backend_config)
    if counts is None:
        return
    with _global_threads_lock:
        if not _global_threads_started:
            try:
                ort.set_global_thread_pool_sizes(*counts)
            except Exception as error:
                raise Internal(failure_text(error)) from error
            _global_threads_started = True
