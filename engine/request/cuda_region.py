"""One allocation of a client's on a GPU, opened by its CUDA IPC handle, copied from and to by the driver.

cupy is imported when the first region is registered, never before. `Cuda` is the port: tests have one of their own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...schema.fault import Internal, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.tensor import Buffer

HANDLE_BYTES = 64


class Cuda(Protocol):
    """What is needed of CUDA. Every method may raise whatever the driver raises; all work from any thread."""

    def open_handle(self, device: int, handle: bytes) -> int:
        """The address of another process's allocation."""
        ...

    def close_handle(self, device: int, address: int) -> None: ...

    def allocated(self, device: int, address: int) -> int | None:
        """Bytes of the allocation from `address` on; None where that cannot be told."""
        ...

    def read(self, device: int, address: int, size: int) -> np.ndarray:
        """A copy in host memory."""
        ...

    def write(self, device: int, address: int, data: np.ndarray) -> None: ...

    def copy(self, device: int, address: int, source_device: int, source: int, size: int) -> None:
        """From device to device, or within one. Done when it returns."""
        ...


class CudaRegion:
    """See the module. Closed when nobody refers to it."""

    __slots__ = ("__weakref__", "_address", "_close", "_cuda", "byte_size", "device_id", "name")
    on_device = True

    def __init__(self, name: str, raw_handle: bytes, device_id: int, byte_size: int, cuda: Cuda) -> None:
        """Raises InvalidArgument for a handle that cannot be opened or does not reach that far."""
        self.name = name
        self.device_id = device_id
        self.byte_size = byte_size
        self._cuda = cuda
        self._close: Callable[[int, int], None] | None = None
        if len(raw_handle) != HANDLE_BYTES or not 0 <= device_id < 2**31:
            raise InvalidArgument("failed to register shared memory region: invalid args")
        try:
            self._address = cuda.open_handle(device_id, raw_handle)
            self._close = cuda.close_handle
            allocated = cuda.allocated(device_id, self._address)
        except Exception as problem:  # whatever the driver's binding raises
            raise InvalidArgument("failed to register shared memory region: invalid args") from problem
        if allocated is not None and byte_size > allocated:
            raise InvalidArgument(f"failed to register shared memory region '{name}': invalid args")

    def __del__(self) -> None:
        if self._close is not None:
            self._close(self.device_id, self._address)

    def check(self, offset: int, size: int) -> None:
        """An allocation does not shrink while it is open here."""

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of that range in host memory. Raises Internal for what the driver raises."""
        try:
            return self._cuda.read(self.device_id, self._address + offset, size).data
        except Exception as problem:
            raise Internal(f"unable to read CUDA shared memory region '{self.name}': {problem}") from problem

    def write(self, offset: int, data: Buffer) -> None:
        if len(data) == 0:
            return
        array = np.frombuffer(data, np.uint8)
        try:
            self._cuda.write(self.device_id, self._address + offset, array)
        except Exception as problem:
            raise Internal(f"unable to write to CUDA shared memory region '{self.name}': {problem}") from problem

    def read_to_device(self, offset: int, device_id: int, address: int, size: int) -> None:
        if size == 0:
            return
        try:
            self._cuda.copy(device_id, address, self.device_id, self._address + offset, size)
        except Exception as problem:
            raise Internal(f"unable to read CUDA shared memory region '{self.name}': {problem}") from problem

    def write_from_device(self, offset: int, device_id: int, address: int, size: int) -> None:
        if size == 0:
            return
        try:
            self._cuda.copy(self.device_id, self._address + offset, device_id, address, size)
        except Exception as problem:
            raise Internal(f"unable to write to CUDA shared memory region '{self.name}': {problem}") from problem


@cache
def load_cuda() -> Cuda | None:
    """CUDA by cupy; None without cupy or without a GPU."""
    try:
        import cupy
    except ImportError:
        return None
    try:
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return None
    except Exception:  # no driver
        return None
    return _Cupy(cupy, _driver())


def _driver() -> Any:
    """The driver's own library, for what its runtime does not tell."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


class _Cupy:
    """The port over cupy's bindings of the CUDA runtime. Copies are done when they return."""

    def __init__(self, cupy: Any, driver: Any) -> None:
        """`driver` is the library; None where it is not to be had."""
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._driver = driver

    def open_handle(self, device: int, handle: bytes) -> int:
        with self._cupy.cuda.Device(device):
            return int(self._runtime.ipcOpenMemHandle(handle, 1))  # 1: lazy peer access

    def close_handle(self, device: int, address: int) -> None:
        with self._cupy.cuda.Device(device):
            self._runtime.ipcCloseMemHandle(address)

    def allocated(self, device: int, address: int) -> int | None:
        """Of the block that the driver has cut it from, perhaps: it refuses nothing that is there."""
        if self._driver is None:
            return None
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        with self._cupy.cuda.Device(device):
            status = self._driver.cuMemGetAddressRange_v2(
                ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)
            )
        return None if status else base.value + size.value - address

    def read(self, device: int, address: int, size: int) -> np.ndarray:
        data = np.empty(size, np.uint8)
        with self._cupy.cuda.Device(device):
            self._runtime.memcpy(data.ctypes.data, address, size, self._runtime.memcpyDeviceToHost)
        return data

    def write(self, device: int, address: int, data: np.ndarray) -> None:
        with self._cupy.cuda.Device(device):
            self._runtime.memcpy(address, data.ctypes.data, data.nbytes, self._runtime.memcpyHostToDevice)
            # Returns when the bytes are staged; the client, which knows nothing of our stream, reads after the answer.
            self._runtime.streamSynchronize(0)

    def copy(self, device: int, address: int, source_device: int, source: int, size: int) -> None:
        with self._cupy.cuda.Device(device):
            self._runtime.memcpyPeerAsync(address, device, source, source_device, size, 0)
            self._runtime.streamSynchronize(0)
