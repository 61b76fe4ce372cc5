"""Between jobs and arrays: a batch's inputs as one array per input, an array per output back to the jobs.

For backends whose framework computes on whole batches. Per input: a batch of one is a view of the request (0 copies),
small inputs are joined in one pass, large ones are copied row range by row range into a fresh array, never one that
outputs of an earlier batch could alias. Per output: each job gets a view of its rows. Batches of unequal shapes, and
what a model is told of them, are ragged.py's.

Everything here runs on the executing thread. What a request can get wrong raises InvalidArgument, what a model can,
ModelFailure.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
import numpy as np

from ..schema.config.sequence_tensors import added_inputs
from ..schema.datatype import BY_NUMBER, DataType
from ..schema.fault import InvalidArgument, ModelFailure
from ..schema.tensor import Tensor
from .ragged import batch_tensors, cuts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ..engine.port.work import BackendJob
    from ..schema.wire.generated.inference import ModelConfig, ModelInput, ModelOutput

JOIN_BYTES_MAX = 64 * 1024
"""Inputs below this many bytes over the whole batch are joined; larger ones are copied in place: no second buffer."""


@attrs.frozen
class Reshape:
    """How one shape becomes another with the same number of elements; neither has the batch dimension."""

    shape: tuple[int, ...]
    """The target; each -1 is filled, in order, from `variable`."""
    variable: tuple[int, ...]
    """Indexes of the -1 in the source shape."""

    @classmethod
    def between(cls, source: Sequence[int], target: Sequence[int]) -> Reshape:
        return cls(tuple(target), tuple(i for i, size in enumerate(source) if size == -1))

    def apply(self, dims: Sequence[int]) -> tuple[int, ...]:
        """The target shape for actual `dims`. Raises InvalidArgument where they do not have the source's rank."""
        if not self.variable:
            return self.shape
        if len(dims) <= self.variable[-1]:
            raise InvalidArgument(f"cannot reshape {list(dims)} to {list(self.shape)}")
        actual = iter([dims[i] for i in self.variable])
        return tuple(next(actual) if size == -1 else size for size in self.shape)


@attrs.frozen
class Slot:
    """One input or output of the configuration, as the hot path wants it."""

    name: str
    kind: DataType
    reshape: Reshape | None
    ragged: bool = False
    """Requests of a batch may differ in shape: the model sees all elements in one dimension."""
    is_shape_tensor: bool = False
    """Equal in all requests of a batch: the model sees it once."""


