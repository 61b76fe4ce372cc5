"""One version of an ensemble: its life, and the way in for requests.

| message                   | from              | effect                                                              |
|---------------------------|-------------------|---------------------------------------------------------------------|
| submit(request, on_done)  | doors, callers    | admit, and begin the steps; refusals raise                          |
| submit_stream(...)        | doors, callers    | the same where models are decoupled                                 |
| job.cancel()              | doors, callers    | the steps under way are cancelled                                   |
| refit()                   | repository        | a model has changed: found anew, and checked, for requests to come  |
| pin()                     | other ensembles   | it, and its models, go on accepting their requests while it drains  |
| drain(grace_s)            | repository        | accept no more, finish what is under way, stop                      |

All of it happens on the trio thread. What becomes of a request is in run.py and stream_run.py. Tasks there are two: one
keeps deadlines, one has large inputs read that lie in clients' memory; both take what they get over one bounded queue.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from ....schema.config.copying import copied
from ....schema.fault import QueueFull, ShuttingDown
from ....schema.wire.generated.inference import ModelTransactionPolicy
from ...execute.company import Company
from ...observe.latencies import stats_for
from ...observe.statistics import ModelStats
from ...observe.status import ActorStatus, Workload
from ...request.admission import Admission
from ...request.batch import Batch
from ...request.fetching import fetch, fetched_bytes
from ...request.job import JobState, move
from ...request.ledger import Ledger
from ...request.together import submit_each
from ...schedule.timers import Timers
from .job import EnsembleJob, EnsembleStream
from .parts import Parts
from .places import Places
from .run import Run
from .stream_run import StreamRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ....schema.inference import InferenceRequest
    from ....schema.wire.generated.inference import ModelConfig
    from ...port.served import Inference, Served
    from ...port.settings import EngineSettings
    from ...request.job import Job
    from ...request.stream import Answer, StreamJob

READ_BYTES_MAX = 256 * 1024
"""Of inputs in clients' memory that are read on the trio thread, which takes some 50 us."""


