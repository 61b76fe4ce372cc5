"""Requests and responses as the in-process package has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from .tensor import Tensor

if TYPE_CHECKING:
    from ...engine.request.call import InferOptions, Result
    from .errors import TritonError
    from .model import Model

_START, _END = 1, 2


@attrs.define(kw_only=True)
class InferenceRequest:
    """What a model is asked. `inputs` may be anything that `Tensor.of` takes."""

    model: Model
    request_id: str | None = None
    flags: int = 0
    correlation_id: int | str | None = None
    priority: int = 0
    timeout: int = 0
    """Of the queue, in microseconds."""
    inputs: dict[str, Any] = attrs.field(factory=dict)
    parameters: dict[str, str | int | bool | float] = attrs.field(factory=dict)
    response_queue: Any = None
    """Gets every response, beside the iterator."""

    def arrays(self) -> dict[str, object]:
        return {name: Tensor.of(value).numpy() for name, value in self.inputs.items()}

    def options(self) -> InferOptions:
        found: InferOptions = {
            "model_version": self.model.version,
            "request_id": self.request_id or "",
            "priority": self.priority,
            "sequence_id": self.correlation_id or 0,
            "sequence_start": self.flags & _START != 0,
            "sequence_end": self.flags & _END != 0,
        }
        parameters = dict(self.parameters)
        if self.timeout:
            parameters["timeout"] = self.timeout
        if parameters:
            found["parameters"] = parameters
        return found


@attrs.define(kw_only=True)
class InferenceResponse:
    """One answer; the last has `final`, and of decoupled models nothing else."""

    model: Model
    request_id: str | None = None
    parameters: dict[str, str | int | bool | float] = attrs.field(factory=dict)
    outputs: dict[str, Tensor] = attrs.field(factory=dict)
    error: TritonError | None = None
    final: bool = False

    @classmethod
    def of(cls, model: Model, result: Result, *, final: bool) -> InferenceResponse:
        return cls(
            model=model,
            request_id=result.id or None,
            parameters=dict(result.parameters),
            outputs={name: Tensor(result.tensor(name)) for name in result},
            final=final,
        )
