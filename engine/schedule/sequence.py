"""The sequence batcher: requests of one sequence go to one slot of one instance, in order.

| strategy | a batch is                                                                                          |
|----------|-----------------------------------------------------------------------------------------------------|
| direct   | the first request of each slot, in the slots' places; a place below the highest without one gets a   |
|          | request that is none (READY false), so that a model may keep state by place                         |
| oldest   | the first requests of the instance's sequences, at most one of each in flight, by arrival           |

Rules, besides those of scheduler.py:
1. Who comes without START for a sequence that is not there is refused; so are requests of several rows, or without id.
2. A sequence is over with its END, when it has been silent too long, when one of its callers leaves, or with its
   instance. What waits of it then is refused, and its slot goes to who waits longest in the backlog.
3. Time is looked at in `wake`, on the trio thread; `due` says when the next look is needed.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import attrs

from ...schema.datatype import BY_NAME
from ...schema.fault import Cancelled, Fault, InvalidArgument, QueueFull, QueueTimeout, Unavailable
from ...schema.inference import InferenceRequest
from ...schema.tensor import Tensor
from ..request.batch import Batch
from ..request.job import Job, JobState, move
from ..request.ledger import End
from .batching import form
from .controls import Controls
from .slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...schema.wire.generated.inference import ModelConfig
    from ..port.work import Instance
    from ..request.ledger import Ledger
    from .batching import BatchRule
    from .slots import Sequence as RequestSequence
    from .slots import Slot

NOTHING = 0.0


class SequenceBatch(Batch):
    """With requests that are none among its jobs: executed, but nobody's."""

    __slots__ = ("sequences",)

    sequences: list[RequestSequence]
    """Of its jobs."""

    def over(self, ledger: Ledger) -> None:
        real = self._real()
        ledger.statistics.nobodys(len(self.jobs) - len(real))
        ledger.end(real, End.EXECUTED, self)

    def lose(self, ledger: Ledger, fault: Fault) -> None:
        self.ended_ns = time.monotonic_ns()
        ledger.end(self._real(), End.LOST, self, fault)

    def _real(self) -> list[Job]:
        return [job for job in self.jobs if job.received_ns]


@attrs.frozen(kw_only=True)
class SequenceRule:
    """A model's settings."""

    rows_max: int
    slots: int
    """For each instance."""
    idle_s: float
    oldest: BatchRule | None
    """How batches are formed over sequences; None for the direct strategy."""
    direct_delay_s: float = 0.0
    direct_slots_min: int = 0
    """With the direct strategy: how many slots must have a request, or one has waited that long."""


