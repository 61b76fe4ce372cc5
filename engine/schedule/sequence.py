"""The sequence batcher: requests of one sequence go to one slot of one instance, in order.

Which sequence has which slot is slots.py's, what an instance executes together sequence_forming.py's, both pure.
Rules, besides those of scheduler.py:
1. Who comes without START for a sequence that is not there is refused; so are requests of several rows, or without id.
2. A sequence is over with its END, when it has been silent too long, when one of its callers leaves while its request
   waits, or with its instance. What waits of it then is refused, but after a silence; its slot goes to who waits
   longest in the backlog.
3. Where sequences are iterative, a request is one, from the first to the last of its executions.
4. Time is looked at in `wake`, on the trio thread; `due` says when the next look is needed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ...schema.fault import Cancelled, Fault, InvalidArgument, QueueFull, QueueTimeout, Unavailable
from ..request.job import Job, JobState, move
from .controls import Controls
from .rules import is_decoupled
from .sequence_batch import SequenceBatch, SequenceStreamBatch, nobodys
from .sequence_forming import slots_of, strategy_of
from .slots import NEVER, Sequence, Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...schema.inference import InferenceRequest
    from ...schema.wire.generated.inference import ModelConfig
    from ..port.work import Instance
    from ..request.batch import Batch
    from .sequence_forming import Formed
    from .slots import SequenceId
    from .states import States

AnyBatch = SequenceBatch | SequenceStreamBatch


class SequenceBatcher:
    """See the module, and scheduler.py for what each method promises."""

    joins = True
    ahead = None
    """What an instance executes next may depend on what it executes now."""
    ordered = None
    """An instance executes one batch after the other, so answers keep the order of requests by themselves."""
    forms_anew = True

    def __init__(self, config: ModelConfig, states: States, size_max: int, clock: Callable[[], float]) -> None:
        batching = config.sequence_batching
        assert batching is not None, "a sequence model"
        rows_max = max(1, config.max_batch_size)
        self.lock = threading.Lock()
        self.live = 0
        self.size_max = size_max
        self.idle: list[Instance] = []
        self.refuse: Callable[[list[Job]], None] = _to_nobody
        """Ends jobs that were taken out of the queue; they have their faults. On the trio thread."""
        self._clock = clock
        self._name = config.name
        self._states = states
        self._controls = Controls(config)
        self._padding = self._controls.of(0, start=False, end=False, ready=False)
        """Of requests that are none."""
        self._strategy = strategy_of(batching, rows_max)
        self._slots = Slots(slots_of(batching, rows_max), batching.max_sequence_idle_microseconds * 1e-6)
        self._is_iterative = batching.iterative_sequence
        self._batch_type: type[AnyBatch] = SequenceStreamBatch if is_decoupled(config) else SequenceBatch
        self._taken: dict[Instance, AnyBatch] = {}
        """What each instance works on."""
        self._generated = 0
        """Ids, for iterative sequences without."""

    @property
    def sequences(self) -> int:
        """How many there are whose END has not come."""
        return len(self._slots.active)

    # --- For the trio thread

    def put(self, job: Job) -> Instance | None:
        try:
            with self.lock:
                return self._put(job)
        except Fault:
            move((job,), JobState.REJECTED)  # its timers may be running already; they must find it over
            raise

    def put_all(self, jobs: list[Job]) -> tuple[int, list[Instance]]:
        return 0, []  # each is of a sequence of its own

    def claim(self) -> Instance | None:
        return None

    def rest(self, instance: Instance) -> bool:
        return False

    def withdraw(self, instance: Instance) -> None:
        with self.lock:
            if instance in self.idle:
                self.idle.remove(instance)
            waited = self._given_up(instance)
            refused = self._out([*waited, *self._slots.remove(instance)], _lost)
        self.refuse(refused)

    def wake(self) -> Instance | None:
        with self.lock:
            now = self._clock()
            self._slots.silence(now)
            refused = self._out(self._slots.expire(now), _expired)
            ready = next((instance for instance in self.idle if self._slots.of(instance).waiting), None)
            if ready is not None:
                self.idle.remove(ready)
        self.refuse(refused)
        return ready

    def due(self) -> float:
        """When time will change something; 0 for never."""
        with self.lock:
            return self._slots.due()

    def leave(self, job: Job, state: JobState) -> bool:
        with self.lock:
            if job.state is not JobState.QUEUED:
                return False
            move((job,), state)
            self.live -= 1
            sequence: Sequence = job.sequence
            waited = self._slots.abandon(sequence)
            refused = self._out([other for other in waited if other is not job], _left)
        self.refuse(refused)
        return True

    def delay(self, job: Job) -> bool:
        return False

    def drain(self, state: JobState) -> list[Job]:
        with self.lock:
            jobs = [job for instance in [*self._taken] for job in self._given_up(instance)]
            for sequence in [*self._slots.backlog, *self._slots.placed]:  # so that nobody comes up meanwhile
                jobs += self._slots.abandon(sequence)
            move(jobs, state)
            self.live -= len(jobs)
        return jobs

    @property
    def under_way(self) -> int:
        """Sequences that have begun and are not over."""
        return len(self._slots.active)

    def oldest_ns(self) -> int:
        with self.lock:
            everyone = (*self._slots.placed, *self._slots.backlog)
            return min((sequence.jobs[0].received_ns for sequence in everyone if sequence.jobs), default=0)

    # --- For the thread that will execute

    def rest_if_idle(self, instance: Instance) -> float | None:
        with self.lock:
            self._land(instance)
            places = self._slots.of(instance)
            if places.waiting:
                return None
            self.idle.append(instance)
            return self._slots.due()

    def order_idle(self, rank: Callable[[Instance], int]) -> None:
        pass  # each sequence has its own instance

    def take(self, instance: Instance, cost_s: float) -> tuple[Batch | None, list[Job], float]:
        with self.lock:
            now = self._clock()
            self._land(instance)
            formed = self._strategy.form(self._slots.of(instance), now)
            if not formed.places:
                self.idle.append(instance)
                return None, [], formed.look_at or self._slots.due()
            self._taken[instance] = batch = self._batch(formed)
            return batch, [], NEVER

    # Below: the lock is held.

    def _put(self, job: Job) -> Instance | None:
        id = self._id(job)
        request = job.request
        slots = self._slots
        sequence = slots.active.get(id)
        starts = request.sequence_start or not request.correlation_id
        if sequence is None and not starts:
            raise InvalidArgument(
                f"inference request for sequence {id} to model '{self._name}' must specify the START flag on the "
                "first request of the sequence"
            )
        if self.live >= self.size_max:
            raise QueueFull(f"{request.log_prefix()}Exceeds maximum queue size")
        now = self._clock()
        if sequence is None:
            sequence = Sequence(id, self._states.begin(), self._is_iterative)
            slots.begin(sequence, now)
        job.sequence = sequence
        job.request = self._with_controls(request, id, start=starts, end=request.sequence_end)
        slots.add(sequence, job, now)
        self.live += 1
        if request.timeout_us:
            slots.expect_by(sequence, now + request.timeout_us * 1e-6)
        if request.sequence_end and not self._is_iterative:
            slots.close(sequence)
        if sequence.slot is None or sequence.in_flight:
            return None
        owner = sequence.slot.owner
        if owner not in self.idle:
            return None
        self.idle.remove(owner)
        return owner

    def _id(self, job: Job) -> SequenceId:
        """The sequence that a request is of. Raises InvalidArgument for what no request of one may be."""
        request = job.request
        about = f"inference request to model '{self._name}' must specify"
        if job.batch_size > 1:
            raise InvalidArgument(f"{about} batch-size 1 due to requirements of sequence batcher")
        expected = self._controls.id_datatype
        id = request.correlation_id
        if not id:
            if not self._is_iterative:
                raise InvalidArgument(f"{about} a non-zero or non-empty correlation ID")
            return self._new_id(text=expected == "BYTES")
        if expected and isinstance(id, str) != (expected == "BYTES"):
            got = "BYTES" if isinstance(id, str) else "UINT64"
            raise InvalidArgument(
                f"{request.log_prefix()}sequence batching control 'CONTROL_SEQUENCE_CORRID' data-type is '{got}', but "
                f"model '{self._name}' expects '{expected}'"
            )
        return id

    def _new_id(self, *, text: bool) -> SequenceId:
        """One that nobody has: counted from 1."""
        while True:
            self._generated += 1
            id = str(self._generated) if text else self._generated
            if id not in self._slots.active:
                return id

    def _with_controls(self, request: InferenceRequest, id: SequenceId, *, start: bool, end: bool) -> InferenceRequest:
        controlled = request.without_inputs()
        controlled.template = None
        controlled.timeout_us = request.timeout_us
        controlled.shared, controlled.trace, controlled.raw = request.shared, request.trace, request.raw
        controlled.correlation_id, controlled.sequence_start, controlled.sequence_end = id, start, end
        controlled.inputs = {**request.inputs, **self._controls.of(id, start=start, end=end, ready=True)}
        return controlled

    def _land(self, instance: Instance) -> None:
        """What the instance worked on is executed."""
        batch = self._taken.pop(instance, None)
        if batch is None:
            return
        for job in batch.again:
            self._queue_again(job, batch)
        for sequence in batch.sequences:
            if sequence.in_flight:
                self._slots.landed(sequence)

    def _given_up(self, instance: Instance) -> list[Job]:
        """Those of an instance's last batch that were to be executed once more. It may still be executing, and then
        this is asked again when it has ended."""
        batch = self._taken.get(instance)
        jobs: list[Job] = []
        if batch is not None and batch.ended_ns:
            del self._taken[instance]
            for job in () if batch.is_lost else batch.again:  # a thread that was given up may yet have found some
                self._queue_again(job, batch)
                jobs += self._slots.abandon(job.sequence)
        return jobs

    def _queue_again(self, job: Job, batch: AnyBatch) -> None:
        move((job,), JobState.QUEUED)
        job.again = False
        job.executed_ns += batch.ended_ns - batch.started_ns
        job.queued_at = self._clock()
        job.request = self._with_controls(job.request, job.request.correlation_id, start=False, end=False)
        self._slots.landed(job.sequence, job)
        self.live += 1

    def _batch(self, formed: Formed) -> AnyBatch:
        jobs: list[Job | None] = []
        real: list[Job] = []
        sequences: list[Sequence] = []
        for sequence in formed.places:
            job = None
            if sequence is not None:
                job = self._slots.pop(sequence)
                if job.request.sequence_start:
                    sequence.states.begin()
                job.request.inputs.update(sequence.states.inputs)
                real.append(job)
                sequences.append(sequence)
            jobs.append(job)
        move(real, JobState.EXECUTING)
        self.live -= len(real)
        padding = self._padding
        batch = self._batch_type([job or nobodys(real[0], padding) for job in jobs], len(jobs), formed.reason)
        batch.sequences = sequences
        batch.padding = padding if self._strategy.has_places else None
        return batch

    def _out(self, jobs: Iterable[Job], fault: Callable[[Job], Fault]) -> list[Job]:
        """Of jobs that are in no queue any more, with that fault."""
        jobs = list(jobs)
        move(jobs, JobState.REJECTED)
        self.live -= len(jobs)
        for job in jobs:
            job.fault = fault(job)
        return jobs


def _left(job: Job) -> Fault:
    return Cancelled("")


def _expired(job: Job) -> Fault:
    return QueueTimeout(f"{job.request.log_prefix()}timeout of the corresponding sequence has been expired")


def _lost(job: Job) -> Fault:
    return Unavailable(f"{job.request.log_prefix()}the instance that kept the sequence is gone")


def _to_nobody(jobs: list[Job]) -> None:
    assert not jobs, "somebody must be told"
