"""Batches of requests whose shapes differ: what the model is told of them, and whose its outputs are.

    allow_ragged_batch   every request's elements one after another, in one dimension
    batch_input          a tensor of counts or shapes, made from one input of each request
    batch_output         a flat output, cut at the sizes that one input of each request has

Pure. Shapes here are as the model sees them, with the batch dimension where the model batches.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs
import numpy as np

from ..schema.datatype import BY_NUMBER
from ..schema.fault import InvalidArgument, ModelFailure
from ..schema.wire.generated.inference import BatchInputKind as Kind
from ..schema.wire.generated.inference import ModelInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..schema.wire.generated.inference import BatchInput, ModelConfig

Shape = tuple[int, ...]

_INT32_MAX = 2**31 - 1


@attrs.frozen
class BatchTensors:
    """The inputs that one `batch_input` of the configuration adds to each batch."""

    names: tuple[str, ...]
    kind: Kind
    source: str
    """The input of whose shapes they are made."""
    dtype: np.dtype[np.generic]

    def array(self, shapes: Sequence[Shape]) -> np.ndarray:
        """For the source's shapes in the batch's requests, in serving order. Raises InvalidArgument for counts that the
        datatype does not hold."""
        if self.kind in (Kind.BATCH_ITEM_SHAPE, Kind.BATCH_ITEM_SHAPE_FLATTEN):
            rows = [shape[1:] for shape in shapes for _ in range(shape[0])]
            found = np.array(rows, dtype=np.int64).reshape(len(rows), len(shapes[0]) - 1)
            return self._cast(found if self.kind == Kind.BATCH_ITEM_SHAPE else found.ravel())
        counts = [math.prod(shape) for shape in shapes]
        if self.kind == Kind.BATCH_MAX_ELEMENT_COUNT_AS_SHAPE:
            # Only its shape says something. Zeros rather than what the memory held: the model might show it to callers.
            return np.zeros(max(counts), self.dtype)
        if self.kind == Kind.BATCH_ACCUMULATED_ELEMENT_COUNT:
            counts = list(accumulate(counts))
        elif self.kind == Kind.BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO:
            counts = list(accumulate(counts, initial=0))
        return self._cast(np.array(counts, dtype=np.int64))

    def _cast(self, counts: np.ndarray) -> np.ndarray:
        most = counts.max(initial=0)
        if self.dtype.kind == "i" and most > _INT32_MAX:
            raise InvalidArgument(f"batch input '{self.names[0]}': INT32 does not hold {most}, the elements of a batch")
        return counts.astype(self.dtype)


@attrs.frozen
class Cut:
    """How one output is cut into the answers of a batch's requests."""

    name: str
    source: str
    """The input whose sizes stand for the output's variable dimensions: each for the one in the same place."""
    shape: Shape
    """As the model gives it, -1 for what the source says."""

    def parts(self, model_name: str, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Views, one for each request. Raises ModelFailure where the elements are not as many as the shapes need."""
        wanted = [tuple(source[at] if size == -1 else size for at, size in enumerate(self.shape)) for source in shapes]
        sizes = [math.prod(shape) for shape in wanted]
        if array.size != sum(sizes):
            raise ModelFailure(
                f"model '{model_name}', output '{self.name}': expected {sum(sizes)} elements for requests of shapes "
                f"{', '.join(str(list(shape)) for shape in wanted)}, got shape {list(array.shape)}"
            )
        flat = array.reshape(-1)
        starts = accumulate(sizes, initial=0)
        return [flat[at : at + size].reshape(shape) for at, size, shape in zip(starts, sizes, wanted, strict=False)]


def batch_tensors(config: ModelConfig) -> tuple[BatchTensors, ...]:
    """What the configuration's `batch_input` asks for. It has been validated."""
    return tuple(
        BatchTensors(
            tuple(item.target_name), Kind(item.kind), item.source_input[0], BY_NUMBER[int(item.data_type)].dtype
        )
        for item in config.batch_input
    )


def batch_target_inputs(config: ModelConfig) -> list[ModelInput]:
    """The inputs that `batch_input` adds, as inputs of the model; the dims are the whole shape."""
    return [
        ModelInput(name=name, data_type=item.data_type, dims=_dims(config, item))
        for item in config.batch_input
        for name in item.target_name
    ]


def cuts(config: ModelConfig) -> dict[str, Cut]:
    """By the names of the outputs that `batch_output` cuts. The configuration has been validated."""
    lead = (-1,) if config.max_batch_size > 0 else ()
    sources = {name: item.source_input[0] for item in config.batch_output for name in item.target_name}
    return {
        item.name: Cut(
            item.name,
            sources[item.name],
            (*lead, *(item.dims if item.reshape is None else item.reshape.shape)),
        )
        for item in config.output
        if item.name in sources
    }


def is_ragged(config: ModelConfig) -> bool:
    """Whether anything here is asked for."""
    return bool(config.batch_input or config.batch_output or any(item.allow_ragged_batch for item in config.input))


def faults(config: ModelConfig) -> Iterator[str]:
    """What a valid configuration asks for that no batch can give, each in a sentence of its own."""
    inputs = {item.name: item for item in config.input}
    taken = set(inputs)
    for item in config.batch_input:
        if not item.target_name:
            yield f"batch input of source input '{item.source_input[0]}' must specify 'target_name'"
        for name in item.target_name:
            if name in taken:
                yield f"batch input '{name}' is specified more than once, or is an input already"
            taken.add(name)
    told = [(item.target_name, item.source_input[0]) for item in config.batch_input]
    told += [(item.target_name, item.source_input[0]) for item in config.batch_output]
    for names, source_name in told:
        if inputs[source_name].optional:
            yield f"source input '{source_name}' must not be optional: '{', '.join(names)}' needs it"
    lead = 1 if config.max_batch_size > 0 else 0
    for cut in cuts(config).values():
        source = inputs[cut.source]
        rank = lead + len(source.dims if source.reshape is None else source.reshape.shape)
        for at in range(rank, len(cut.shape)):
            if cut.shape[at] == -1:
                yield (
                    f"batch output '{cut.name}': source input '{cut.source}' has no dimension {at - lead}, which would "
                    "say the output's"
                )


def _dims(config: ModelConfig, item: BatchInput) -> list[int]:
    if item.kind != Kind.BATCH_ITEM_SHAPE:
        return [-1]
    source = next(each for each in config.input if each.name == item.source_input[0])
    return [-1, len(source.dims if source.reshape is None else source.reshape.shape)]
