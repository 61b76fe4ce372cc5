"""What an ONNX file says about its inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ...schema.datatype import BY_NAME, DataType

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPE_NAMES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


@attrs.frozen
class ModelTensor:
    """One input or output of the file."""

    name: str
    type_text: str
    """As ONNX Runtime writes it: `tensor(float)`, `seq(tensor(int64))`."""
    kind: DataType | None
    """None for what the protocol cannot carry: sequences, maps, FP8."""
    shape: tuple[int, ...]
    """-1 for each size that the file leaves open. Empty for a scalar, and also where the file gives no rank."""


@attrs.frozen
class Signature:
    inputs: dict[str, ModelTensor]
    outputs: dict[str, ModelTensor]
    initializers: dict[str, ModelTensor]
    """Weights that a caller may override, so a configuration may list them as inputs."""

    @classmethod
    def of(cls, session: Any) -> Signature:
        """Reads an `onnxruntime.InferenceSession`."""
        return cls(
            _tensors(session.get_inputs()),
            _tensors(session.get_outputs()),
            _tensors(session.get_overridable_initializers()),
        )

    def can_batch(self) -> bool:
        """True when each input and output has an open first dimension."""
        return all(
            tensor.shape and tensor.shape[0] == -1
            for tensors in (self.inputs, self.outputs)
            for tensor in tensors.values()
        )


def _tensors(arguments: Iterable[Any]) -> dict[str, ModelTensor]:
    return {
        argument.name: ModelTensor(
            argument.name,
            argument.type,
            BY_NAME.get(_TYPE_NAMES.get(argument.type, "")),
            tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape),
        )
        for argument in arguments
    }
