"""Tensors in memory that a client shares with the server: what a request says, and what doors bind it to.

    head of the request ──SharedMemoryRange──▶ Regions.find ──▶ Extent ◀── SharedTensor (input), SharedUse.outputs
                                               (the engine's registry)

An input is read when it is first needed, once, into memory of our own: what the client does to its region afterwards
changes nothing. An extent keeps its region alive; a request lets go of its extents by `release`, or by being forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from .fault import NotFound
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from .tensor import Buffer


class SharedMemoryRange(NamedTuple):
    """A part of a registered region, where an input lies or an output goes. Numbers are the client's, unchecked."""

    region: str
    offset: int
    byte_size: int


class Extent(Protocol):
    """A range that lay within its region when it was found. Both methods work from any thread and raise
    InvalidArgument when the region has become too small since."""

    byte_size: int

    @property
    def on_device(self) -> bool:
        """The memory is a GPU's: reading and writing wait for it."""
        ...

    def read(self) -> memoryview:
        """The bytes as they are now: a copy, writable, aligned."""
        ...

    def write(self, data: Buffer) -> None:
        """Puts `data`, at most `byte_size` bytes, at the extent's start."""
        ...

    def read_to_device(self, device_id: int, address: int, size: int) -> None:
        """Copies `size` bytes from its start to memory of that device; only where `on_device`. Done when it returns.
        Raises Internal."""
        ...

    def write_from_device(self, device_id: int, address: int, size: int) -> None:
        """As `write`, of what lies on that device; only where `on_device`. Done when it returns. Raises Internal."""
        ...


class Regions(Protocol):
    """What has been registered."""

    def find(self, place: SharedMemoryRange, is_input: bool) -> Extent:
        """Raises NotFound for an unknown region, InvalidArgument for what is not within it, or is too large an
        input."""
        ...


class SharedTensor(Tensor):
    """An input that lies in a region. `memory()` and `numpy()` read it on first use, and may raise InvalidArgument."""

    __slots__ = ("byte_size", "extent")

    def __init__(self, name: str, datatype: str, shape: Sequence[int], extent: Extent) -> None:
        super().__init__(name, datatype, shape)
        self.extent: Extent | None = extent
        """None once it is read, or given up."""
        self.byte_size = extent.byte_size

    @property
    def on_device(self) -> bool:
        """It lies in a GPU's memory, and has not been read yet."""
        return self.extent is not None and self.extent.on_device

    def memory(self) -> Buffer:
        if self.wire is None:
            extent = self.extent
            assert extent is not None, "a request that was given up is not executed"
            self.wire = extent.read()
            self.extent = None
        return self.wire

    def numpy(self) -> np.ndarray:
        if self.array is None:
            self.memory()
        return super().numpy()


class SharedUse:
    """All that one request shares. Made while it is read; `release` when it is over, from whichever thread."""

    __slots__ = ("_regions", "inputs", "outputs")

    def __init__(self, regions: Regions | None) -> None:
        """Without `regions` every region is unknown."""
        self._regions = regions
        self.inputs: list[SharedTensor] = []
        self.outputs: dict[str, Extent] = {}
        """By output name. Of two places for one output the first counts."""

    def input(self, name: str, datatype: str, shape: Sequence[int], place: SharedMemoryRange) -> SharedTensor:
        tensor = SharedTensor(name, datatype, shape, self._find(place, is_input=True))
        self.inputs.append(tensor)
        return tensor

    def output(self, name: str, place: SharedMemoryRange) -> None:
        self.outputs.setdefault(name, self._find(place, is_input=False))

    @property
    def on_device(self) -> bool:
        """Some of it is memory of a GPU."""
        extents = (*self.outputs.values(), *(tensor.extent for tensor in self.inputs))
        return any(extent is not None and extent.on_device for extent in extents)

    def release(self) -> None:
        """Lets go of the regions. Idempotent. Inputs already read keep their bytes."""
        for tensor in self.inputs:
            tensor.extent = None
        self.outputs = {}

    def _find(self, place: SharedMemoryRange, is_input: bool) -> Extent:
        if self._regions is None:
            raise NotFound(f"Unable to find shared memory region: '{place.region}'")
        return self._regions.find(place, is_input)
