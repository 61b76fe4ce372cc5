"""One instance: batches in and answers out, on one lane or by turns on two."""

from __future__ import annotations

import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault, ModelFailure
from ...schema.tensor import Tensor
from ..gather import InputGatherer, OutputScatterer
from ..halves import answer_apart
from ..regions import OnDevice, RegionCopies, wants
from ..states import StateScatterer
from .ahead import Finisher, Postponed
from .execution import shapes_of
from .lane import Lane
from .profiles import choose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from ...engine.port.work import BackendJob, Batch
    from ...schema.wire.generated.inference import ModelConfig
    from ..device import Gpu
    from .execution import Result
    from .graphs import Captured
    from .messages import Errors
    from .options import Options
    from .signature import Profile, Signature

_log = logging.getLogger("despina.backends.tensorrt")


class TensorRTInstance:
    """Only threads of its own wait for the device."""

    movable = False
    takes_device_memory = True

    def __init__(
        self,
        name: str,
        trt: Any,
        engine: Any,
        gpu: Gpu,
        config: ModelConfig,
        signature: Signature,
        profiles: Sequence[Profile],
        graphs: Sequence[Captured],
        options: Options,
        errors: Errors,
    ) -> None:
        self.name = name
        self._batching = config.max_batch_size > 0
        self._gatherer = InputGatherer(config)
        self._scatterer = OutputScatterer(config)
        self._states = StateScatterer(config)
        self._regions = RegionCopies(self._gatherer, self._scatterer, gpu.device_id)
        self._shape_inputs = [slot.name for slot in self._gatherer.slots if slot.is_shape_tensor]
        self._profiles = profiles
        self._lanes: list[Lane] = []
        self._finisher: Finisher | None = None
        gpu.use()
        # The requests of a sequence come one after the other: nothing could be prepared.
        ahead = options.prepares and config.sequence_batching is None
        try:
            for _ in range(2 if ahead else 1):
                self._lanes.append(Lane(trt, engine, gpu, signature, profiles, graphs, options, errors))
        except BaseException:
            self.close()
            raise
        if ahead:
            self._finisher = Finisher(name, gpu, self._lanes)

    def execute(self, batch: Batch) -> None:
        finisher = self._finisher
        if finisher is None:
            self._answer(self._lanes[0], batch)
            return
        lane = finisher.take()
        try:
            results = self._begun(lane, batch.jobs, batch.size)
        except Fault:
            try:
                self._answer(lane, batch)  # the ordinary way, which finds out whose fault it is
            finally:
                finisher.give_back(lane)
            return
        batch.inputs_ready_ns = time.monotonic_ns()
        jobs = [Postponed(job, job.defer()) for job in batch.jobs]
        finisher.finish(lane, jobs, partial(self._respond, lane, jobs, batch.size, results))

    def close(self) -> None:
        """Gives all device memory back, when everybody has been answered. Idempotent."""
        finisher, self._finisher = self._finisher, None
        if finisher is not None:
            finisher.close()
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            lane.close()

    def _answer(self, lane: Lane, batch: Batch) -> None:
        together = partial(self._answer_together, lane)
        answer_apart(self.name, _log, batch, batch.jobs, batch.size, together)

    def _answer_together(self, lane: Lane, batch: Batch, jobs: Sequence[BackendJob], rows: int) -> None:
        try:
            results = self._begun(lane, jobs, rows)
            batch.inputs_ready_ns = time.monotonic_ns()
            lane.stream.wait()
            batch.outputs_started_ns = time.monotonic_ns()
            found = self._respond(lane, jobs, rows, results)
        except Fault:
            raise
        except Exception as error:
            if len(jobs) == 1:
                _log.error("model instance '%s'", self.name, exc_info=error)
            raise ModelFailure(f"failed to run TensorRT inference: {error}") from error
        self._states.keep(jobs, found)

    def _begun(self, lane: Lane, jobs: Sequence[BackendJob], rows: int) -> dict[str, Result]:
        resident = self._regions.resident(jobs, rows)
        arrays = self._gatherer.gather(jobs, rows, resident)
        for name in self._shape_inputs:
            if name in arrays and self._batching:
                arrays[name] = with_rows(arrays[name], rows)
        shapes = shapes_of(arrays, resident)
        values = {name: tuple(arrays[name].ravel().tolist()) for name in self._shape_inputs if name in arrays}
        try:
            return lane.begin(choose(self._profiles, shapes, values), arrays, resident)
        except Fault:
            raise
        except Exception as error:
            raise ModelFailure(f"failed to run TensorRT inference: {error}") from error

    def _respond(
        self, lane: Lane, jobs: Sequence[Any], rows: int, results: Mapping[str, Result]
    ) -> dict[str, np.ndarray]:
        """Answers jobs, or such whose answers are postponed. Gives what came to the host, states among it."""
        lane.stream.wait()
        wanted = self._scatterer.wanted(jobs)
        own = self._beside(jobs, {name: results[name] for name in wanted})
        found = lane.fetch(
            [results[name] for name in {**dict.fromkeys(wanted), **self._states.kinds} if name not in own]
        )
        self._states.check(rows, found)
        self._scatterer.scatter(jobs, rows, {name: found[name] for name in wanted if name not in own}, own)
        return found

    def _beside(self, jobs: Sequence[Any], results: Mapping[str, Result]) -> dict[str, list[Tensor | None]]:
        """Outputs that need not come to the host, and sizes: a tensor for each job that wants it."""
        own: dict[str, list[Tensor | None]] = {}
        for name, result in results.items():
            if result.values is not None:
                if self._batching:
                    own[name] = [_sizes_for(job, result) for job in jobs]
                continue
            kind = result.tensor.kind
            if result.stored == result.shape and result.address and kind is not None:
                tensors = self._regions.put(jobs, OnDevice(name, kind, result.shape, result.address))
                if tensors is not None:
                    own[name] = tensors
        return own


def with_rows(values: np.ndarray, rows: int) -> np.ndarray:
    """A shape tensor of a batch: its first value is the batch's size, of each request its own."""
    values = values.copy()
    values.ravel()[:1] = rows
    return values


def _sizes_for(job: Any, result: Result) -> Tensor | None:
    name, kind = result.tensor.name, result.tensor.kind
    if not wants(job, name):
        return None
    assert kind is not None, "the configuration has been checked"
    assert result.values is not None, "it is on the host"
    values = with_rows(result.values.ravel()[: math.prod(result.shape)], job.batch_size)
    return Tensor(name, kind.name, result.shape, None, values.reshape(result.shape))
