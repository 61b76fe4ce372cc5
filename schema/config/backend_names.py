"""Phase A of auto-completion: the name, and which backend, platform and file a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..fault import InvalidArgument
from .copying import copied

if TYPE_CHECKING:
    from ..wire.generated.inference import ModelConfig

ENSEMBLE_PLATFORM = "ensemble"
TENSORRT_PLATFORM = "tensorrt_plan"


@attrs.frozen(kw_only=True)
class ModelListing:
    """What stands in a model's directory, as far as completion looks: its sub-directories, and the entries of the first
    of them in the order of their names as text (so "10" comes before "2", and `configs` counts)."""

    subdirectories: tuple[str, ...] = ()
    first_files: frozenset[str] = frozenset()
    first_directories: frozenset[str] = frozenset()

    @property
    def first(self) -> str | None:
        """The sub-directory that `first_files` and `first_directories` are about."""
        return min(self.subdirectories, key=str.encode, default=None)


@attrs.frozen
class _Known:
    backend: str
    platform: str
    """Filled in when empty; "" leaves it empty."""
    filename: str
    files: bool = True
    """Whether the model may be a file."""
    directories: bool = False
    """Whether the model may be a directory."""


_SAVED_MODEL = _Known("tensorflow", "tensorflow_savedmodel", "model.savedmodel", files=False, directories=True)
_GRAPH_DEF = _Known("tensorflow", "tensorflow_graphdef", "model.graphdef")
_BEFORE_PYTORCH = (
    _Known("tensorrt", TENSORRT_PLATFORM, "model.plan"),
    _Known("onnxruntime", "onnxruntime_onnx", "model.onnx", directories=True),
    _Known("openvino", "", "model.xml", directories=True),
)
_LIBTORCH = _Known("pytorch", "pytorch_libtorch", "model.pt")
_LIBTORCH_ALIAS = "libtorch"
_AOTI = _Known("pytorch", "torch_aoti", "model.pt2")
_PYTHON = _Known("python", "", "model.py", directories=True)

_PLATFORMS: dict[str, frozenset[str]] = {
    "tensorflow": frozenset({_SAVED_MODEL.platform, _GRAPH_DEF.platform}),
    "tensorrt": frozenset({TENSORRT_PLATFORM}),
    "onnxruntime": frozenset({"onnxruntime_onnx"}),
    "pytorch": frozenset({_LIBTORCH.platform, _AOTI.platform}),
}
"""The platforms that a backend may stand with; backends not listed take any."""


def complete_names(config: ModelConfig, model_name: str, listing: ModelListing) -> ModelConfig:
    """The configuration with name, backend, platform and default_model_filename filled in as far as they follow from
    each other, from the files, and at last from the model's name (`<anything>.<backend>`). What is given stays.

    Raises InvalidArgument when there is no way to tell the backend.
    """
    config = copied(config)
    config.name = config.name or model_name
    for complete in (_tensorflow, _file_per_backend, _pytorch, _python):
        if complete(config, listing):
            return config
    if not (config.backend or config.platform or config.default_model_filename):
        _, dot, backend = model_name.partition(".")
        if not dot:
            raise InvalidArgument(
                f"Invalid model name: Could not determine backend for model '{model_name}' with no backend in model "
                "configuration. Expected model name of the form 'model.<backend_name>'."
            )
        config.backend = backend
        config.default_model_filename = f"model.{backend}"
    return config


def check_directory_name(config: ModelConfig, directory: str) -> None:
    """Refuses a configuration whose name is not its directory's, which is what clients and indexes go by."""
    if config.name != directory:
        raise InvalidArgument(
            f"unexpected directory name '{directory}' for model '{config.name}', directory name must equal model name"
        )


def validate_names(config: ModelConfig) -> None:
    """Refuses a configuration without a name, or whose backend and platform do not go together."""
    if not config.name:
        raise InvalidArgument("model configuration must specify 'name'")
    if not config.backend:
        if config.platform != ENSEMBLE_PLATFORM:
            raise InvalidArgument(f"unexpected platform type '{config.platform}' for {config.name}")
    elif config.platform == ENSEMBLE_PLATFORM:
        raise InvalidArgument(
            f"Ensemble model '{config.name}' must have platform type '{ENSEMBLE_PLATFORM}' and empty backend type"
        )
    platforms = _PLATFORMS.get(config.backend)
    if platforms is not None and config.platform not in platforms:
        raise InvalidArgument(f"unexpected 'platform' and 'backend' pair, got:{config.platform}, {config.backend}")


# One function per backend, in the order in which they are asked. Each says whether the model is its own.


def _tensorflow(config: ModelConfig, listing: ModelListing) -> bool:
    if not config.platform and config.backend in ("", "tensorflow"):
        # The graph file is asked last, so it wins when both are there.
        for known in (_SAVED_MODEL, _GRAPH_DEF):
            given = config.default_model_filename
            if given == known.filename or (not given and _found(known, listing)):
                config.platform = known.platform
    for known in (_SAVED_MODEL, _GRAPH_DEF):
        if config.platform == known.platform:
            _fill(config, known)
            return True
    return False


def _file_per_backend(config: ModelConfig, listing: ModelListing) -> bool:
    for known in _BEFORE_PYTORCH:
        if not config.backend and (_named(config, known) or _seen(config, known, listing)):
            config.backend = known.backend
        if config.backend == known.backend:
            _fill(config, known)
            return True
    return False


def _pytorch(config: ModelConfig, listing: ModelListing) -> bool:
    if not config.backend:
        if _named(config, _LIBTORCH) or _named(config, _AOTI) or config.platform == _LIBTORCH_ALIAS:
            config.backend = _LIBTORCH.backend
            if config.default_model_filename == _AOTI.filename:
                config.platform = config.platform or _AOTI.platform
        elif not (config.platform or config.default_model_filename):
            present = listing.first_files | listing.first_directories
            known = _LIBTORCH if _LIBTORCH.filename in present else _AOTI
            if _found(known, listing):
                config.backend = known.backend
                config.platform = known.platform
    if config.backend != _LIBTORCH.backend:
        return False
    if not config.platform:
        _fill(config, _LIBTORCH)
    elif config.platform == _AOTI.platform:
        _fill(config, _AOTI)
    # With the platform pytorch_libtorch given, the file name stays empty; the backend knows its own.
    return True


def _python(config: ModelConfig, listing: ModelListing) -> bool:
    if not config.backend and (_named(config, _PYTHON) or _seen(config, _PYTHON, listing)):
        config.backend = _PYTHON.backend
    if config.backend != _PYTHON.backend:
        return False
    _fill(config, _PYTHON)
    return True


def _named(config: ModelConfig, known: _Known) -> bool:
    """Whether the configuration names this platform or this file."""
    platform = bool(known.platform) and config.platform == known.platform
    return platform or config.default_model_filename == known.filename


def _seen(config: ModelConfig, known: _Known, listing: ModelListing) -> bool:
    """Whether the directory decides, because the configuration says nothing, and has this file."""
    return not (config.platform or config.default_model_filename) and _found(known, listing)


def _found(known: _Known, listing: ModelListing) -> bool:
    return (known.files and known.filename in listing.first_files) or (
        known.directories and known.filename in listing.first_directories
    )


def _fill(config: ModelConfig, known: _Known) -> None:
    config.backend = config.backend or known.backend
    config.platform = config.platform or known.platform
    config.default_model_filename = config.default_model_filename or known.filename
