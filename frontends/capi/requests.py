"""From what the library's queue gives to the engine's requests, and from its answers back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...schema.inference import InferenceRequest
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from ...native.extension_port import Output, TakenRequest
    from ...schema.inference import InferenceResponse

SEQUENCE_START = 1
SEQUENCE_END = 2


class ProgramRequest(InferenceRequest):
    """One that a C program has made."""

    __slots__ = ("address", "ticket")

    address: int
    """Of the library's object."""
    ticket: int
    """Of this flight of it; never twice the same."""


class LibraryRequest(ProgramRequest):
    """One that a model's library makes, maybe for a request that is under way: it is served while the engine stops."""

    __slots__ = ()

    pinned: ClassVar[bool] = True


def request_of(taken: TakenRequest, kind: type[InferenceRequest] = InferenceRequest) -> InferenceRequest:
    (_, _, name, version, id, inputs, outputs, parameters, flags, correlation_id, priority, timeout_us, _) = taken
    if inputs and inputs[0][4]:
        data = inputs[0][3]
        tensors = {"": Tensor("", "UINT8", (len(data),), data)}
        raw = True
    else:
        tensors = {name: Tensor(name, datatype, shape, data) for name, datatype, shape, data, _ in inputs}
        raw = False
    return kind(
        name,
        tensors,
        model_version=version,
        id=id,
        outputs=outputs,
        parameters=parameters,
        priority=priority,
        timeout_us=timeout_us,
        correlation_id=correlation_id,
        sequence_start=flags & SEQUENCE_START != 0,
        sequence_end=flags & SEQUENCE_END != 0,
        raw=raw,
    )


def outputs_of(response: InferenceResponse) -> list[Output]:
    """Name, datatype, shape and wire form of each. Raises Fault for one that has no wire form."""
    template = response.template
    if template is not None:
        return [
            (name, datatype, shape, wire)
            for (name, datatype, shape), wire in zip(template.tensors, response.wires, strict=True)
        ]
    return [
        (tensor.name, tensor.datatype, tensor.shape, tensor.memory() if tensor.wire is None else tensor.wire)
        for tensor in response.outputs
    ]