class InputGatherer:
    """Makes the arrays of a batch's inputs, with the shapes that the model (not the client) expects."""

    def __init__(self, config: ModelConfig) -> None:
        self.batching = config.max_batch_size > 0
        self._batch_tensors = batch_tensors(config)
        self._sources = _Shapes(config)
        self.slots = tuple(_input_slot(item) for item in (*config.input, *added_inputs(config)))

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self._slots

    @slots.setter
    def slots(self, slots: tuple[Slot, ...]) -> None:
        self._slots = slots
        self.names = [slot.name for slot in slots]
        self.plain = not self._batch_tensors and all(slot.reshape is None and not slot.ragged for slot in slots)

    def gather(self, jobs: Sequence[BackendJob], rows: int, without: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Name to array for every input that the first job has; the scheduler never mixes input sets in one batch.
        Inputs `without` are left alone.

        Treat the arrays as read-only: they may be views of the request. Raises InvalidArgument for bytes that are not
        what a shape promises.
        """
        arrays: dict[str, np.ndarray] = {}
        first = jobs[0].request.inputs
        if self.plain and len(jobs) == 1 and not without:
            for name in self.names:
                tensor = first.get(name)
                if tensor is not None:
                    array = tensor.numpy()
                    # A body's tail may start anywhere; kernels assume aligned elements.
                    arrays[name] = array if array.flags.aligned else array.copy()
            return arrays
        for slot in self.slots:
            tensor = first.get(slot.name)
            if tensor is None or slot.name in without:
                continue
            if slot.ragged:
                arrays[slot.name] = join_elements([job.request.inputs[slot.name] for job in jobs])
                continue
            if len(jobs) == 1 or slot.is_shape_tensor:
                array = tensor.numpy()
                if not array.flags.aligned:
                    array = array.copy()  # a body's tail may start anywhere; kernels assume aligned elements
            else:
                array = join_rows([job.request.inputs[slot.name] for job in jobs], slot.kind, rows)
            if slot.reshape is not None:
                array = array.reshape(_reshaped_shape(slot.reshape, array.shape, self.batching))
            arrays[slot.name] = array
        for made in self._batch_tensors:
            array = made.array(self._sources.of(made.source, jobs))
            arrays |= dict.fromkeys(made.names, array)
        return arrays


def join_elements(tensors: Sequence[Tensor]) -> np.ndarray:
    """All elements of the tensors in one dimension, one tensor after another; of a lone one a view where it can be."""
    if len(tensors) > 1:
        return np.concatenate([tensor.numpy().ravel() for tensor in tensors])
    array = tensors[0].numpy().ravel()
    return array if array.flags.aligned else array.copy()


def join_rows(tensors: Sequence[Tensor], kind: DataType, rows: int) -> np.ndarray:
    """The tensors below one another: `rows` rows of the first one's row shape. Always a new array.

    Raises InvalidArgument where the elements are not that many, ModelFailure never.
    """
    row_shape = tuple(tensors[0].shape[1:])
    shape = (rows, *row_shape)
    if kind.byte_size == 0:
        items = np.concatenate([tensor.numpy().ravel() for tensor in tensors])
        return _reshaped(items, shape, tensors[0].name)
    if math.prod(shape) * kind.byte_size < JOIN_BYTES_MAX:
        joined = b"".join([tensor.memory() for tensor in tensors])
        size = math.prod(shape) * kind.byte_size
        if len(joined) != size:
            raise InvalidArgument(
                f"input '{tensors[0].name}': shape {list(shape)} needs {size} bytes, got {len(joined)}"
            )
        return _reshaped(np.frombuffer(joined, kind.dtype), shape, tensors[0].name)
    array = np.empty(shape, kind.dtype)
    start = 0
    for tensor in tensors:
        part = tensor.numpy()
        stop = start + len(part)
        if stop > rows or part.shape[1:] != row_shape:
            raise InvalidArgument(
                f"input '{tensor.name}': shape {list(part.shape)} does not fit a batch of shape {list(shape)}"
            )
        array[start:stop] = part
        start = stop
    if start != rows:
        raise InvalidArgument(f"input '{tensors[0].name}': a batch of {rows} rows got {start}")
    return array


class OutputScatterer:
    """Answers a batch's jobs from the model's output arrays."""

    def __init__(self, config: ModelConfig) -> None:
        self.model_name = config.name
        self.batching = config.max_batch_size > 0
        self.slots = {item.name: _output_slot(item) for item in config.output}
        self.names = list(self.slots)
        self._cuts = cuts(config)
        self.cut_names = frozenset(self._cuts)
        self._sources = _Shapes(config)
        self.plain = not self._cuts and all(slot.reshape is None for slot in self.slots.values())
        self._wanted: dict[tuple[str, ...], list[str]] = {}

    def wanted(self, jobs: Sequence[BackendJob]) -> list[str]:
        """The outputs that at least one job asks for, in the configuration's order. Do not change the list."""
        if len(jobs) == 1:
            requested = jobs[0].request.outputs
            return self.names if not requested else self._ordered(tuple(requested))
        union: set[str] = set()
        for job in jobs:
            if not job.request.outputs:
                return self.names
            union.update(job.request.outputs)
        return self._ordered(tuple(sorted(union)))

    def scatter(
        self,
        jobs: Sequence[BackendJob],
        rows: int,
        arrays: Mapping[str, np.ndarray],
        own: Mapping[str, Sequence[Tensor | None]] = MappingProxyType({}),
    ) -> None:
        """Responds to every job with views of its rows of the outputs that it asked for.

        `arrays` has an array with the slot's dtype for each of `wanted(jobs)`, but for those in `own`, which has a
        tensor for each job, None for one that did not ask. Raises ModelFailure, and answers nobody,
        where an array does not have one row for each of the batch's, or those elements that its cut needs.
        """
        slots = self.slots
        parts = self._parts(jobs, arrays) if self._cuts else {}
        if self.batching:
            for name, array in arrays.items():
                if name not in parts and (array.ndim == 0 or array.shape[0] != rows):
                    raise ModelFailure(
                        f"model '{self.model_name}', output '{name}': expected {rows} rows for a batch of {rows}, "
                        f"got shape {list(array.shape)}"
                    )
        if self.plain and len(jobs) == 1 and not own:
            jobs[0].respond(
                [Tensor(name, slots[name].kind.name, array.shape, None, array) for name, array in arrays.items()]
            )
            return
        start = 0
        alone = len(jobs) == 1
        for index, job in enumerate(jobs):
            stop = start + job.batch_size
            outputs: list[Tensor] = []
            requested = job.request.outputs
            for name in arrays:
                if requested and name not in requested:
                    continue
                array = arrays[name] if alone else arrays[name][start:stop]
                if parts and name in parts:
                    array = parts[name][index]
                slot = slots[name]
                if slot.reshape is not None:
                    array = self._configured_shape(slot, array)
                outputs.append(Tensor(name, slot.kind.name, array.shape, None, array))
            outputs.extend(tensor for tensors in own.values() if (tensor := tensors[index]) is not None)
            job.respond(outputs)
            start = stop

    def _parts(self, jobs: Sequence[BackendJob], arrays: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Of each output that is cut, a part for each job."""
        return {
            name: cut.parts(self.model_name, arrays[name], self._sources.of(cut.source, jobs))
            for name, cut in self._cuts.items()
            if name in arrays
        }

    def _ordered(self, requested: tuple[str, ...]) -> list[str]:
        names = self._wanted.get(requested)
        if names is None:
            names = [name for name in self.names if name in requested]
            if len(self._wanted) < 256:  # callers choose the keys, so the cache has a bound
                self._wanted[requested] = names
        return names

    def _configured_shape(self, slot: Slot, array: np.ndarray) -> np.ndarray:
        reshape = slot.reshape
        assert reshape is not None
        shape = array.shape
        try:
            if self.batching:
                return array.reshape((shape[0], *reshape.apply(shape[1:])))
            return array.reshape(reshape.apply(shape))
        except (InvalidArgument, ValueError):
            raise ModelFailure(
                f"model '{self.model_name}', output '{slot.name}': cannot reshape {list(shape)} to the configured dims "
                f"{list(reshape.shape)}"
            ) from None


class _Shapes:
    """The shapes of one input in the requests of a batch, as the model sees them."""

    def __init__(self, config: ModelConfig) -> None:
        self._batching = config.max_batch_size > 0
        self._reshapes = {
            item.name: Reshape.between(item.dims, item.reshape.shape)
            for item in config.input
            if item.reshape is not None
        }

    def of(self, name: str, jobs: Sequence[BackendJob]) -> list[tuple[int, ...]]:
        shapes = [tuple(job.request.inputs[name].shape) for job in jobs]
        reshape = self._reshapes.get(name)
        if reshape is None:
            return shapes
        return [_reshaped_shape(reshape, shape, self._batching) for shape in shapes]


def _reshaped_shape(reshape: Reshape, shape: tuple[int, ...], batching: bool) -> tuple[int, ...]:
    return (shape[0], *reshape.apply(shape[1:])) if batching else reshape.apply(shape)


def _input_slot(item: ModelInput) -> Slot:
    reshape = None if item.reshape is None else Reshape.between(item.dims, item.reshape.shape)
    return Slot(item.name, BY_NUMBER[int(item.data_type)], reshape, item.allow_ragged_batch, item.is_shape_tensor)


def _output_slot(item: ModelOutput) -> Slot:
    reshape = None if item.reshape is None else Reshape.between(item.reshape.shape, item.dims)
    return Slot(item.name, BY_NUMBER[int(item.data_type)], reshape)


def _reshaped(flat: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if flat.size != math.prod(shape):
        raise InvalidArgument(f"input '{name}': shape {list(shape)} needs {math.prod(shape)} elements, got {flat.size}")
    try:
        return flat.reshape(shape)
    except ValueError:  # no elements, and other dimensions beyond what an array may have
        raise InvalidArgument(f"input '{name}': no array has the shape {list(shape)}") from None
