"""Warm-up: executions with configured samples on every instance before the model is ready.

A sample is as many requests of one row as it has `batch_size`, executed together, `count` times. They are checked as
clients' requests are, and counted as theirs, but come from nobody: no queue, no rate limit, no trace.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from ...schema.config.collecting import collected, refuse_all
from ...schema.config.normal_form import shape_text
from ...schema.datatype import BY_NUMBER
from ...schema.fault import ExecutorDied, Internal, InvalidArgument
from ...schema.inference import InferenceRequest
from ...schema.tensor import Tensor
from ..port.foreign import as_fault
from ..request.admission import Admission
from ..request.batch import Batch
from ..request.job import Job
from ..request.stream import UNATTENDED, StreamBatch, StreamJob
from ..schedule.controls import Controls
from ..schedule.rules import is_decoupled
from ..schedule.slots import Sequence as RequestSequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ...schema.datatype import DataType
    from ...schema.wire.generated.inference import ModelConfig, ModelWarmup, ModelWarmupInput
    from ..port.backend import AsyncInstance, BackendInstance
    from ..request.ledger import Ledger
    from ..schedule.slots import SequenceId
    from ..schedule.states import States


ROWS_MAX: Final = 65_536
COUNT_MAX: Final = 100_000
_PREFIX: Final = "[request id: <id_unknown>] "
BYTES_MAX: Final = 2**31 - 1
"""Of one input of a batch, as the protocol bounds it. All three are ours: a number must not keep a load from ending."""


class Warmup:
    """The samples of one model version. Reads its data files when it is made; raises InvalidArgument for bad ones, and
    for more of anything than could have been meant."""

    def __init__(self, config: ModelConfig, model_path: Path, states: States) -> None:
        found: list[str] = []
        self._samples: list[tuple[str, int, int, dict[str, Tensor]]] = []
        for sample in config.model_warmup:
            with collected(found):
                if sample.batch_size:
                    inputs = _inputs(sample, config, model_path)
                    self._samples.append((sample.name, sample.batch_size, max(1, sample.count), inputs))
        refuse_all(found)
        self._sequences = _Sequences(config, states) if config.sequence_batching is not None else None
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
            ledger.post(self._count, ledger, batch)

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
            self._count(ledger, batch)

    def _count(self, ledger: Ledger, batch: Batch) -> None:
        statistics = ledger.statistics
        if not self._decoupled:
            statistics.executed(batch)
            return
        statistics.executed_streams(batch)
        for job in batch.jobs:
            statistics.streamed(job, batch)  # type: ignore[arg-type]  # a stream

    def _batches(self, ledger: Ledger) -> Iterator[tuple[str, Batch]]:
        for name, batch_size, count, inputs in self._samples:
            for _ in range(count):
                jobs: list[Job] = []
                for _ in range(batch_size):
                    request = InferenceRequest(ledger.name, dict(inputs))
                    job = StreamJob(request, None, ledger, UNATTENDED) if self._decoupled else Job(request, None)
                    job.ledger = ledger
                    job.received_ns = time.monotonic_ns()
                    if self._sequences is not None:
                        self._sequences.make_one(job)
                    jobs.append(job)
                yield name, self._batch_type(jobs, len(jobs), "warmup")


class _Sequences:
    """Makes each request of a sample a whole sequence, where the sample does not say else."""

    def __init__(self, config: ModelConfig, states: States) -> None:
        assert config.sequence_batching is not None, "a sequence model"
        controls = Controls(config)
        self._id: SequenceId = "1" if controls.id_datatype == "BYTES" else 1
        self._controls = controls.of(self._id, start=True, end=True, ready=True)
        self._states = states
        self._is_iterative = config.sequence_batching.iterative_sequence

    def make_one(self, job: Job) -> None:
        request = job.request
        request.correlation_id, request.sequence_start, request.sequence_end = self._id, True, True
        request.inputs = {**self._controls, **self._states.initial, **request.inputs}
        job.sequence = RequestSequence(self._id, self._states.begin(), self._is_iterative)


def _check(name: str, batch: Batch, error: BaseException | None) -> None:
    batch.settle(None if error is None else as_fault(error))
    if error is None:
        for job in batch.jobs:
            if job.again:  # one execution is enough
                job.fault = None
    faults = [job.fault.message for job in batch.jobs if job.fault is not None]
    if not faults and isinstance(error, ExecutorDied):
        faults.append(error.message)  # whatever it has answered before
    if faults:
        raise InvalidArgument(f"failed to run warmup sample '{name}': {'; '.join(faults)}; ")


def _inputs(sample: ModelWarmup, config: ModelConfig, model_path: Path) -> dict[str, Tensor]:
    batched = config.max_batch_size > 0
    _check_counts(sample, config)
    tensors = {}
    found: list[str] = []
    for name, spec in sample.inputs.items():
        dims = list(spec.dims)
        shape = [1, *dims] if batched else dims
        kind = BY_NUMBER.get(int(spec.data_type))
        with collected(found):
            if any(size < 0 for size in dims):
                raise InvalidArgument(
                    f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
                )
            if kind is None:
                tensors[name] = Tensor(name, "", shape, b"")
                continue
            elements = _elements(name, dims, (kind.byte_size or 4) * sample.batch_size)
            tensors[name] = Tensor(name, kind.name, shape, _data(name, spec, elements, kind, model_path))
    refuse_all(found)
    _admit(config, tensors)
    return tensors


def _admit(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raises InvalidArgument for inputs that no request may have. Others than the model's own may be there besides:
    what the server gives to models of sequences."""
    names = {entry.name for entry in config.input}
    own = {name: tensor for name, tensor in tensors.items() if name in names}
    Admission(config).admit(Job(InferenceRequest(config.name, own), None))
    for name, tensor in tensors.items():
        if not tensor.datatype:
            raise InvalidArgument(f"warmup setting expects input '{name}' to have data_type set")


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


def _data(name: str, spec: ModelWarmupInput, elements: int, kind: DataType, model_path: Path) -> bytes:
    if spec.input_data_file is not None:
        path = model_path / "warmup" / spec.input_data_file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Internal(f"failed to open text file for read {path}: {error.strerror}") from error
        size = elements * kind.byte_size or len(data)
        if len(data) < size:
            raise InvalidArgument(
                f"{_PREFIX}warmup setting expects {size} bytes, but the data provided from {spec.input_data_file}only "
                f"has {len(data)} bytes"
            )
        return data[:size] if elements else b""
    if spec.random_data is None and spec.zero_data is None:
        raise InvalidArgument(f"{_PREFIX}warmup setting expects input '{name}' to have input_data_type set")
    if kind.byte_size == 0:
        return bytes(4 * elements)
    if spec.random_data is None:
        return bytes(elements * kind.byte_size)
    random = np.random.default_rng(0)
    if kind.name == "BOOL":
        return random.integers(0, 2, elements, np.uint8).tobytes()
    return random.bytes(elements * kind.byte_size)