class EnsembleVersion:
    """See the module's table. Made by the repository, which calls `refit` before it runs it."""

    def __init__(
        self,
        *,
        name: str,
        version: int,
        config: ModelConfig,
        labels: Mapping[str, Sequence[str]],
        settings: EngineSettings,
        clock: Callable[[], float],
        find: Callable[[str, int], Served],
        generation: str = "",
    ) -> None:
        """`labels` and `generation` are the ensemble's own; `find` looks up what serves."""
        self._generation = generation
        self.name = name
        self.namespace = ""
        self.version = version
        self.version_text = str(version)
        self.config = config
        self.decoupled = False
        self.depth = 1
        self.buffers = None
        self.remembers = False
        self.submits_anywhere = False
        self.labels = labels
        self.statistics = stats_for(settings.latencies, config)
        self.carried = ModelStats()
        """What versions of the same number had counted before an overlapping reload replaced them by this one."""
        self.load_seconds = 0.0
        self.company = Company()
        self.accepting = False
        self.ledger = Ledger(name, version, self.statistics, self._abandon)
        scheduling = config.ensemble_scheduling
        assert scheduling is not None, "an ensemble's configuration"
        bound = scheduling.max_inflight_requests
        self.places = Places(len(scheduling.step), bound) if bound else None
        self._own_labels = labels
        self._find = find
        self._parts: Parts | None = None
        self._admission = Admission(config)
        self._bound = settings.queue_size_max
        # A final answer of a model's that is not the ensemble's takes no room there, but does here.
        self._credit = settings.stream_responses_max + 1
        self._clock = clock
        self._timers = Timers(clock, self._expire, lambda: None)
        self._jobs: dict[Job, None] = {}
        """Under way, in the order of arrival."""
        self._to_read, self._read = trio.open_memory_channel[tuple[Run, Batch]](settings.queue_size_max)
        self._reading = 0
        """Requests whose inputs are being read, or wait for that."""
        self._running = False
        self._stop = trio.Event()
        self._closed = trio.Event()

    # --- What is known of it

    @property
    def generation(self) -> str:
        """See port/served.py."""
        return " ".join((self._generation, *sorted(served.generation for served in self.parts.served)))

    @property
    def gpus(self) -> tuple[int, ...]:
        """None: nothing executes here."""
        return ()

    @property
    def is_busy(self) -> bool:
        """See hosted.py."""
        return self.ledger.inflight > 0 or self.ledger.pins > 0

    @property
    def takes_room(self) -> bool:
        """Its parts do."""
        return False

    @property
    def pending(self) -> int:
        """None: requests wait where they are executed."""
        return 0

    @property
    def is_serving(self) -> bool:
        """Whether all of its models answer what comes."""
        return self._running and all(served.is_serving for served in self.parts.served)

    async def says_ready(self) -> bool:
        """Whether all of its models say so."""
        for served in self.parts.served:
            if not await served.says_ready():
                return False
        return True

    def problems(self) -> list[str]:
        """None of its own: its models say theirs."""
        return []

    def status(self) -> list[ActorStatus]:
        """What is under way."""
        oldest = next(iter(self._jobs), None)
        waits = () if self.places is None else self.places.waiting()
        waiting = {f"waiting in step {index}": count for index, count in enumerate(waits) if count}
        steps = ActorStatus(
            name="steps",
            doing=f"{self.ledger.inflight} in flight",
            depth=self.ledger.inflight,
            bound=self._bound,
            oldest_s=0.0 if oldest is None else (time.monotonic_ns() - oldest.received_ns) * 1e-9,
            facts={**waiting, "reading": self._reading, "broken": self.ledger.broken},
        )
        return [steps.of(f"{self.name}:{self.version}")]

    def workload(self) -> Workload:
        """See hosted.py. Its requests wait where they are executed."""
        return Workload(inflight=self.ledger.inflight, queue_max=self._bound)

    # --- Life

    @property
    def parts(self) -> Parts:
        assert self._parts is not None, "refitted before it runs, and until it is closed"
        return self._parts

    def refit(self) -> None:
        """Finds the models anew that serve now. Raises NotFound, NotReady for one that does not, InvalidArgument if
        they do not fit; then nothing has changed."""
        parts = Parts(self.config, self._find)
        if self._parts is None or parts.decoupled != self.decoupled:
            self.config = copied(self.config)
            self.config.model_transaction_policy = ModelTransactionPolicy(decoupled=parts.decoupled)
        self._parts = parts
        self.decoupled, self.depth, self.remembers = parts.decoupled, parts.depth, parts.remembers
        self.labels = parts.labels(self._own_labels)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until `drain` ends or it is cancelled. Nothing is left behind in any case."""
        self.ledger.open()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._timers.run)
                nursery.start_soon(self._read_inputs)
                self._running = self.accepting = True
                task_status.started()
                await self._stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._running = self.accepting = False
            self._stop.set()  # cancelled, it takes nothing of those either who have pinned it
            for job in list(self._jobs):
                _course(job).shut(ShuttingDown("the model was unloaded before it had finished answering"))
            self._to_read.close()
            # Connections remember the version that answered them last, maybe for long: what is left must be small.
            self._parts = None
            self._closed.set()

    @property
    def inflight(self) -> int:
        return self.ledger.inflight

    def pin_alone(self) -> Callable[[], None]:
        """See hosted.py."""
        self.ledger.pins += 1
        return self.ledger.unpin

    async def until_idle(self) -> None:
        """See hosted.py."""
        await self.ledger.until_idle()

    async def drain(self, grace_s: float) -> None:
        """Accepts nothing more but from those who have pinned it, lets what is under way finish for at most `grace_s`,
        stops. Returns when all is closed. Cancelled, it leaves the version not accepting but running."""
        self.accepting = self._running = False
        with trio.move_on_after(grace_s):
            await self.ledger.until_empty()
        self._stop.set()
        await self._closed.wait()

    def pin(self) -> Callable[[], None]:
        """See port/served.py. Its models are pinned with it."""
        parts = self.parts
        parts.hold()
        self.ledger.pins += 1
        return partial(self._unpin, parts)

    def _unpin(self, parts: Parts) -> None:
        parts.release()
        self.ledger.unpin()

    # --- Requests

    def submit(self, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0) -> EnsembleJob:
        """See port/served.py. The deadline is kept over all steps."""
        self._check_accepting(request)
        job = EnsembleJob(request, on_done)
        job.ledger = self.ledger
        self._admit(job, deadline)
        job.course = run = Run(self, job, self.parts)
        self._begin(run, request)
        return job

    def submit_all(
        self,
        requests: Sequence[InferenceRequest],
        on_done: Callable[[Job], None],
        refused: Callable[[InferenceRequest, Exception], None],
    ) -> list[EnsembleJob]:
        """See port/served.py."""
        return submit_each(self.submit, requests, on_done, refused)

    def submit_stream(
        self, request: InferenceRequest, on_answer: Callable[[StreamJob, Answer], None], deadline: float = 0.0
    ) -> EnsembleStream:
        """See port/served.py."""
        self._check_accepting(request)
        assert self.decoupled, "other ensembles answer once"
        job = EnsembleStream(request, on_answer, self.ledger, self._credit)
        self._admit(job, deadline)
        job.course = run = StreamRun(self, job, self.parts)
        self._begin(run, request)
        return job

    def _check_accepting(self, request: InferenceRequest) -> None:
        pinned = request.pinned and self.ledger.pins > 0 and not self._stop.is_set()
        if not (self.accepting or pinned):
            raise ShuttingDown(
                f"{request.log_prefix()}Server is stopping, scheduler for model has stopped accepting new inference "
                "requests"
            )
        if self.ledger.inflight >= self._bound:
            self.statistics.unserved["queue_full"] += 1
            raise QueueFull(f"{request.log_prefix()}Exceeds maximum queue size")

    def _admit(self, job: Job, deadline: float) -> None:
        self._admission.admit(job)
        job.received_ns = time.monotonic_ns()
        if job.request.trace is not None:
            self.ledger.trace(job)
        if deadline:
            job.deadline = self._clock() + deadline - trio.current_time()
            self._timers.at(job.deadline, job, self.ledger.inflight)
        move((job,), JobState.EXECUTING)
        self.ledger.inflight += 1
        self._jobs[job] = None

    def _begin(self, run: Run, request: InferenceRequest) -> None:
        """At once, unless inputs have to be read first that take long, or such a request is before this one."""
        if request.shared is not None:
            batch = Batch([run.job], run.job.batch_size, "ensemble")
            if self._reading or fetched_bytes(batch) > READ_BYTES_MAX:
                self._reading += 1
                self._to_read.send_nowait((run, batch))  # there is room: requests in flight are bounded, too
                return
            fetch(batch, self._admission)
        self._begin_read(run)

    def _begin_read(self, run: Run) -> None:
        fault = run.job.fault
        if fault is None:
            run.begin()
        else:
            run.shut(fault)

    async def _read_inputs(self) -> None:
        """The task that has large inputs read, one request after the other: they begin in the order of arrival."""
        async for run, batch in self._read:
            await trio.to_thread.run_sync(fetch, batch, self._admission, abandon_on_cancel=True)
            self._reading -= 1
            if not run.is_over:
                self._begin_read(run)

    def blockers(self, inference: Inference) -> Sequence[Sequence[Job]]:
        """See port/served.py. Those of its steps: it goes on if one of them can."""
        assert isinstance(inference, EnsembleJob | EnsembleStream), "one of its own"
        course = inference.course
        return () if course is None else course.blockers()

    # --- For runs, and inside

    def forget(self, job: Job) -> None:
        """It is over."""
        self._jobs.pop(job, None)
        job.course = None  # type: ignore[attr-defined]  # of an ensemble's jobs

    def now(self) -> float:
        """In seconds of the engine's clock."""
        return self._clock()

    def look_at(self, when: float, job: EnsembleStream) -> None:
        """Has the job's course look then."""
        self._timers.at(when, job, self.ledger.inflight)

    def _abandon(self, job: Job, _: JobState) -> bool:
        """The ledger's way to take a job out of the queue, of which there is none: its caller leaves."""
        if job in self._jobs:
            _course(job).abandon()
        return False

    def _expire(self, job: Job, now: float) -> None:
        if job not in self._jobs:
            return
        if job.deadline and job.deadline <= now:
            self.statistics.unserved["deadline_executing"] += 1
            _course(job).late()
        elif isinstance(job, EnsembleStream) and job.course is not None:
            job.course.look(now)


def _course(job: Job) -> Run:
    course = job.course  # type: ignore[attr-defined]  # of an ensemble's jobs
    assert isinstance(course, Run), "until it is over"
    return course
