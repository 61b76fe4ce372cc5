"""The OpenVINO backend: reads model files, completes and checks configurations, compiles, makes instances."""

from __future__ import annotations

import importlib.metadata
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault, Internal, InvalidArgument, Unavailable
from ..fitting import default_max_batch_size
from ..telemetry import without_openvino_telemetry
from .configuration import check_inputs, check_outputs, complete
from .failure import failure_text
from .instance import OpenVINOInstance
from .options import Options
from .reading import read
from .shaping import fix_or_open_batch, with_datatypes
from .signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext

_log = logging.getLogger("despina.backends.openvino")


class OpenVINOBackend:
    name = "openvino"
    preferred_kind: InstanceKind | None = "CPU"
    settings: Mapping[str, str] = MappingProxyType({})

    def open_model(self, context: ModelContext) -> OpenVINOModel:
        try:
            with without_openvino_telemetry():
                import openvino
        except ImportError as error:
            raise Unavailable(
                f"unable to load model '{context.name}': openvino cannot be imported ({error}); "
                "to get it: pip install 'despina[openvino]'"
            ) from error
        return OpenVINOModel(openvino, context)

    def config_summary(self) -> str:
        """Does not import the framework: the table is printed before any model needs it."""
        try:
            return f"openvino {importlib.metadata.version('openvino')}"
        except importlib.metadata.PackageNotFoundError:
            return "openvino is not installed (pip install 'despina[openvino]')"


class OpenVINOModel:
    """One opened version, compiled once: its instances share the weights, and each has an infer request of its own."""

    def __init__(self, ov: Any, context: ModelContext) -> None:
        config = context.config
        self._options = options = Options.of(config)
        path = _model_file(context)
        core = ov.Core()
        if options.cpu_extension:
            _told("loading custom CPU extensions", lambda: core.add_extension(options.cpu_extension))
        model = _told("reading model", lambda: read(ov, core, config, path))
        signature = Signature.of(ov, model)
        if context.auto_complete:
            config = complete(config, signature, default_max_batch_size(context))
        self.config = config
        check_inputs(config, signature, reshapes=options.reshapes)
        self._is_batch_fixed = fix_or_open_batch(ov, model, config, options)
        signature = Signature.of(ov, model)
        check_outputs(config, signature)
        model = with_datatypes(ov, model, config, signature)
        properties = _told("configuring device", lambda: _supported(core, config.name, options))
        self._compiled: Any = _told("loading model", lambda: core.compile_model(model, options.device, properties))
        self._ov = ov
        self._signature = signature

    def open_instance(self, instance: InstanceContext) -> OpenVINOInstance:
        if instance.kind == "GPU" and self._options.device == "CPU":
            raise InvalidArgument(
                f"unable to load model '{self.config.name}', openVINO backend supports only CPU device"
            )
        request = _told("creating infer request object", self._compiled.create_infer_request)
        return OpenVINOInstance(
            instance.name,
            self._ov,
            request,
            self.config,
            self._signature,
            fixed_rows=self.config.max_batch_size if self._is_batch_fixed else 0,
            options=self._options,
        )

    def close(self) -> None:
        self._compiled = None


def _model_file(context: ModelContext) -> Path:
    path = context.version_path / (context.config.default_model_filename or "model.xml")
    if path.is_dir() and (path / "model.xml").is_file():
        path /= "model.xml"
    if not path.exists():  # a SavedModel is a directory
        raise Unavailable(f"unable to find '{path}' for model '{context.name}'")
    return path


def _supported(core: Any, model_name: str, options: Options) -> dict[str, str]:
    """Of the properties, those that the device has."""
    known = core.get_property(options.device, "SUPPORTED_PROPERTIES")
    for name in options.properties.keys() - known:
        _log.warning("model '%s': device %s has no %s, it has no effect", model_name, options.device, name)
    return {name: value for name, value in options.properties.items() if name in known}


def _told(doing: str, call: Callable[[], Any]) -> Any:
    """What `call` returns. What it raises becomes Internal, with OpenVINO's text."""
    try:
        return call()
    except Fault:
        raise
    except Exception as error:
        raise Internal(failure_text(doing, error)) from error
