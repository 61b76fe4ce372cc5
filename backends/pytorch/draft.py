"""What a file tells of its inputs and outputs, for a configuration that somebody will finish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...engine.port.backend import Draft
from ...schema.datatype import BY_NAME
from ...schema.fault import InvalidArgument
from ...schema.wire.generated.inference import DataType, ModelConfig, ModelInput, ModelOutput
from .tensors import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_MAX_BATCH_SIZE = 4
_Tensors = list[tuple[str, str, list[int]]]


def draft(torch: Any, file: Path) -> Draft:
    """Raises InvalidArgument for what is no file of PyTorch's that can be served by itself."""
    try:
        return _of_program(torch, file) if file.suffix == ".pt2" else _of_script(torch, file)
    except Exception as error:
        kind = "an exported program (torch.export.save)" if file.suffix == ".pt2" else "TorchScript (torch.jit.save)"
        raise InvalidArgument(
            f"{file} is not {kind}: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error


def _of_script(torch: Any, file: Path) -> Draft:
    """Names of arguments, and how many results; TorchScript keeps neither datatypes nor shapes."""
    schema = torch.jit.load(str(file), map_location="cpu").forward.schema
    arguments = [argument.name for argument in schema.arguments[1:]]
    result = schema.returns[0].type
    count = len(result.elements()) if result.kind() == "TupleType" else 1
    config = _config(
        [(name, "FP32", [-1]) for name in arguments], [(f"OUTPUT__{index}", "FP32", [-1]) for index in range(count)], 0
    )
    return Draft(config, ("TorchScript does not keep datatypes and shapes: put yours in the place of these.",))


def _of_program(torch: Any, file: Path) -> Draft:
    program = torch.export.load(str(file))
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    names = {torch_dtype(torch, kind): name for name, kind in BY_NAME.items() if name != "BYTES"}

    def described(listed: Sequence[tuple[str, str]]) -> _Tensors:
        return [
            (shown, names[values[node].dtype], [size if type(size) is int else -1 for size in values[node].shape])
            for shown, node in listed
        ]

    signature = program.graph_signature
    inputs = described([(name, name) for name in signature.user_inputs])
    outputs = described([(f"OUTPUT__{index}", name) for index, name in enumerate(signature.user_outputs)])
    batched = all(dims[:1] == [-1] for _, _, dims in (*inputs, *outputs))
    if batched:
        inputs, outputs = (
            [(name, datatype, dims[1:]) for name, datatype, dims in tensors] for tensors in (inputs, outputs)
        )
    return Draft(_config(inputs, outputs, DEFAULT_MAX_BATCH_SIZE if batched else 0), ())


def _config(inputs: _Tensors, outputs: _Tensors, max_batch_size: int) -> ModelConfig:
    def number(datatype: str) -> DataType:
        return DataType(BY_NAME[datatype].number)

    return ModelConfig(
        max_batch_size=max_batch_size,
        input=[ModelInput(name=name, data_type=number(datatype), dims=dims) for name, datatype, dims in inputs],
        output=[ModelOutput(name=name, data_type=number(datatype), dims=dims) for name, datatype, dims in outputs],
    )
