"""A version's file, opened: TorchScript, an exported program, an AOTInductor package, or a module of a `model.py`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from ...schema.fault import Fault, Internal, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from ...engine.port.backend import ModelContext
    from ...schema.wire.generated.inference import ModelConfig
    from .options import Options

AOTI = "torch_aoti"
RUNTIME = "model.py"


@attrs.frozen
class Opened:
    """A module on one device."""

    call: Any
    """Called with tensors."""
    argument_names: tuple[str, ...]
    """Of `forward`, as far as the file says."""
    takes_dictionary: bool


def open_file(torch: Any, context: ModelContext, config: ModelConfig, options: Options, device: Any) -> Opened:
    """Raises Unavailable for a file that is not there, Internal with PyTorch's text for one that does not open."""
    folder = context.version_path
    named = config.default_model_filename
    if config.runtime == RUNTIME or (not named and _is_python(folder)):
        path, opening = folder / RUNTIME, partial(_python, torch, context, folder / RUNTIME, options, device)
    elif config.platform == AOTI or named.endswith(".pt2"):
        path = folder / (_for_device(torch, config, device) or named or "model.pt2")
        opening = partial(_package, torch, path, device)
    else:
        path = folder / (_for_device(torch, config, device) or named or "model.pt")
        opening = partial(_script, torch, path, options, device)
    if not path.is_file() and config.runtime != RUNTIME:
        raise Unavailable(f"unable to find '{path}' for model instance '{context.name}'")
    try:
        return opening()
    except Fault:
        raise
    except Exception as error:
        if not _names_tensorrt(error):
            raise Internal(f"failed to load model '{context.name}': {error}") from error
        _know_tensorrt(context.name, error)
    try:
        return opening()
    except Exception as error:
        raise Internal(f"failed to load model '{context.name}': {error}") from error


def _names_tensorrt(error: Exception) -> bool:
    """A file that Torch-TensorRT has compiled, which PyTorch alone does not understand."""
    return "tensorrt" in str(error) and "torch_tensorrt" not in sys.modules


def _know_tensorrt(model_name: str, error: Exception) -> None:
    try:
        importlib.import_module("torch_tensorrt")
    except ImportError as missing:
        raise Unavailable(
            f"unable to load model '{model_name}': its file was compiled by Torch-TensorRT, and torch_tensorrt cannot "
            f"be imported ({missing}); to get it: pip install torch-tensorrt ({error})"
        ) from missing


def _for_device(torch: Any, config: ModelConfig, device: Any) -> str:
    """The file that the configuration has for the device's compute capability; empty for none."""
    if device.type != "cuda" or not config.cc_model_filenames:
        return ""
    return config.cc_model_filenames.get("{}.{}".format(*torch.cuda.get_device_capability(device)), "")


def _is_python(folder: Path) -> bool:
    return (folder / RUNTIME).is_file()


def _script(torch: Any, path: Path, options: Options, device: Any) -> Opened:
    module = torch.jit.load(str(path), map_location=device)
    module.eval()
    arguments = module.forward.schema.arguments[1:]
    dictionary = len(arguments) == 1 and arguments[0].type.kind() == "DictType"
    call = module if options.optimized else _unoptimized(torch, module)
    return Opened(call, tuple(argument.name for argument in arguments), dictionary)


def _unoptimized(torch: Any, module: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        with torch.jit.optimized_execution(False):
            return module(*arguments, **keywords)

    return call


def _package(torch: Any, path: Path, device: Any) -> Opened:
    """Compiled, if it holds that, else as a program that PyTorch interprets."""
    try:
        compiled = torch._inductor.aoti_load_package(str(path))
    except Exception:  # a program without compiled code, or what is neither
        module = torch.export.load(str(path)).module().to(device)
        names = _names_of(module.forward)
        return Opened(_by_position(module, names), names, False)
    return Opened(compiled, (), False)


def _by_position(module: Any, names: tuple[str, ...]) -> Any:
    """An exported program takes its arguments as it was exported: by position, mostly."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if all(name in names for name in keywords):
            arguments = (*arguments, *(keywords.pop(name) for name in names[len(arguments) :] if name in keywords))
        return module(*arguments, **keywords)

    return call


def _python(torch: Any, context: ModelContext, path: Path, options: Options, device: Any) -> Opened:
    state = context.version_path / (context.config.default_model_filename or "model.pt")
    if path.is_file():
        module = _class_of(torch, context, path)()
        if state.is_file():
            module.load_state_dict(torch.load(state, map_location=device, weights_only=True))
    elif state.is_file():
        module = torch.load(state, map_location=device, weights_only=False)
    else:
        raise Unavailable(f"unable to find '{path}' or '{state}' for model instance '{context.name}'")
    module = module.to(device).eval()
    names = _names_of(module.forward)
    if options.compile is not None:
        module = torch.compile(module, **options.compile)
    return Opened(module, names, False)


def _class_of(torch: Any, context: ModelContext, path: Path) -> Any:
    """The first subclass of Module that the file itself defines."""
    name = f"despina_pytorch_{context.name}_{context.version}".replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    for found in vars(module).values():
        if inspect.isclass(found) and issubclass(found, torch.nn.Module) and found.__module__ == name:
            return found
    raise Internal("Cannot find a subclass of torch.nn.Module")


def _names_of(forward: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
