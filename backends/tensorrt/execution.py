"""One execution context: a plan with one of its profiles, and device memory for its largest batch.

    set shapes ──▶ infer output shapes ──▶ copy in ──▶ enqueue, or launch a graph ──▶ what is where

All addresses are bound when it opens and never change, as captured graphs need it. An output whose size only its values
say gets memory from TensorRT's call for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ...schema.fault import Internal, ModelFailure
from ..device import Memory, Pinned
from .graphs import choose
from .profiles import misfit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..device import Gpu, Graph, Stream
    from ..regions import Resident
    from .graphs import Captured
    from .messages import Errors
    from .signature import PlanTensor, Profile, Shape, Signature


@attrs.frozen
class Result:
    """Where an output is until the next batch."""

    tensor: PlanTensor
    shape: Shape
    """What it is."""
    stored: Shape
    """What lies there: a captured graph writes the shape that it was captured with."""
    address: int
    """On the device; 0 for a tensor on the host, which `values` is."""
    values: np.ndarray | None = None

    @property
    def byte_size(self) -> int:
        """Of what lies there."""
        assert self.tensor.kind is not None, "the configuration has been checked"
        return math.prod(self.stored) * self.tensor.kind.byte_size


def shapes_of(arrays: Mapping[str, np.ndarray], resident: Mapping[str, Resident]) -> dict[str, Shape]:
    """Of all inputs of a batch."""
    return {name: array.shape for name, array in arrays.items()} | {name: one.shape for name, one in resident.items()}


class ExecutionContext:
    """Everything is for one thread, and ends with `close`."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        gpu: Gpu,
        stream: Stream,
        signature: Signature,
        profile: Profile,
        strategy: str,
        errors: Errors,
        *,
        pinned: bool,
    ) -> None:
        """`pinned` stages inputs in memory that the device copies by itself. Raises Internal with TensorRT's words."""
        self.profile = profile
        self._gpu, self._stream, self._errors = gpu, stream, errors
        self._signature = signature
        self._context: Any = None
        self._memory: dict[str, Memory] = {}
        self._staging: dict[str, Pinned] = {}
        self._sizes: dict[str, np.ndarray] = {}
        """Tensors on the host."""
        self._found: dict[str, Allocation] = {}
        self._allocators: list[Any] = []
        """TensorRT knows them by address only."""
        self._graphs: list[tuple[Captured, Graph, dict[str, Shape]]] = []
        try:
            member = getattr(trt.ExecutionContextAllocationStrategy, strategy)
            self._context = engine.create_execution_context(member)
            if self._context is None:
                raise Internal(self._because("unable to create TensorRT context"))
            self._done(
                self._context.set_optimization_profile_async(profile.index, stream.handle),
                f"unable to set optimization profile {profile.index}",
            )
            stream.wait()
            self._bind_inputs(pinned)
            self._bind_outputs(trt)
        except BaseException:
            self.close()
            raise

    def run(self, arrays: Mapping[str, np.ndarray], resident: Mapping[str, Resident]) -> dict[str, Result]:
        """Enqueues a batch whose shapes the profile takes. What the results tell is there once the stream has been
        waited for. Raises ModelFailure."""
        shapes = shapes_of(arrays, resident)
        captured = self._graph_for(shapes)
        if captured is not None and any(captured[0].shapes[name] != each.shape for name, each in resident.items()):
            captured = None  # zeros around what lies on the device would have to be put there first
        for name, array in arrays.items():
            self._give(name, array, None if captured is None else captured[0].shapes[name])
        for name, each in resident.items():
            each.copy_to(self._gpu.device_id, self._memory[name].address)
        return self._enqueue(shapes, captured)

    def capture(self, wanted: Sequence[Captured]) -> None:
        """Captures those whose shapes the profile takes. Raises what CUDA raises, ModelFailure for what TensorRT
        refuses."""
        for graph in wanted:
            if misfit(self.profile, graph.shapes, {}):
                continue
            for name, shape in graph.shapes.items():
                kind = self._signature.inputs[name].kind
                assert kind is not None, "the configuration has been checked"
                self._give(name, np.zeros(shape, kind.dtype), None)
            self._enqueue(graph.shapes, None)  # once without: TensorRT sets itself up for the shapes
            self._stream.wait()
            self._stream.begin_capture()
            try:
                started = self._context.execute_async_v3(self._stream.handle)
            finally:
                executable = self._stream.end_capture()
            stored = {name: tuple(self._context.get_tensor_shape(name)) for name in self._signature.outputs}
            self._graphs.append((graph, executable, stored))
            self._done(started, "unable to capture a CUDA graph")

    def close(self) -> None:
        """Gives all memory back, whatever of it there is. Idempotent."""
        for _, graph, _ in self._graphs:
            graph.close()
        self._graphs = []
        self._context = None  # before the memory that it knows
        held: list[Memory | Pinned | Allocation] = [*self._memory.values(), *self._staging.values()]
        for each in [*held, *self._found.values()]:
            each.close()
        self._memory, self._staging, self._found = {}, {}, {}

    # --- Inside

    def _bind_inputs(self, pinned: bool) -> None:
        for tensor in self._signature.inputs.values():
            assert tensor.kind is not None, "the configuration has been checked"
            name, largest = tensor.name, self.profile.shapes[tensor.name].highest
            self._shape(name, largest)
            if tensor.on_host:
                values = self.profile.values.get(name)
                array = np.zeros(largest, tensor.kind.dtype)
                if values is not None:
                    array.ravel()[:] = values.highest
                self._sizes[name] = array
                address = array.ctypes.data
            else:
                size = math.prod(largest) * tensor.kind.byte_size
                self._memory[name] = memory = Memory(self._gpu, size)
                address = memory.address
                if pinned:
                    self._staging[name] = Pinned(self._gpu, size)
            self._done(self._context.set_tensor_address(name, address), f"unable to bind input '{name}'")

    def _bind_outputs(self, trt: Any) -> None:
        self._infer()
        for tensor in self._signature.outputs.values():
            assert tensor.kind is not None, "the configuration has been checked"
            name = tensor.name
            shape = tuple(self._context.get_tensor_shape(name))
            if -1 in shape:
                self._found[name] = found = Allocation(self._gpu)
                self._allocators.append(make_allocator(trt, found))
                bound = self._context.set_output_allocator(name, self._allocators[-1])
            elif tensor.on_host:
                self._sizes[name] = array = np.zeros(shape, tensor.kind.dtype)
                bound = self._context.set_tensor_address(name, array.ctypes.data)
            else:
                size = max(self._context.get_max_output_size(name), math.prod(shape) * tensor.kind.byte_size)
                self._memory[name] = memory = Memory(self._gpu, size)
                bound = self._context.set_tensor_address(name, memory.address)
            self._done(bound, f"unable to bind output '{name}'")

    def _give(self, name: str, array: np.ndarray, padded: Shape | None) -> None:
        """An input's elements on their way to the device, with zeros around them for a graph of a larger shape."""
        sizes = self._sizes.get(name)
        if sizes is not None:
            sizes.ravel()[: array.size] = array.ravel()
            return
        memory, staging = self._memory[name], self._staging.get(name)
        if padded is not None and padded != array.shape:
            whole = np.zeros(padded, array.dtype)
            whole[tuple(slice(size) for size in array.shape)] = array
            array = whole
        array = np.asarray(array, order="C")
        if staging is None:
            self._stream.copy_in(memory, array.ctypes.data, array.nbytes)
            return
        staging.bytes[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self._stream.copy_in(memory, staging.address, array.nbytes)

    def _enqueue(
        self, shapes: Mapping[str, Shape], captured: tuple[Captured, Graph, dict[str, Shape]] | None
    ) -> dict[str, Result]:
        for name, shape in shapes.items():
            self._shape(name, shape)
        self._infer()
        if captured is not None:
            captured[1].launch(self._stream)
        else:
            self._done(self._context.execute_async_v3(self._stream.handle), "failed to run TensorRT inference")
        return {
            name: self._result(tensor, None if captured is None else captured[2][name])
            for name, tensor in self._signature.outputs.items()
        }

    def _result(self, tensor: PlanTensor, stored: Shape | None) -> Result:
        found = self._found.get(tensor.name)
        if found is not None:
            self._stream.wait()  # its shape is known only now
            return Result(tensor, found.shape, found.shape, found.address)
        shape = tuple(self._context.get_tensor_shape(tensor.name))
        if tensor.on_host:
            return Result(tensor, shape, shape, 0, self._sizes[tensor.name])
        return Result(tensor, shape, stored or shape, self._memory[tensor.name].address)

    def _graph_for(self, shapes: Mapping[str, Shape]) -> tuple[Captured, Graph, dict[str, Shape]] | None:
        if not self._graphs:
            return None
        graph = choose((one[0] for one in self._graphs), shapes)
        return next((one for one in self._graphs if one[0] is graph), None)

    def _shape(self, name: str, shape: Shape) -> None:
        self._done(self._context.set_input_shape(name, tuple(shape)), f"unable to set the shape of input '{name}'")

    def _infer(self) -> None:
        missing = self._context.infer_shapes()
        if missing:
            raise ModelFailure(self._because(f"TensorRT needs more to know its shapes: {', '.join(missing)}"))

    def _done(self, success: bool, what: str) -> None:
        if not success:
            raise ModelFailure(self._because(what))

    def _because(self, what: str) -> str:
        reason = self._errors.take()
        return f"{what}: {reason}" if reason else what


class Allocation:
    """Device memory that grows to what an output has needed so far."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._memory: Memory | None = None
        self.shape: Shape = ()

    @property
    def address(self) -> int:
        return 0 if self._memory is None else self._memory.address

    def resized(self, size: int) -> int:
        """The address of at least so many bytes. What was there before is lost."""
        if self._memory is None or self._memory.size < size:
            self.close()
            self._memory = Memory(self._gpu, size)
        return self._memory.address

    def close(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


def make_allocator(trt: Any, allocation: Allocation) -> Any:
    """A `tensorrt.IOutputAllocator` over it. Called by TensorRT, on the thread that enqueues."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # a base that is known only now
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)  # the binding wants the base's own

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return allocation.resized(size)  # of cudaMalloc, aligned for everything

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return allocation.resized(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            allocation.shape = tuple(shape)

    return Allocator()
