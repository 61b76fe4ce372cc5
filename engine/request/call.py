"""What a caller in process gives and gets: arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ...schema.inference import LATEST, InferenceRequest
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...schema.inference import InferenceResponse, Parameter


class InferOptions(TypedDict, total=False):
    """The keywords of `Engine.infer` and `Engine.stream`, for what passes them on."""

    outputs: Sequence[str]
    model_version: int
    request_id: str
    priority: int
    parameters: Mapping[str, Parameter] | None
    sequence_id: int | str
    sequence_start: bool
    sequence_end: bool
    timeout: float | None


class Result:
    """One answer. `result["OUTPUT0"]` is a numpy array: a view of what the model made where possible, so do not write
    to it. BYTES outputs are object arrays of `bytes`."""

    __slots__ = ("_outputs", "id", "model_name", "model_version", "parameters")

    def __init__(self, response: InferenceResponse) -> None:
        self.id = response.id
        self.model_name = response.model_name
        self.model_version = int(response.model_version)
        self.parameters: Mapping[str, Parameter] = dict(response.parameters or {})
        self._outputs = {tensor.name: tensor for tensor in response.outputs}

    def __getitem__(self, name: str) -> np.ndarray:
        """The output of that name. Raises KeyError with the names that there are."""
        tensor = self._outputs.get(name)
        if tensor is None:
            raise KeyError(f"no output '{name}' in the answer of model '{self.model_name}', only {list(self._outputs)}")
        return tensor.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def tensor(self, name: str) -> Tensor:
        """The output with its datatype and shape."""
        return self._outputs[name]

    def __repr__(self) -> str:
        return f"Result({self.model_name!r}, version {self.model_version}, {list(self._outputs.values())})"


def request_of(
    model_name: str,
    inputs: Mapping[str, object],
    *,
    model_version: int = LATEST,
    outputs: Sequence[str] = (),
    request_id: str = "",
    priority: int = 0,
    parameters: Mapping[str, Parameter] | None = None,
    sequence_id: int | str = 0,
    sequence_start: bool = False,
    sequence_end: bool = False,
) -> InferenceRequest:
    """The request that the keyword arguments of `Engine.infer` describe. Raises InvalidArgument for unknown dtypes."""
    tensors = {
        name: value if isinstance(value, Tensor) else Tensor.of(name, np.asanyarray(value))
        for name, value in inputs.items()
    }
    return InferenceRequest(
        model_name,
        tensors,
        model_version=model_version,
        id=request_id,
        outputs=tuple(outputs),
        parameters=dict(parameters) if parameters else None,
        priority=priority,
        correlation_id=sequence_id,
        sequence_start=sequence_start,
        sequence_end=sequence_end,
    )
