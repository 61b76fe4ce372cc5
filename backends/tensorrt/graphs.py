"""Which CUDA graphs are captured when an instance opens, and which one a batch is executed by.

| configured                     | captured                                                        | serves            |
|--------------------------------|-----------------------------------------------------------------|-------------------|
| no `graph_spec`                | batches of 1, of the preferred sizes and of the largest         | those sizes       |
| `graph_spec`                   | its batch size and shapes                                       | those shapes      |
| with a `graph_lower_bound`     | its batch size and shapes                                       | all from there on |

Pure.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.sequence_tensors import added_inputs
from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ...schema.wire.generated.inference import (
        ModelConfig,
        ModelInput,
        ModelOptimizationPolicyCudaGraphSpec,
        ModelOptimizationPolicyCudaGraphSpecLowerBound,
    )
    from .signature import Shape

_log = logging.getLogger("despina.backends.tensorrt")


@attrs.frozen
class Captured:
    """Shapes by input, whole: those that are captured, and the smallest that may use that."""

    shapes: dict[str, Shape]
    lowest: dict[str, Shape]

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        return all(
            len(shape) == len(self.shapes[name])
            and all(
                low <= size <= high for low, size, high in zip(self.lowest[name], shape, self.shapes[name], strict=True)
            )
            for name, shape in shapes.items()
        )


def wanted_graphs(config: ModelConfig) -> list[Captured]:
    """Raises InvalidArgument for specifications that do not fit the model."""
    cuda = config.optimization.cuda if config.optimization is not None else None
    if cuda is None or not cuda.graphs:
        return []
    items = [*config.input, *added_inputs(config)]
    if any(item.is_shape_tensor for item in items):
        raise InvalidArgument(
            f"unable to load model '{config.name}': CUDA graphs cannot be used with shape tensors, whose values would "
            "be captured, too"
        )
    if cuda.graph_spec:
        return _specified(config, items, cuda.graph_spec)
    if any(-1 in _dims(item) for item in items):
        _log.warning("model '%s': its shapes are open, so CUDA graphs need a graph_spec: none is captured", config.name)
        return []
    found = []
    for rows in _usual_sizes(config):
        shapes = {item.name: (*rows, *_dims(item)) for item in items}
        found.append(Captured(shapes, shapes))
    return found


def choose(graphs: Iterable[Captured], shapes: Mapping[str, Shape]) -> Captured | None:
    """The one with the fewest sizes too many; None where none takes these shapes."""
    best: Captured | None = None
    least = 0
    for graph in graphs:
        if graph.takes(shapes):
            spare = sum(sum(graph.shapes[name]) - sum(shape) for name, shape in shapes.items())
            if best is None or spare < least:
                best, least = graph, spare
    return best


def _usual_sizes(config: ModelConfig) -> list[tuple[int, ...]]:
    if config.max_batch_size == 0:
        return [()]
    preferred: Sequence[int] = ()
    if config.dynamic_batching is not None:
        preferred = config.dynamic_batching.preferred_batch_size
    elif config.sequence_batching is not None and config.sequence_batching.oldest is not None:
        preferred = config.sequence_batching.oldest.preferred_batch_size
    return [(size,) for size in sorted({1, *preferred, config.max_batch_size})]


def _specified(
    config: ModelConfig, items: Sequence[ModelInput], specs: Sequence[ModelOptimizationPolicyCudaGraphSpec]
) -> list[Captured]:
    graphs: list[Captured] = []
    found: list[str] = []
    for number, spec in enumerate(specs):
        where = f"model '{config.name}', graph_spec {number}"
        with collected(found):
            shapes = _shapes(where, config, items, spec)
            bound = spec.graph_lower_bound
            lowest = shapes if bound is None else _shapes(f"{where}, graph_lower_bound", config, items, bound)
            if any(low > size for name in shapes for low, size in zip(lowest[name], shapes[name], strict=True)):
                raise InvalidArgument(f"{where}: graph_lower_bound must not be above the specification")
            graphs.append(Captured(shapes, lowest))
    refuse_all(found)
    return graphs


def _shapes(
    where: str,
    config: ModelConfig,
    items: Sequence[ModelInput],
    spec: ModelOptimizationPolicyCudaGraphSpec | ModelOptimizationPolicyCudaGraphSpecLowerBound,
) -> dict[str, Shape]:
    batching = config.max_batch_size > 0
    lowest = 1 if batching else 0
    if not lowest <= spec.batch_size <= config.max_batch_size:
        raise InvalidArgument(
            f"{where}: expected a batch_size from {lowest} to {config.max_batch_size}, got {spec.batch_size}"
        )
    unknown = sorted(set(spec.input) - {item.name for item in items})
    if unknown:
        raise InvalidArgument(f"{where}: the model has no input '{unknown[0]}'")
    shapes: dict[str, Shape] = {}
    for item in items:
        dims = _dims(item)
        given = spec.input.get(item.name)
        chosen = dims if given is None else tuple(given.dim)
        if len(chosen) != len(dims) or any(
            size < 1 or open_size not in (-1, size) for open_size, size in zip(dims, chosen, strict=True)
        ):
            raise InvalidArgument(f"{where}: input '{item.name}' has dims {list(dims)}, got {list(chosen)}")
        shapes[item.name] = ((spec.batch_size,) if batching else ()) + chosen
    return shapes


def _dims(item: ModelInput) -> tuple[int, ...]:
    """As the model has them."""
    return tuple(item.dims if item.reshape is None else item.reshape.shape)