class SequenceBatcher:
    """See the module, and scheduler.py for what each method promises."""

    joins = True
    ordered = None
    forms_anew = True

    def __init__(self, config: ModelConfig, rule: SequenceRule, size_max: int, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self.live = 0
        self.size_max = size_max
        self.idle: list[Instance] = []
        self.refuse: Callable[[list[Job]], None] = _to_nobody
        """Ends jobs that were taken out of the queue; they have their faults. On the trio thread."""
        self._rule = rule
        self._clock = clock
        self._name = config.name
        self._controls = Controls(config)
        self._slots = Slots(rule.slots)
        self._taken_by: dict[Instance, list[RequestSequence]] = {}
        """What each instance works on."""

    # --- For the trio thread

    def put(self, job: Job) -> Instance | None:
        request = job.request
        id = request.correlation_id
        try:
            self._check(job)
        except InvalidArgument:
            move((job,), JobState.REJECTED)  # its timers may be running already; they must find it over
            raise
        with self.lock:
            sequence = self._slots.active.get(id)
            if sequence is None and not request.sequence_start:
                move((job,), JobState.REJECTED)
                raise InvalidArgument(
                    f"inference request for sequence {id} to model '{self._name}' must specify the START flag on the "
                    "first request of the sequence"
                )
            if self.live >= self.size_max:
                move((job,), JobState.REJECTED)
                raise QueueFull(f"{request.log_prefix()}Exceeds maximum queue size")
            now = self._clock()
            if sequence is None:
                sequence = self._slots.begin(id)
            sequence.touched_at = now
            if sequence.slot is None and request.timeout_us:
                expires_at = now + request.timeout_us * 1e-6
                sequence.expires_at = min(sequence.expires_at or expires_at, expires_at)
            if request.sequence_end:
                sequence.has_ended = True
                del self._slots.active[id]
            job.sequence = sequence
            job.request = self._with_controls(request, ready=True)
            sequence.jobs.append(job)
            self.live += 1
            return self._idle_owner(sequence)

    def claim(self) -> Instance | None:
        return None

    def rest(self, instance: Instance) -> bool:
        return False

    def withdraw(self, instance: Instance) -> None:
        with self.lock:
            if instance in self.idle:
                self.idle.remove(instance)
            self._taken_by.pop(instance, None)
            over = self._slots.remove(instance)
            refused = [job for sequence in over for job in self._empty(sequence, _lost)]
        self.refuse(refused)

    def wake(self) -> Instance | None:
        with self.lock:
            refused = self._reap(self._clock())
            ready = next((instance for instance in self.idle if self._has_work(instance)), None)
            if ready is not None:
                self.idle.remove(ready)
        self.refuse(refused)
        return ready

    def due(self) -> float:
        """When time will change something; 0 for never."""
        with self.lock:
            return self._due()

    def leave(self, job: Job, state: JobState) -> bool:
        with self.lock:
            if job.state is not JobState.QUEUED:
                return False
            move((job,), state)
            self.live -= 1
            sequence: RequestSequence = job.sequence
            sequence.jobs.remove(job)
            refused = self._empty(sequence, _left)
            if not sequence.in_flight:
                self._slots.end(sequence)
            else:
                sequence.has_ended = True
                self._forget(sequence)
        self.refuse(refused)
        return True

    def delay(self, job: Job) -> bool:
        return False

    def drain(self, state: JobState) -> list[Job]:
        with self.lock:
            sequences = [*self._slots.placed, *self._slots.backlog]
            jobs = [job for sequence in sequences for job in sequence.jobs]
            move(jobs, state)
            for sequence in sequences:
                sequence.jobs.clear()
                self._slots.end(sequence)
            self.live = 0
        return jobs

    def oldest_ns(self) -> int:
        with self.lock:
            return min((sequence.jobs[0].received_ns for sequence in self._everyone() if sequence.jobs), default=0)

    # --- For the thread that will execute

    def rest_if_idle(self, instance: Instance) -> float | None:
        with self.lock:
            if self.live:
                return None
            self._settle(instance)
            self._slots.of(instance)  # so that sequences find them
            self.idle.append(instance)
            return self._due()

    def order_idle(self, rank: Callable[[Instance], int]) -> None:
        pass  # each sequence has its own instance

    def take(self, instance: Instance, cost_s: float) -> tuple[Batch | None, list[Job], float]:
        with self.lock:
            now = self._clock()
            self._settle(instance)
            slots = self._slots.of(instance)
            form_batch = self._direct if self._rule.oldest is None else self._oldest
            batch, look_at = form_batch(slots, now)
            if batch is None:
                self.idle.append(instance)
                return None, [], look_at or self._due()
            self._taken_by[instance] = batch.sequences
            self.live -= len(batch.sequences)
            return batch, [], NOTHING

    # Below: the lock is held.

    def _settle(self, instance: Instance) -> None:
        """What it has executed is over."""
        for sequence in self._taken_by.pop(instance, ()):
            sequence.in_flight = False
            if sequence.has_ended and not sequence.jobs:
                self._slots.end(sequence)

    def _direct(self, slots: Sequence[Slot], now: float) -> tuple[SequenceBatch | None, float]:
        ready = [slot for slot in slots if slot.sequence is not None and slot.sequence.jobs]
        if not ready:
            return None, NOTHING
        delay_s = self._rule.direct_delay_s
        if delay_s and len(ready) < self._rule.direct_slots_min:
            due = min(slot.sequence.jobs[0].queued_at for slot in ready if slot.sequence is not None) + delay_s
            if now < due:
                return None, due
        first = ready[0].sequence
        assert first is not None, "ready"
        example = first.jobs[0]
        key = example.key
        jobs: list[Job] = []
        sequences: list[RequestSequence] = []
        for slot in slots[: ready[-1].number + 1]:
            sequence = slot.sequence
            if sequence is not None and sequence.jobs and sequence.jobs[0].key == key:
                jobs.append(sequence.jobs.popleft())
                sequence.in_flight = True
                sequences.append(sequence)
            else:
                jobs.append(self._nobodys(example))
        return self._batch(jobs, sequences, "sequence"), NOTHING

    def _oldest(self, slots: Sequence[Slot], now: float) -> tuple[SequenceBatch | None, float]:
        rule = self._rule.oldest
        assert rule is not None, "the oldest strategy"
        waiting = [
            slot.sequence
            for slot in slots
            if slot.sequence is not None and slot.sequence.jobs and not slot.sequence.in_flight
        ]
        waiting.sort(key=lambda sequence: sequence.jobs[0].received_ns)
        if not waiting:
            return None, NOTHING
        first = min(sequence.jobs[0].queued_at for sequence in waiting)
        due = first + rule.delay_s
        verdict = form([sequence.jobs[0] for sequence in waiting], rule, rule.delay_s if now >= due else now - first)
        if verdict.count == 0:
            return None, due
        sequences = waiting[: verdict.count]
        jobs = []
        for sequence in sequences:
            jobs.append(sequence.jobs.popleft())
            sequence.in_flight = True
        return self._batch(jobs, sequences, verdict.reason), NOTHING

    def _batch(self, jobs: list[Job], sequences: list[RequestSequence], reason: str) -> SequenceBatch:
        move(jobs, JobState.EXECUTING)
        batch = SequenceBatch(jobs, len(jobs), reason)
        batch.sequences = sequences
        return batch

    def _nobodys(self, example: Job) -> Job:
        """A request for a place without one: inputs like the example's, all zero."""
        inputs = {name: _zeros(tensor) for name, tensor in example.request.inputs.items()}
        inputs.update(self._controls.of(0, start=False, end=False, ready=False))
        job = Job(InferenceRequest(example.request.model_name, inputs), None)
        job.ledger = example.ledger
        return job

    def _with_controls(self, request: InferenceRequest, *, ready: bool) -> InferenceRequest:
        controlled = request.alike()
        controlled.template = None
        controlled.timeout_us = request.timeout_us
        controlled.shared, controlled.trace, controlled.raw = request.shared, request.trace, request.raw
        controls = self._controls.of(
            request.correlation_id, start=request.sequence_start, end=request.sequence_end, ready=ready
        )
        controlled.inputs = {**request.inputs, **controls}
        return controlled

    def _due(self) -> float:
        times = [
            sequence.touched_at + self._rule.idle_s
            for sequence in self._slots.placed
            if not sequence.jobs and not sequence.in_flight
        ]
        times += [sequence.expires_at for sequence in self._slots.backlog if sequence.expires_at]
        return min(times, default=NOTHING)

    def _reap(self, now: float) -> list[Job]:
        """Ends what was silent too long, and what has waited too long for a slot. Jobs to refuse."""
        idle_s = self._rule.idle_s
        for sequence in [*self._slots.placed]:
            if not sequence.jobs and not sequence.in_flight and sequence.touched_at + idle_s <= now:
                self._slots.end(sequence)
        refused = []
        for sequence in [*self._slots.backlog]:
            if sequence.expires_at and sequence.expires_at <= now:
                refused += self._empty(sequence, _expired)
                self._slots.end(sequence)
        return refused

    def _empty(self, sequence: RequestSequence, fault: Callable[[Job], Fault]) -> list[Job]:
        """Takes out all that waits of a sequence, with that fault."""
        jobs = list(sequence.jobs)
        sequence.jobs.clear()
        move(jobs, JobState.REJECTED)
        self.live -= len(jobs)
        for job in jobs:
            job.fault = fault(job)
        return jobs

    def _forget(self, sequence: RequestSequence) -> None:
        if self._slots.active.get(sequence.id) is sequence:
            del self._slots.active[sequence.id]

    def _idle_owner(self, sequence: RequestSequence) -> Instance | None:
        slot = sequence.slot
        if slot is None or slot.owner not in self.idle:
            return None
        self.idle.remove(slot.owner)
        return slot.owner

    def _has_work(self, instance: Instance) -> bool:
        return any(slot.sequence is not None and slot.sequence.jobs for slot in self._slots.of(instance))

    def _everyone(self) -> list[RequestSequence]:
        return [*self._slots.placed, *self._slots.backlog]

    def _check(self, job: Job) -> None:
        """Raises InvalidArgument for what no request of a sequence may be."""
        request = job.request
        about = f"inference request to model '{self._name}' must specify"
        if job.batch_size > 1:
            raise InvalidArgument(f"{about} batch-size 1 due to requirements of sequence batcher")
        id = request.correlation_id
        if not id:
            raise InvalidArgument(f"{about} a non-zero or non-empty correlation ID")
        expected = self._controls.id_datatype
        if expected and isinstance(id, str) != (expected == "BYTES"):
            got = "BYTES" if isinstance(id, str) else "UINT64"
            raise InvalidArgument(
                f"{request.log_prefix()}sequence batching control 'CONTROL_SEQUENCE_CORRID' data-type is '{got}', but "
                f"model '{self._name}' expects '{expected}'"
            )


def _zeros(tensor: Tensor) -> Tensor:
    element_bytes = BY_NAME[tensor.datatype].byte_size or 4  # an empty string is its length
    return Tensor(tensor.name, tensor.datatype, tensor.shape, bytes(element_bytes * math.prod(tensor.shape)))


def _left(job: Job) -> Fault:
    return Cancelled("")


def _expired(job: Job) -> Fault:
    return QueueTimeout(f"{job.request.log_prefix()}timeout of the corresponding sequence has been expired")


def _lost(job: Job) -> Fault:
    return Unavailable(f"{job.request.log_prefix()}the instance that kept the sequence is gone")


def _to_nobody(jobs: list[Job]) -> None:
    assert not jobs, "somebody must be told"
