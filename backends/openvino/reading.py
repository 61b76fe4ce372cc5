"""From a model's files to OpenVINO's model of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...schema.datatype import BY_NUMBER
from ...schema.fault import Unavailable
from .signature import ELEMENT_TYPES

if TYPE_CHECKING:
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig, ModelInput


def read(ov: Any, core: Any, config: ModelConfig, path: Path) -> Any:
    """An `openvino.Model`. PyTorch's files are opened by PyTorch and converted in memory; all others OpenVINO reads.

    Raises what the two raise, Unavailable where PyTorch is needed and not there.
    """
    if path.suffix not in (".pt", ".pt2"):
        return core.read_model(str(path))
    try:
        import torch
    except ImportError as error:
        raise Unavailable(
            f"unable to load model '{config.name}': OpenVINO converts '{path.name}' with torch, which cannot be "
            f"imported ({error}); to get it: pip install 'despina[torch]'"
        ) from error
    model = (
        ov.convert_model(torch.export.load(str(path))) if path.suffix == ".pt2" else _script(ov, torch, config, path)
    )
    for index, port in enumerate(model.outputs):
        if not port.names:
            port.set_names({f"OUTPUT__{index}"})
    return model


def _script(ov: Any, torch: Any, config: ModelConfig, path: Path) -> Any:
    """TorchScript has names of arguments, and neither shapes nor datatypes: those are the configuration's."""
    module = torch.jit.load(str(path), map_location="cpu").eval()
    names = [argument.name for argument in module.forward.schema.arguments[1:]]
    given = {item.name: item for item in config.input}
    described = [_described(ov, config, given[name]) for name in names if name in given]
    model = ov.convert_model(module, input=described if len(described) == len(names) else None)
    if len(model.inputs) == len(names):  # an argument that nothing is made of is none there
        for name, port in zip(names, model.inputs, strict=True):
            port.set_names({name})
    return model


def _described(ov: Any, config: ModelConfig, item: ModelInput) -> tuple[Any, Any]:
    dims = item.dims if item.reshape is None else item.reshape.shape
    element_type = getattr(ov.Type, ELEMENT_TYPES.get(BY_NUMBER[int(item.data_type)].name, "dynamic"))
    return ov.PartialShape([-1, *dims] if config.max_batch_size > 0 else list(dims)), element_type
