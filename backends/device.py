"""One NVIDIA GPU through CUDA's runtime: streams, memory on both sides, graphs.

For backends whose framework does not keep tensors itself.

    batch ──▶ Pinned ──copy_in──▶ Memory ──kernels──▶ Memory ──copy_out──▶ Pinned ──▶ answers
              └─────────────── in the order of one Stream, which only `wait` waits for ───┘

Memory is the driver's own and not a pool's: what is closed is given back at once. Everything is for the thread that
executes an instance, and `Gpu.use` comes first there. Other methods raise what cupy raises.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema.fault import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_HIGHEST, _LOWEST = -100, 100
"""Of priorities: CUDA takes the nearest that the device has."""


class Gpu:
    """A device that this process can use."""

    def __init__(self, runtime: Any, device_id: int) -> None:
        """`runtime` is cupy's `cuda.runtime`, or what stands for it."""
        self.runtime = runtime
        self.device_id = device_id

    @classmethod
    def open(cls, device_id: int, model_name: str, extra: str) -> Gpu:
        """Raises Unavailable, which names the extra to install, without cupy, and where the device is not there."""
        try:
            import cupy
        except ImportError as error:
            raise Unavailable(
                f"unable to load model '{model_name}': cupy cannot be imported ({error}); to get it: "
                f"pip install 'despina[{extra}]'"
            ) from error
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except Exception as error:  # no driver, for one
            raise Unavailable(f"unable to load model '{model_name}': no GPU can be used: {error}") from error
        if device_id >= count:
            raise Unavailable(f"unable to load model '{model_name}': there is no GPU {device_id}, of {count}")
        return cls(runtime, device_id)

    def use(self) -> None:
        """What the calling thread does from now on, it does on this device."""
        self.runtime.setDevice(self.device_id)

    def capability(self) -> str:
        """As `cc_model_filenames` has it: "9.0"."""
        properties = self.runtime.getDeviceProperties(self.device_id)
        return f"{properties['major']}.{properties['minor']}"


def file_for(capability: str, by_capability: Mapping[str, str], default: str) -> str:
    """The name of a model's file for a device of that compute capability."""
    return by_capability.get(capability) or default


class Memory:
    """Bytes on the device."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._runtime = gpu.runtime
        self.size = max(size, 1)
        self.address: int = gpu.runtime.malloc(self.size)

    def close(self) -> None:
        """Gives it back. Idempotent."""
        address, self.address = self.address, 0
        if address:
            self._runtime.free(address)


class Pinned:
    """Bytes of the host that the device copies from and to by itself."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._runtime = gpu.runtime
        self.size = max(size, 1)
        self.address: int = gpu.runtime.hostAlloc(self.size, 0)
        self.bytes: np.ndarray = np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))

    def close(self) -> None:
        """Gives it back. Idempotent. Views of it must not be used any more."""
        address, self.address = self.address, 0
        self.bytes = np.empty(0, np.uint8)
        if address:
            self._runtime.freeHost(address)


class Stream:
    """Work of one instance, in order. `priority` below 0 goes before others' work on the device, above 0 behind it."""

    def __init__(self, gpu: Gpu, *, priority: int = 0, spins: bool = False) -> None:
        """`spins` waits by asking again and again, which answers sooner and costs a processor."""
        runtime = gpu.runtime
        self._runtime = runtime
        self.handle: int = (
            runtime.streamCreateWithPriority(runtime.streamNonBlocking, _HIGHEST if priority < 0 else _LOWEST)
            if priority
            else runtime.streamCreateWithFlags(runtime.streamNonBlocking)
        )
        flags = runtime.eventDisableTiming | (0 if spins else runtime.eventBlockingSync)
        self._event: int = runtime.eventCreateWithFlags(flags)

    def copy_in(self, target: Memory, source: int, size: int) -> None:
        """From the host's address. Pageable memory may be read before this returns, pinned memory later."""
        if size:
            self._runtime.memcpyAsync(target.address, source, size, self._runtime.memcpyHostToDevice, self.handle)

    def copy_out(self, target: int, source: int, size: int) -> None:
        """To the host's address, from the device's."""
        if size:
            self._runtime.memcpyAsync(target, source, size, self._runtime.memcpyDeviceToHost, self.handle)

    def after(self, other: Stream) -> None:
        """What comes here waits for what the other has been given so far; on the device, not the calling thread."""
        self._runtime.eventRecord(other._event, other.handle)
        self._runtime.streamWaitEvent(self.handle, other._event)

    def wait(self) -> None:
        """Until all is done. Raises what went wrong on the device."""
        self._runtime.eventRecord(self._event, self.handle)
        self._runtime.eventSynchronize(self._event)

    def begin_capture(self) -> None:
        """From here on work is noted and not done, until `end_capture`."""
        self._runtime.streamBeginCapture(self.handle, self._runtime.streamCaptureModeThreadLocal)

    def end_capture(self) -> Graph:
        captured = self._runtime.streamEndCapture(self.handle)
        try:
            return Graph(self._runtime, self._runtime.graphInstantiate(captured))
        finally:
            self._runtime.graphDestroy(captured)

    def close(self) -> None:
        """Idempotent."""
        handle, self.handle = self.handle, 0
        if handle:
            self._runtime.eventDestroy(self._event)
            self._runtime.streamDestroy(handle)


class Graph:
    """Captured work, which one call starts."""

    def __init__(self, runtime: Any, executable: int) -> None:
        self._runtime = runtime
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        self._runtime.graphLaunch(self._executable, stream.handle)

    def close(self) -> None:
        """Idempotent."""
        executable, self._executable = self._executable, 0
        if executable:
            self._runtime.graphExecDestroy(executable)
