"""The regions that clients have registered: which there are, and finding a request's range in one.

    register ──▶ by name ──find──▶ RegionExtent, some ──refer to──▶ Region ──▶ the client's memory
    unregister: the name is gone at once; the region closes when the last extent is let go

Names are unique over both kinds. Everything here happens on the trio thread; extents are used on any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from ...schema.fault import AlreadyExists, InvalidArgument, NotFound, Unavailable, Unsupported
from .cuda_region import CudaRegion, load_cuda
from .system_region import SystemRegion, open_system_region

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.shared_memory import SharedMemoryRange
    from ...schema.tensor import Buffer
    from .cuda_region import Cuda

DRIVER_SECONDS_MAX = 30
"""For opening or closing one region, cupy's import included."""

DISABLED = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."


class Region(Protocol):
    """Memory of a client's. Closed when nobody refers to it any more. All methods work from any thread."""

    @property
    def name(self) -> str: ...

    @property
    def byte_size(self) -> int: ...

    @property
    def on_device(self) -> bool: ...

    def check(self, offset: int, size: int) -> None:
        """Raises InvalidArgument unless the memory is there now."""
        ...

    def read(self, offset: int, size: int) -> memoryview: ...

    def write(self, offset: int, data: Buffer) -> None: ...


class RegionExtent:
    """A range of a region, within what was registered."""

    __slots__ = ("_offset", "_region", "byte_size")

    def __init__(self, region: Region, offset: int, byte_size: int) -> None:
        self._region = region
        self._offset = offset
        self.byte_size = byte_size

    @property
    def on_device(self) -> bool:
        return self._region.on_device

    def read(self) -> memoryview:
        return self._region.read(self._offset, self.byte_size)

    def write(self, data: Buffer) -> None:
        assert len(data) <= self.byte_size, "the caller has compared the sizes"
        self._region.write(self._offset, data)

    def read_to_device(self, device_id: int, address: int, size: int) -> None:
        self._on_device(size).read_to_device(self._offset, device_id, address, size)

    def write_from_device(self, device_id: int, address: int, size: int) -> None:
        self._on_device(size).write_from_device(self._offset, device_id, address, size)

    def _on_device(self, size: int) -> CudaRegion:
        assert size <= self.byte_size, "the caller has compared the sizes"
        region = self._region
        assert isinstance(region, CudaRegion), "only where `on_device`"
        return region


class SharedMemory:
    """The registry. `allowed` false refuses to register and unregister, as the protocol wants; status still answers."""

    def __init__(
        self,
        *,
        allowed: bool = True,
        regions_max: int = 1024,
        input_bytes_max: int = 2**31 - 1,
        cuda: Callable[[], Cuda | None] = load_cuda,
    ) -> None:
        self._allowed = allowed
        self._regions_max = regions_max
        self._input_bytes_max = input_bytes_max
        self._cuda = cuda
        self._regions: dict[str, SystemRegion | CudaRegion] = {}

    def check_allowed(self) -> None:
        """Raises Unsupported where clients may not register."""
        if not self._allowed:
            raise Unsupported(DISABLED)

    # --- System regions

    def register_system(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens the POSIX shared memory object `key`; the client may unlink it afterwards. Numbers are bytes.

        Raises Unsupported when not allowed, AlreadyExists, Internal for a key that cannot be opened, InvalidArgument
        for a range that is not in the object, Unavailable at the bound on regions.
        """
        self._check_new(name)
        self._regions[name] = open_system_region(name, key, offset, byte_size)

    def unregister_system(self, name: str = "") -> None:
        """Forgets the region, or all. An unknown one, or one of the other kind, is no error."""
        self._unregister(name, SystemRegion)

    def system_status(self, name: str = "") -> list[SystemRegion]:
        """That region, or all, by name. Raises NotFound."""
        if not name:
            return [region for _, region in sorted(self._regions.items()) if isinstance(region, SystemRegion)]
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find system shared memory region: '{name}'")
        if not isinstance(region, SystemRegion):
            raise NotFound(f"The region named '{name}' is registered as CUDA shared memory, not system shared memory")
        return [region]

    # --- CUDA regions

    async def register_cuda(self, name: str, raw_handle: bytes, device_id: int, byte_size: int) -> None:
        """Opens the CUDA IPC handle, in a thread: the first one imports cupy, and each asks the driver. Raises as
        `register_system`, and InvalidArgument where there is no GPU. Cancelled, or late, nothing is registered."""
        self._check_new(name)
        region: CudaRegion | None = None
        with trio.move_on_after(DRIVER_SECONDS_MAX):
            region = await trio.to_thread.run_sync(
                self._open_cuda, name, raw_handle, device_id, byte_size, abandon_on_cancel=True
            )
        if region is None:
            raise Unavailable(
                f"failed to register CUDA shared memory region: '{name}', the driver has not answered within "
                f"{DRIVER_SECONDS_MAX} s"
            )
        self._check_new(name)  # another one may have come meanwhile
        self._regions[name] = region

    def _open_cuda(self, name: str, raw_handle: bytes, device_id: int, byte_size: int) -> CudaRegion:
        cuda = self._cuda()
        if cuda is None:
            raise InvalidArgument(f"failed to register CUDA shared memory region: '{name}', GPUs not supported")
        return CudaRegion(name, raw_handle, device_id, byte_size, cuda)

    async def unregister_cuda(self, name: str = "") -> None:
        """As `unregister_system`. What no request uses any more is closed in a thread."""
        closing = self._unregister(name, CudaRegion)
        if closing:
            with trio.move_on_after(DRIVER_SECONDS_MAX):
                await trio.to_thread.run_sync(closing.clear, abandon_on_cancel=True)

    def cuda_status(self, name: str = "") -> list[CudaRegion]:
        if not name:
            return [region for _, region in sorted(self._regions.items()) if isinstance(region, CudaRegion)]
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find cuda shared memory region: '{name}'")
        if not isinstance(region, CudaRegion):
            raise NotFound(f"The region named '{name}' is registered as system shared memory, not CUDA shared memory")
        return [region]

    # --- Use in requests

    def find(self, place: SharedMemoryRange, is_input: bool) -> RegionExtent:
        """See Regions."""
        name, offset, byte_size = place
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{name}'")
        if offset >= region.byte_size:
            raise InvalidArgument(f"Invalid offset for shared memory region: '{name}'")
        if offset + byte_size > region.byte_size or offset + byte_size == 0:
            raise InvalidArgument(f"Invalid offset + byte size for shared memory region: '{name}'")
        if is_input and byte_size > self._input_bytes_max:
            raise InvalidArgument(
                f"input of {byte_size} bytes in shared memory region '{name}' exceeds the maximum of "
                f"{self._input_bytes_max} bytes. Use --shared-memory-input-bytes-max to increase the limit."
            )
        region.check(offset, byte_size)
        return RegionExtent(region, offset, byte_size)

    # --- Inside

    def _check_new(self, name: str) -> None:
        self.check_allowed()
        if name in self._regions:
            raise AlreadyExists(f"shared memory region '{name}' already in manager")
        if len(self._regions) >= self._regions_max:
            raise Unavailable(
                f"failed to register shared memory region '{name}': there are {self._regions_max} regions already. Use "
                "--shared-memory-regions-max to increase the limit."
            )

    def _unregister(self, name: str, kind: type[SystemRegion | CudaRegion]) -> list[Region]:
        """Those that have no name any more."""
        self.check_allowed()
        names = [name] if name else list(self._regions)
        return [self._regions.pop(known) for known in names if isinstance(self._regions.get(known), kind)]
