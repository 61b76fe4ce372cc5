"""Warm-up: executions with configured samples on every instance before the model is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ...schema.config.normal_form import shape_text
from ...schema.datatype import BY_NUMBER
from ...schema.fault import ExecutorDied, InvalidArgument
from ...schema.inference import InferenceRequest
from ...schema.tensor import Tensor
from ..port.foreign import as_fault
from ..request.batch import Batch
from ..request.job import Job
from ..request.stream import UNATTENDED, StreamBatch, StreamJob
from ..schedule.rules import is_decoupled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig, ModelWarmup, ModelWarmupInput
    from ..port.backend import AsyncInstance, BackendInstance
    from ..request.ledger import Ledger


ROWS_MAX: Final = 65_536
COUNT_MAX: Final = 100_000
BYTES_MAX: Final = 2**31 - 1
"""Of one input of a batch, as the protocol bounds it. All three are ours: a number must not keep a load from ending."""


class Warmup:
    """The samples of one model version. Reads its data files when it is made; raises InvalidArgument for bad ones, and
    for more of anything than could have been meant."""

    def __init__(self, config: ModelConfig, model_path: Path) -> None:
        self._samples = [
            (sample.name, sample.batch_size, max(1, sample.count), _inputs(sample, config, model_path))
            for sample in config.model_warmup
            if sample.batch_size
        ]
        self._decoupled = is_decoupled(config)
        self._batch_type = StreamBatch if self._decoupled else Batch

    def run(self, ledger: Ledger, executor: BackendInstance) -> None:
        """Executes every sample on `executor`, on the calling thread. Raises InvalidArgument if one fails, and whatever
        ends the executor."""
        for name, batch in self._batches(ledger):
            error: BaseException | None = None
            batch.begin()
            try:
                executor.execute(batch)
            except (Exception, SystemExit) as caught:
                error = caught
            _check(name, batch, error)

    async def run_async(self, ledger: Ledger, executor: AsyncInstance) -> None:
        """The same for an executor that is awaited."""
        for name, batch in self._batches(ledger):
            error: BaseException | None = None
            batch.begin()
            try:
                await executor.execute_async(batch)
            except (Exception, SystemExit) as caught:
                error = caught
            _check(name, batch, error)

    def _batches(self, ledger: Ledger) -> Iterator[tuple[str, Batch]]:
        for name, batch_size, count, inputs in self._samples:
            for _ in range(count):
                jobs: list[Job] = []
                for _ in range(batch_size):
                    request = InferenceRequest(ledger.name, dict(inputs))
                    job = StreamJob(request, None, ledger, UNATTENDED) if self._decoupled else Job(request, None)
                    job.ledger = ledger
                    jobs.append(job)
                yield name, self._batch_type(jobs, len(jobs), "warmup")


def _check(name: str, batch: Batch, error: BaseException | None) -> None:
    batch.settle(None if error is None else as_fault(error))
    faults = [job.fault.message for job in batch.jobs if job.fault is not None]
    if not faults and isinstance(error, ExecutorDied):
        faults.append(error.message)  # whatever it has answered before
    if faults:
        raise InvalidArgument(f"failed to run warmup sample '{name}': {'; '.join(faults)}; ")


def _inputs(sample: ModelWarmup, config: ModelConfig, model_path: Path) -> dict[str, Tensor]:
    batched = config.max_batch_size > 0
    _check_counts(sample, config)
    tensors = {}
    for name, spec in sample.inputs.items():
        dims = list(spec.dims)
        if any(size < 0 for size in dims):
            raise InvalidArgument(
                f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
            )
        kind = BY_NUMBER.get(int(spec.data_type))
        if kind is None:
            raise InvalidArgument(f"warmup setting expects input '{name}' to have data_type set")
        shape = [1, *dims] if batched else dims
        elements = _elements(name, dims, (kind.byte_size or 4) * sample.batch_size)
        memory = _data(name, spec, elements, kind.byte_size, model_path)
        tensors[name] = Tensor(name, kind.name, shape, memory)
    return tensors


def _check_counts(sample: ModelWarmup, config: ModelConfig) -> None:
    rows_max = max(1, config.max_batch_size)
    if sample.batch_size > rows_max:
        raise InvalidArgument(
            f"failed to run warmup sample '{sample.name}': batch size {sample.batch_size} for '{config.name}', max "
            f"allowed is {rows_max}; "
        )
    for what, value, limit in (("batch_size", sample.batch_size, ROWS_MAX), ("count", sample.count, COUNT_MAX)):
        if value > limit:
            raise InvalidArgument(f"warmup sample '{sample.name}': {what} is {value}, the limit is {limit}")


def _elements(name: str, dims: Sequence[int], bytes_each: int) -> int:
    """How many the input of one request has, of `bytes_each` over all requests of the batch."""
    elements = 0 if 0 in dims else 1
    for size in dims:
        elements *= size
        if elements * bytes_each > BYTES_MAX:
            raise InvalidArgument(
                f"warmup sample for input '{name}': a batch would take more than {BYTES_MAX} bytes with the dims "
                f"{shape_text(dims[:8])}"
            )
    return elements


def _data(name: str, spec: ModelWarmupInput, elements: int, byte_size: int, model_path: Path) -> bytes:
    if spec.input_data_file is not None:
        path = model_path / "warmup" / spec.input_data_file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidArgument(f"warmup sample for input '{name}': {error}") from error
        size = elements * byte_size if byte_size else len(data)
        if len(data) < size:
            raise InvalidArgument(
                f"warmup setting expects {size} bytes, but the data provided from {path} only has {len(data)} bytes"
            )
        return data[:size]
    if spec.random_data is None and spec.zero_data is None:
        raise InvalidArgument(f"warmup setting expects input '{name}' to have input_data_type set")
    if byte_size == 0:
        return bytes(4 * elements)
    if spec.random_data is not None:
        return np.random.default_rng(0).bytes(elements * byte_size)
    return bytes(elements * byte_size)
