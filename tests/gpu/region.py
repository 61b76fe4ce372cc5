"""Device memory as a client has it: its own allocation, which it registers by handle, fills and reads back."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


class Region:
    """Device memory of this process, as a client has it: filled, registered, read back."""

    def __init__(self, name: str, size: int) -> None:
        import cupy

        self.name, self.size = name, size
        self._runtime = cupy.cuda.runtime
        # Of its own and not from cupy's pool: a handle stands for the whole allocation.
        self.address = self._runtime.malloc(size)
        self.handle = bytes(self._runtime.ipcGetMemHandle(self.address))

    def fill(self, array: np.ndarray) -> None:
        self._runtime.memcpy(self.address, array.ctypes.data, array.nbytes, self._runtime.memcpyHostToDevice)
        self._runtime.deviceSynchronize()

    def read(self, count: int) -> np.ndarray:
        array = np.empty(count, np.float32)
        self._runtime.memcpy(array.ctypes.data, self.address, array.nbytes, self._runtime.memcpyDeviceToHost)
        return array

    def register(self, client: Any, size: int = 0) -> None:
        client.register_cuda_shared_memory(self.name, base64.b64encode(self.handle), 0, size or self.size)

    def free(self) -> None:
        self._runtime.free(self.address)


@contextlib.contextmanager
def regions(client: Any, size: int) -> Iterator[tuple[Region, Region]]:
    """One for inputs and one for outputs, registered."""
    pair = Region("in", size), Region("out", size)
    try:
        for region in pair:
            region.register(client)
        yield pair
    finally:
        client.unregister_cuda_shared_memory()
        for region in pair:
            region.free()
