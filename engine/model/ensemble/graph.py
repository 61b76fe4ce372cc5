"""The steps of an ensemble and the tensors between them, as its configuration has them. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ....schema.wire.generated.inference import ModelConfig


@attrs.frozen
class Step:
    """One use of one model."""

    index: int
    model_name: str
    model_version: int
    """-1 for the highest that serves."""
    inputs: Sequence[tuple[str, str]]
    """The model's input, and the ensemble's tensor that it gets."""
    outputs: Sequence[tuple[str, str]]
    """The model's output, and the tensor that it becomes."""
    reads: frozenset[str]
    """The tensors without which it cannot begin."""


@attrs.frozen
class Graph:
    """All of one ensemble. Without circles, each tensor written once: what is not so is refused before."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    steps: Sequence[Step]

    @classmethod
    def of(cls, config: ModelConfig) -> Graph:
        scheduling = config.ensemble_scheduling
        assert scheduling is not None, "an ensemble's configuration"
        return cls(
            inputs=[tensor.name for tensor in config.input],
            outputs=[tensor.name for tensor in config.output],
            steps=[
                Step(
                    index=index,
                    model_name=step.model_name,
                    model_version=step.model_version,
                    inputs=tuple(step.input_map.items()),
                    outputs=tuple(step.output_map.items()),
                    reads=frozenset(step.input_map.values()),
                )
                for index, step in enumerate(scheduling.step)
            ],
        )


def members(config: ModelConfig) -> list[str]:
    """The names of the models that an ensemble asks, each once; none of what is no ensemble."""
    scheduling = config.ensemble_scheduling
    return [] if scheduling is None else list(dict.fromkeys(step.model_name for step in scheduling.step))


def writers(steps: Sequence[Step]) -> Mapping[str, Step]:
    """Tensor -> the step that writes it."""
    return {tensor: step for step in steps for _, tensor in step.outputs}
