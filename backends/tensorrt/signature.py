"""What a plan file says: its tensors, and the shapes that each optimisation profile takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ...schema.datatype import BY_NAME, DataType

if TYPE_CHECKING:
    from collections.abc import Iterable

Shape = tuple[int, ...]

_KINDS = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}


@attrs.frozen(kw_only=True)
class PlanTensor:
    """One input or output."""

    name: str
    type_text: str
    """As TensorRT writes it: `FLOAT`, `FP8`."""
    kind: DataType | None
    """None for what the protocol cannot carry: FP8, INT4, FP4."""
    shape: Shape
    """-1 for each size that is open."""
    is_input: bool
    is_shape: bool
    """Its values are sizes of other tensors."""
    on_host: bool = False
    """Where TensorRT wants it; of shape tensors."""
    linear: bool = True
    """Elements follow one another, row by row."""


@attrs.frozen
class Range:
    """What a profile takes of an input: sizes, or of a shape tensor the values."""

    lowest: Shape
    optimal: Shape
    highest: Shape


@attrs.frozen
class Profile:
    index: int
    shapes: dict[str, Range]
    """By input."""
    values: dict[str, Range]
    """Of shape tensors."""


@attrs.frozen
class Signature:
    inputs: dict[str, PlanTensor]
    outputs: dict[str, PlanTensor]
    profiles: tuple[Profile, ...]

    @classmethod
    def of(cls, trt: Any, engine: Any) -> Signature:
        """Reads a `tensorrt.ICudaEngine`."""
        tensors = [_tensor(trt, engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
        inputs = {tensor.name: tensor for tensor in tensors if tensor.is_input}
        return cls(
            inputs,
            {tensor.name: tensor for tensor in tensors if not tensor.is_input},
            tuple(_profile(engine, inputs.values(), index) for index in range(engine.num_optimization_profiles)),
        )

    def can_batch(self) -> bool:
        """True when each tensor that holds no sizes has an open first dimension."""
        tensors = [tensor for tensor in (*self.inputs.values(), *self.outputs.values()) if not tensor.is_shape]
        return bool(tensors) and all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)

    def max_batch_size(self, indexes: Iterable[int]) -> int:
        """The most rows that some of these profiles takes; 0 where there is no batching."""
        if not self.can_batch():
            return 0
        plain = [tensor.name for tensor in self.inputs.values() if not tensor.is_shape]
        return max(
            (min(self.profiles[index].shapes[name].highest[0] for name in plain) for index in indexes if plain),
            default=0,
        )


def _tensor(trt: Any, engine: Any, name: str) -> PlanTensor:
    type_text = engine.get_tensor_dtype(name).name
    return PlanTensor(
        name=name,
        type_text=type_text,
        kind=BY_NAME.get(_KINDS.get(type_text, "")),
        shape=tuple(engine.get_tensor_shape(name)),
        is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        is_shape=engine.is_shape_inference_io(name),
        on_host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
        linear=engine.get_tensor_format(name) == trt.TensorFormat.LINEAR,
    )


def _profile(engine: Any, inputs: Iterable[PlanTensor], index: int) -> Profile:
    shapes, values = {}, {}
    for tensor in inputs:
        if -1 in tensor.shape:
            found = engine.get_tensor_profile_shape(tensor.name, index)
            shapes[tensor.name] = Range(*(tuple(shape) for shape in found))
        else:
            shapes[tensor.name] = Range(tensor.shape, tensor.shape, tensor.shape)
        if tensor.is_shape and tensor.on_host:
            # The binding names these two arguments the wrong way round, so they go by their places.
            known = engine.get_tensor_profile_values(index, tensor.name)
            if known:
                values[tensor.name] = Range(*(tuple(each) for each in known))
    return Profile(index, shapes, values)
