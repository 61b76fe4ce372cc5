"""Shapes as a model sees them and as clients do: a configuration may reshape inputs and outputs, which it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..gather import Reshape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...schema.wire.generated.inference import ModelConfig


class Shapes:
    """Of one configuration. Stateless."""

    def __init__(self, config: ModelConfig) -> None:
        self.outputs = tuple(item.name for item in config.output)
        """What a request gets that names none."""
        self._first = 1 if config.max_batch_size > 0 else 0
        self._inputs = {
            item.name: Reshape.between(item.dims, item.reshape.shape)
            for item in config.input
            if item.reshape is not None
        }
        self._outputs = {
            item.name: Reshape.between(item.reshape.shape, item.dims)
            for item in config.output
            if item.reshape is not None
        }

    @property
    def reshapes_inputs(self) -> bool:
        """Whether `of_input` ever gives another shape."""
        return bool(self._inputs)

    def of_input(self, name: str, shape: Sequence[int]) -> Sequence[int]:
        return self._applied(self._inputs.get(name), shape)

    def of_output(self, name: str, shape: Sequence[int]) -> Sequence[int]:
        return self._applied(self._outputs.get(name), shape)

    def _applied(self, reshape: Reshape | None, shape: Sequence[int]) -> Sequence[int]:
        if reshape is None:
            return shape
        return (*shape[: self._first], *reshape.apply(shape[self._first :]))
