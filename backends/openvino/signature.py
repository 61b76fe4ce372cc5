"""What a model that OpenVINO has read says about its inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ...schema.datatype import BY_NAME, DataType
from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

TYPE_NAMES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}
"""OpenVINO's names of element types, and the protocol's."""
ELEMENT_TYPES = {kind: text for text, kind in TYPE_NAMES.items()}


@attrs.frozen
class ModelTensor:
    """One input or output of the model."""

    name: str
    """The first of its names; a configuration may use any of them."""
    index: int
    """Among the model's inputs, or outputs."""
    type_text: str
    kind: DataType | None
    """None for what cannot be carried: strings, BF16, less than a byte."""
    shape: tuple[int, ...] | None
    """-1 for each size that the file leaves open; None without a rank."""
    has_batch_layout: bool
    """The file says that its first dimension is the batch."""


@attrs.frozen
class Signature:
    inputs: tuple[ModelTensor, ...]
    outputs: tuple[ModelTensor, ...]
    input_by_name: dict[str, ModelTensor]
    output_by_name: dict[str, ModelTensor]

    @classmethod
    def of(cls, ov: Any, model: Any) -> Signature:
        """Reads an `openvino.Model`. Raises InvalidArgument for tensors without a name: nobody could ask for them."""
        inputs, input_by_name = _tensors(ov, model.inputs, "input")
        outputs, output_by_name = _tensors(ov, model.outputs, "output")
        return cls(inputs, outputs, input_by_name, output_by_name)

    def has_batch_layout(self) -> bool:
        """True where the file says of every tensor that its first dimension is the batch."""
        return all(tensor.has_batch_layout for tensor in (*self.inputs, *self.outputs))


def _tensors(ov: Any, ports: Iterable[Any], role: str) -> tuple[tuple[ModelTensor, ...], dict[str, ModelTensor]]:
    tensors: list[ModelTensor] = []
    by_name: dict[str, ModelTensor] = {}
    for index, port in enumerate(ports):
        names = sorted(port.names)
        if not names:
            raise InvalidArgument(f"the model's {role} {index} has no name, so no request can have it")
        type_text = port.element_type.get_type_name()
        tensor = ModelTensor(
            names[0],
            index,
            type_text,
            BY_NAME.get(TYPE_NAMES.get(type_text, "")),
            _shape(port.partial_shape),
            _has_batch(ov, ov.layout_helpers.get_layout(port)),
        )
        tensors.append(tensor)
        by_name |= dict.fromkeys(names, tensor)
    return tuple(tensors), by_name


def _shape(shape: Any) -> tuple[int, ...] | None:
    if shape.rank.is_dynamic:
        return None
    return tuple(size.get_length() if size.is_static else -1 for size in shape)


def _has_batch(ov: Any, layout: Any) -> bool:
    return bool(ov.layout_helpers.has_batch(layout) and ov.layout_helpers.batch_idx(layout) == 0)
