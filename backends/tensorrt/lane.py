"""What one batch at a time needs of the device: a stream, a context for each profile, and where outputs land.

    begin ──▶ copies and kernels are under way ──▶ finish: waits, gives arrays of their own

An instance has one lane, or two that take turns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..device import Pinned, Stream
from .execution import ExecutionContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..device import Gpu
    from ..regions import Resident
    from .execution import Result
    from .graphs import Captured
    from .messages import Errors
    from .options import Options
    from .signature import Profile, Signature


class Lane:
    """For one thread at a time. Memory is given back by `close`, whatever of it there is."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        gpu: Gpu,
        signature: Signature,
        profiles: Sequence[Profile],
        graphs: Sequence[Captured],
        options: Options,
        errors: Errors,
    ) -> None:
        self._gpu = gpu
        self._pinned = options.pinned_outputs
        self._landing: Pinned | None = None
        self._contexts: dict[int, ExecutionContext] = {}
        self.stream = Stream(gpu, priority=options.priority, spins=options.spins)
        self._copies = (
            Stream(gpu, priority=options.priority, spins=options.spins) if options.copies_apart else self.stream
        )
        try:
            for profile in profiles:
                self._contexts[profile.index] = context = ExecutionContext(
                    trt,
                    engine,
                    gpu,
                    self.stream,
                    signature,
                    profile,
                    options.strategy,
                    errors,
                    pinned=options.pinned_inputs,
                )
                context.capture(graphs)
        except BaseException:
            self.close()
            raise

    def begin(
        self, profile: Profile, arrays: Mapping[str, np.ndarray], resident: Mapping[str, Resident]
    ) -> dict[str, Result]:
        """Starts a batch that the profile takes; its inputs are arrays, or on the device already. Raises Fault."""
        return self._contexts[profile.index].run(arrays, resident)

    def fetch(self, results: Sequence[Result]) -> dict[str, np.ndarray]:
        """Arrays of their own, which the next batch does not write to. The stream has been waited for."""
        arrays: dict[str, np.ndarray] = {}
        places: dict[str, int] = {}
        end = 0
        for result in results:
            name, kind = result.tensor.name, result.tensor.kind
            assert kind is not None, "the configuration has been checked"
            if result.values is not None:
                arrays[name] = result.values.ravel()[: math.prod(result.shape)].reshape(result.shape).copy()
                continue
            arrays[name] = np.empty(result.stored, kind.dtype)
            places[name] = end
            end += -(-result.byte_size // 64) * 64
        landing = self._room(end) if self._pinned and places else None
        if self._copies is not self.stream:
            self._copies.after(self.stream)
        fetched = [result for result in results if result.tensor.name in places]
        for result in fetched:
            name = result.tensor.name
            target = arrays[name].ctypes.data if landing is None else landing.address + places[name]
            self._copies.copy_out(target, result.address, result.byte_size)
        if fetched:
            self._copies.wait()
        for result in fetched:
            name = result.tensor.name
            if landing is not None:
                part = landing.bytes[places[name] : places[name] + result.byte_size]
                arrays[name].reshape(-1).view(np.uint8)[:] = part
            if result.stored != result.shape:
                arrays[name] = arrays[name][tuple(slice(size) for size in result.shape)].copy()
        return arrays

    def close(self) -> None:
        """Idempotent."""
        for context in self._contexts.values():
            context.close()
        self._contexts = {}
        landing, self._landing = self._landing, None
        if landing is not None:
            landing.close()
        self._copies.close()
        self.stream.close()

    def _room(self, size: int) -> Pinned:
        landing = self._landing
        if landing is None or landing.size < size:
            if landing is not None:
                landing.close()
            self._landing = landing = Pinned(self._gpu, size)
        return landing
