"""What a model says about its inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ...schema.datatype import BY_NAME, DataType
from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPE_NAMES = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_BFLOAT16": "BF16",
    "DT_STRING": "BYTES",
}
"""TensorFlow's names of datatypes, and the protocol's."""


@attrs.frozen
class ModelTensor:
    """One input or output of the model."""

    name: str
    """As configurations and clients call it."""
    tensor_name: str
    """As the graph calls it: `<node>:<index>`."""
    kind: DataType
    shape: tuple[int, ...] | None
    """-1 for each size that the model leaves open; None without a rank."""


@attrs.frozen
class Signature:
    inputs: Mapping[str, ModelTensor]
    outputs: Mapping[str, ModelTensor]
    names_all: bool
    """False for a bare graph: any placeholder may be an input, and any node an output."""


def of_definition(types: Any, model_name: str, definition: Any) -> Signature:
    """Of a SavedModel's SignatureDef. `types` is TensorFlow's enumeration of datatypes. Raises InvalidArgument for
    tensors that cannot be carried."""
    inputs = _tensors(types, model_name, "input", definition.inputs)
    return Signature(inputs, _tensors(types, model_name, "output", definition.outputs), names_all=True)


def _tensors(types: Any, model_name: str, role: str, infos: Mapping[str, Any]) -> dict[str, ModelTensor]:
    tensors = {}
    for name in sorted(infos):
        info = infos[name]
        form = info.WhichOneof("encoding")
        if form not in (None, "name"):
            raise InvalidArgument(f"unable to process {role} '{name}' for '{model_name}', it is no tensor but a {form}")
        # What a variable itself gives out says so of its type.
        kind = kind_of(model_name, role, name, types.Name(info.dtype).removesuffix("_REF"))
        tensors[name] = ModelTensor(name, info.name, kind, shape_of(info.tensor_shape))
    return tensors


def kind_of(model_name: str, role: str, name: str, type_name: str) -> DataType:
    """Raises InvalidArgument for a datatype that the protocol lacks. `type_name` is as in `TYPE_NAMES`."""
    kind = BY_NAME.get(TYPE_NAMES.get(type_name, ""))
    if kind is None:
        raise InvalidArgument(
            f"unable to process {role} '{name}' for '{model_name}', unsupported datatype '{type_name}'"
        )
    return kind


def shape_of(shape: Any) -> tuple[int, ...] | None:
    """Of a TensorShapeProto."""
    return None if shape.unknown_rank else tuple(dimension.size for dimension in shape.dim)
