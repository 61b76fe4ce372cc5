"""Tensors of a batch that go between their callers' regions on GPUs and the model's memory there, not by the host.

    inputs   all of a batch have one on a device, unread: Resident, which copies it to where the model reads
    outputs  all who want one want it on a device, and have room: a tensor without bytes for each, once it is copied

What the model wants reshaped, ragged or cut goes by the host, as does what only some have on a device. Everything is
for the executing thread, which waits for the copies; the model's own work has been waited for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs

from ..schema.shared_memory import SharedTensor
from ..schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.port.work import BackendJob
    from ..schema.datatype import DataType
    from ..schema.shared_memory import Extent
    from .gather import InputGatherer, OutputScatterer

Shape = tuple[int, ...]


@attrs.frozen
class Resident:
    """A batch's input in its callers' regions: they follow one another."""

    shape: Shape
    kind: DataType
    parts: tuple[tuple[Extent, int], ...]
    """With their bytes."""

    def copy_to(self, device_id: int, address: int) -> None:
        """Raises Internal."""
        for extent, size in self.parts:
            extent.read_to_device(device_id, address, size)
            address += size


@attrs.frozen
class OnDevice:
    """A batch's output as it lies on the device, row by row."""

    name: str
    kind: DataType
    shape: Shape
    address: int

    @property
    def byte_size(self) -> int:
        return math.prod(self.shape) * self.kind.byte_size


class RegionCopies:
    """Of one instance, on one device."""

    def __init__(self, gatherer: InputGatherer, scatterer: OutputScatterer, device_id: int) -> None:
        self._gatherer = gatherer
        self._scatterer = scatterer
        self._device_id = device_id
        self._batching = scatterer.batching

    def resident(self, jobs: Sequence[BackendJob], rows: int) -> dict[str, Resident]:
        """The inputs that need not come to the host."""
        found: dict[str, Resident] = {}
        for slot in self._gatherer.slots:
            if slot.reshape is not None or slot.ragged or slot.is_shape_tensor:
                continue
            parts: list[tuple[Extent, int]] = []
            shape: Shape = ()
            for job in jobs:
                tensor = job.request.inputs.get(slot.name)
                extent = tensor.extent if isinstance(tensor, SharedTensor) and tensor.on_device else None
                if tensor is None or extent is None:
                    break
                shape = shape or tuple(tensor.shape)
                parts.append((extent, math.prod(tensor.shape) * slot.kind.byte_size))
            else:
                whole = (rows, *shape[1:]) if self._batching else shape
                found[slot.name] = Resident(whole, slot.kind, tuple(parts))
        return found

    def put(self, jobs: Sequence[Any], output: OnDevice) -> list[Tensor | None] | None:
        """Copies an output to where its callers want it, and gives each job's tensor, None for one that did not ask.
        None where it has to come to the host. Jobs may be such whose answers are postponed. Raises Internal."""
        if not self._goes_straight(jobs, output):
            return None
        tensors: list[Tensor | None] = []
        address = output.address
        for job in jobs:
            size = self._share(job, output)
            tensors.append(self._put(job, output, address, size) if wants(job, output.name) else None)
            address += size
        return tensors

    def _goes_straight(self, jobs: Sequence[Any], output: OnDevice) -> bool:
        name = output.name
        if self._scatterer.slots[name].reshape is not None or name in self._scatterer.cut_names:
            return False
        if self._batching and output.shape[:1] != (sum(job.batch_size for job in jobs),):
            return False  # which is the model's fault, and found by who makes answers of arrays
        for job in jobs:
            if wants(job, name):
                shared = job.request.shared
                extent = None if shared is None else shared.outputs.get(name)
                if extent is None or not extent.on_device or extent.byte_size < self._share(job, output):
                    return False
        return True

    def _put(self, job: Any, output: OnDevice, address: int, size: int) -> Tensor:
        extent = job.request.shared.outputs.get(output.name)  # none where the caller has left meanwhile
        if extent is not None and not job.is_cancelled():
            extent.write_from_device(self._device_id, address, size)
        shape = (job.batch_size, *output.shape[1:]) if self._batching else output.shape
        return Tensor(output.name, output.kind.name, shape, b"")

    def _share(self, job: Any, output: OnDevice) -> int:
        """Bytes of it that are the job's."""
        if not self._batching:
            return output.byte_size
        return output.byte_size // max(output.shape[0], 1) * int(job.batch_size)


def wants(job: Any, name: str) -> bool:
    """Whether the job's caller asked for that output."""
    return not job.request.outputs or name in job.request.outputs
