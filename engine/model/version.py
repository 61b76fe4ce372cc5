"""One version of one model: its life, and the way in for requests.

    ModelVersion.run
     ├─ Instances           each takes batches from the scheduler by itself      execute/instances.py
     └─ limits              one task for every deadline, timeout and delay        schedule/limits.py

| message                   | from            | effect                                                                |
|---------------------------|-----------------|-----------------------------------------------------------------------|
| submit(request, on_done)  | doors, callers  | admit, then execute at once or queue; refusals raise                  |
| submit_stream(...)        | doors, callers  | the same for decoupled models, see request/stream.py                  |
| job.cancel()              | doors, callers  | a queued job is out at once; an executing one's result is dropped     |
| change_instances(...)     | repository      | opens and retires instances; what is in flight is not touched         |
| pin()                     | ensembles       | what is pinned goes on accepting their requests while it drains       |
| drain(grace_s)            | repository      | accept no more, finish what is inside, stop                           |

All of it happens on the trio thread; instances' threads only post. How a request ends is in request/ledger.py.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault, ShuttingDown, Unavailable
from ...schema.subclasses import mypyc_attr
from ...schema.wire.generated.inference import ModelOptimizationPolicyModelPriority as Priority
from ..execute.cost import execution_cost
from ..execute.feed import Feed
from ..execute.instances import Instances
from ..execute.limited import LimitedFeed
from ..execute.placement import Placement
from ..observe.latencies import stats_for
from ..observe.statistics import ModelStats
from ..observe.status import ActorStatus, Workload
from ..request.admission import Admission
from ..request.job import Job, JobState
from ..request.ledger import Ledger
from ..request.stream import Answer, StreamJob
from ..request.together import submit_each
from ..schedule.choice import scheduler_of
from ..schedule.limits import Limits
from ..schedule.order import order_of
from ..schedule.rules import QueuePolicies, is_decoupled
from ..schedule.sequence import SequenceBatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...schema.inference import InferenceRequest
    from ...schema.shared_memory import SharedUse
    from ...schema.wire.generated.inference import ModelConfig
    from ..execute.inline import InlineRunner
    from ..execute.limited import SharedResources
    from ..execute.warmup import Warmup
    from ..port.backend import BackendModel, InstanceContext
    from ..port.buffers import BufferPool
    from ..port.served import Inference
    from ..port.settings import EngineSettings
    from ..schedule.states import States

log = logging.getLogger("despina.engine.model")

CLOSE_S_MIN = 1.0
"""Closing gets that long even if nothing may be waited for: with no time at all it would never begin."""


def priority_of(config: ModelConfig) -> Priority:
    """Among models."""
    return config.optimization.priority if config.optimization is not None else Priority.PRIORITY_DEFAULT


@mypyc_attr(allow_interpreted_subclasses=True)
class ModelVersion:
    """See the module's table. Made by the repository; used by doors through `submit`."""

    __deletable__ = ("_backend_model",)

    def __init__(
        self,
        *,
        name: str,
        version: int,
        config: ModelConfig,
        backend_model: BackendModel,
        instances: Sequence[InstanceContext],
        labels: Mapping[str, Sequence[str]],
        settings: EngineSettings,
        clock: Callable[[], float],
        warmup: Warmup,
        states: States,
        inline: InlineRunner,
        resources: SharedResources | None = None,
        generation: str = "",
    ) -> None:
        """`resources` are what instances share where the server limits rates, `generation` tells this load of the model
        from others where answers are kept."""
        self.generation = generation
        self.name = name
        self.namespace = ""
        self.version = version
        self.version_text = str(version)
        self.config = config
        self.decoupled = is_decoupled(config)
        self.buffers: BufferPool | None = getattr(backend_model, "buffers", None)
        self.depth = 0
        self.remembers = config.sequence_batching is not None
        self.submits_anywhere = False
        self.labels = labels
        """Output name -> label per index, for outputs that have labels."""
        self.statistics = stats_for(settings.latencies, config)
        self.carried = ModelStats()
        """What versions of the same number had counted before an overlapping reload replaced them by this one."""
        self.load_seconds = 0.0
        self.admission = Admission(config)
        order = order_of(config, settings)
        self.scheduler = scheduler_of(config, states, settings.queue_size_max, clock, order)
        self.ledger = Ledger(name, version, self.statistics, self._leave_queue, self.scheduler.ordered)
        self.limits = Limits(QueuePolicies.of(config), self.scheduler, self.ledger, clock, self._look)
        self._limited = self.limits.of_all or order.adaptive
        self._sequences = self.scheduler if isinstance(self.scheduler, SequenceBatcher) else None
        if self._sequences is not None:
            self._sequences.refuse = self.limits.refuse_late
        parts = (self.scheduler, self.limits, self.ledger, self.admission, execution_cost(config), clock)
        self._feed = Feed(*parts) if resources is None else LimitedFeed(resources, *parts)
        self.placement = Placement(self._feed, inline, priority_of(config))
        self.company = self.placement.company
        self.instances = Instances(
            backend_model,
            self._feed,
            self.placement,
            warmup,
            decoupled=self.decoupled,
            close_timeout_s=settings.exit_timeout_secs,
            strategy=settings.restart,
            on_change=self._instances_changed,
        )
        self.accepting = False
        self._backend_model = backend_model
        self._contexts = instances
        self._close_timeout_s = settings.exit_timeout_secs
        self._keep_queue = settings.queue_while_down == "keep"
        self._stream_responses_max = settings.stream_responses_max
        self._running = False
        self._takes_turns = resources is not None
        self._direct = self._direct_alone = False
        """No joining, delaying or reordering, and every instance can move: what runs inline need not queue. The same
        where requests join those that are there, for one that comes alone."""
        self._inline_runner = inline
        self._stop = trio.Event()
        self._closed = trio.Event()

    # --- What is known of it

    @property
    def gpus(self) -> tuple[int, ...]:
        """The devices that its instances execute on, ascending; empty for a model on the CPU."""
        return tuple(sorted({context.device_id for context in self._contexts if context.kind == "GPU"}))

    @property
    def pending(self) -> int:
        """Requests waiting to execute, now."""
        return self.scheduler.live

    @property
    def is_busy(self) -> bool:
        """See hosted.py."""
        sequences = self._sequences
        return self.ledger.inflight > 0 or self.ledger.pins > 0 or (sequences is not None and sequences.under_way > 0)

    @property
    def takes_room(self) -> bool:
        """See hosted.py."""
        return True

    @property
    def is_serving(self) -> bool:
        """Whether anything executes what comes: it is false while every instance is down."""
        return self._running and self.instances.serving > 0

    async def says_ready(self) -> bool:
        """See port/served.py. True where nobody has a say."""
        return await self.instances.say_ready()

    def problems(self) -> list[str]:
        """Why it serves less than it should."""
        return [f"model '{self.name}' version {self.version}: {problem}" for problem in self.instances.problems()]

    def status(self) -> list[ActorStatus]:
        """What its queue and its instances do now."""
        oldest_ns = self.scheduler.oldest_ns()
        queue = ActorStatus(
            name="queue",
            doing=f"{self.ledger.inflight} in flight, {len(self.ledger.streams)} of them streams",
            depth=self.scheduler.live,
            bound=self.scheduler.size_max,
            oldest_s=(time.monotonic_ns() - oldest_ns) * 1e-9 if oldest_ns else 0.0,
            facts={**self.statistics.batch_reasons, "broken": self.ledger.broken},
        )
        return [status.of(f"{self.name}:{self.version}") for status in (queue, *self.instances.status())]

    def workload(self) -> Workload:
        """See hosted.py."""
        oldest_ns = self.scheduler.oldest_ns()
        return Workload(
            inflight=self.ledger.inflight,
            queue_max=self.scheduler.size_max,
            oldest_s=(time.monotonic_ns() - oldest_ns) * 1e-9 if oldest_ns else 0.0,
            instances_serving=self.instances.serving,
            instances_down=self.instances.down,
        )

    # --- Life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens every instance, reports started, serves until `drain` ends or it is cancelled, closes everything.

        Raises (in a group) what opening an instance raised. Nothing is left behind in any case.
        """
        self.ledger.open()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.instances.run, self._contexts)
                is_plain = (
                    self.scheduler.ordered is None
                    and not self.limits.of_all
                    and self.instances.all_movable
                    and not self._takes_turns
                )
                self._direct = is_plain and not self.scheduler.joins
                self._direct_alone = is_plain and not self._limited and not self.scheduler.forms_anew
                self.submits_anywhere = self._can_submit_anywhere()
                nursery.start_soon(self.limits.run)
                self._running = self.accepting = True
                task_status.started()
                try:
                    await self._stop.wait()
                finally:
                    self._running = self.accepting = False
                    self._stop.set()  # cancelled, it takes nothing of those either who have pinned it
                    self._refuse_queued(ShuttingDown("the model was unloaded before its turn came"))
                    self._shut_streams()
                    self._abandon_children()
                    self.ledger.shut_deferred(ShuttingDown("the model was unloaded before it had answered"))
                nursery.cancel_scope.cancel()
        finally:
            self._running = self.accepting = False
            # What instances had then may have been meant to be executed once more, or not have been begun.
            self._refuse_queued(ShuttingDown("the model was unloaded before it had finished answering"))
            # The framework's model is closed whatever happens; a thread that hangs in it is let go.
            with trio.move_on_after(max(self._close_timeout_s, CLOSE_S_MIN), shield=True) as patience:
                await trio.to_thread.run_sync(self._close, abandon_on_cancel=True)
            if patience.cancelled_caught:
                log.error(
                    "model '%s' did not close within %g s: its thread is abandoned", self.name, self._close_timeout_s
                )
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
        """Accepts nothing more but from those who have pinned it, lets what is inside finish for at most `grace_s`,
        stops. Returns when all is closed.

        Cancelled, it leaves the model not accepting but running: call it again.
        """
        self.accepting = self._running = False
        with trio.move_on_after(grace_s):
            await self.ledger.until_empty()
        self._stop.set()
        await self._closed.wait()

    async def change_instances(self, contexts: Sequence[InstanceContext], config: ModelConfig) -> None:
        """Serves with other instances from now on; `config` says so, and differs in nothing else.

        Raises Fault if one does not open; then nothing has changed.
        """
        before, self._backend_model.config = self._backend_model.config, config  # what new instances are told
        try:
            await self.instances.change(contexts)
        except BaseException:
            self._backend_model.config = before
            raise
        self._contexts = contexts
        self.config = config
        self._direct = self._direct and self.instances.all_movable
        self._direct_alone = self._direct_alone and self.instances.all_movable
        self.submits_anywhere = self._can_submit_anywhere()

    # --- Requests

    def submit(self, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0) -> Job:
        """Admits and queues a request. Never blocks. `on_done(job)` follows exactly once unless the job is cancelled.

        `deadline`, in seconds of trio's clock, is when the caller stops waiting: a job that passes it, queued or
        executing, is answered DeadlineExceeded. Raises InvalidArgument for a request that does not fit the model,
        QueueFull, ShuttingDown; a request refused this way is counted as no failure.
        """
        if not self.accepting and not self._is_pinned_by(request):
            raise self._refusal(request)
        job = Job(request, on_done)
        ledger = self.ledger
        job.ledger = ledger
        self.admission.admit(job)
        if request.shared is not None:
            self._share(request.shared)
        job.received_ns = time.monotonic_ns()
        if request.trace is not None:
            ledger.trace(job)
        is_direct = self._direct or (self._direct_alone and self._inline_runner.is_alone)
        if is_direct and not deadline and self.placement.execute_at_once(job):
            return job
        if self._limited or deadline:
            self.limits.apply(job, deadline)
        try:
            instance = self.scheduler.put(job)
        except Fault as fault:
            ledger.turn_away(job, fault)
            raise
        ledger.inflight += 1
        if instance is not None:
            self.placement.start(instance)
        else:
            self.company.lonely = 0
        if self._sequences is not None:
            self._look_when_due(self._sequences)
        return job

    def submit_all(
        self,
        requests: Sequence[InferenceRequest],
        on_done: Callable[[Job], None],
        refused: Callable[[InferenceRequest, Exception], None],
    ) -> list[Job]:
        """See port/served.py. Where several are to queue, and nothing limits them, at one time: half of what each
        costs."""
        if (
            len(requests) == 1
            or not self.accepting
            or self._limited
            or self._direct
            or (self._direct_alone and self._inline_runner.is_alone)
            or self._sequences is not None
        ):
            return submit_each(self.submit, requests, on_done, refused)
        ledger, admit = self.ledger, self.admission.admit
        received_ns = time.monotonic_ns()
        jobs = []
        for request in requests:
            job = Job(request, on_done)
            job.ledger = ledger
            job.received_ns = received_ns
            try:
                admit(job)
            except Exception as problem:
                refused(request, problem)
                continue
            if request.shared is not None:
                self._share(request.shared)
            if request.trace is not None:
                ledger.trace(job)
            jobs.append(job)
        return self._put_all(jobs, refused)

    def _put_all(self, jobs: list[Job], refused: Callable[[InferenceRequest, Exception], None]) -> list[Job]:
        count, instances = self.scheduler.put_all(jobs)
        self.ledger.inflight += count
        accepted, others = (jobs, ()) if count == len(jobs) else (jobs[:count], jobs[count:])
        for job in others:
            try:
                instance = self.scheduler.put(job)
            except Fault as fault:
                self.ledger.turn_away(job, fault)
                refused(job.request, fault)
                continue
            self.ledger.inflight += 1
            accepted.append(job)
            if instance is not None:
                instances.append(instance)
        for instance in instances:
            self.placement.start(instance)
        if len(accepted) > len(instances):
            self.company.lonely = 0
        return accepted

    def _share(self, shared: SharedUse) -> None:
        """A request has tensors in shared memory: from now on, each execution looks for such."""
        self.ledger.shares = True
        if shared.on_device and not self.ledger.on_devices:
            self.ledger.on_devices = True
            self._feed.cost.leave_for_good()

    def submit_stream(
        self, request: InferenceRequest, on_answer: Callable[[StreamJob, Answer], None], deadline: float = 0.0
    ) -> StreamJob:
        """As `submit`, for decoupled models: `on_answer(job, answer)` follows any number of times, see StreamJob."""
        if not self.accepting and not self._is_pinned_by(request):
            raise self._refusal(request)
        assert self.decoupled, "other models answer once"
        ledger = self.ledger
        job = StreamJob(request, on_answer, ledger, self._stream_responses_max)
        self.admission.admit(job)
        if request.shared is not None:
            self._share(request.shared)
        job.received_ns = time.monotonic_ns()
        if request.trace is not None:
            ledger.trace(job)
        if self._limited or deadline:
            self.limits.apply(job, deadline)
        try:
            instance = self.scheduler.put(job)
        except Fault as fault:
            ledger.turn_away(job, fault)
            raise
        ledger.inflight += 1
        ledger.streams.add(job)
        if instance is not None:
            self.placement.start(instance)
        if self._sequences is not None:
            self._look_when_due(self._sequences)
        return job

    def pin(self) -> Callable[[], None]:
        """See port/served.py."""
        return self.pin_alone()

    def _is_pinned_by(self, request: InferenceRequest) -> bool:
        """Whether the request is served although the version drains."""
        return request.pinned and self.ledger.pins > 0 and not self._running and not self._stop.is_set()

    def _refusal(self, request: InferenceRequest) -> Fault:
        if self._running:
            return Unavailable(f"{request.log_prefix()}{'; '.join(self.problems())}")
        return ShuttingDown(
            f"{request.log_prefix()}Server is stopping, scheduler for model has stopped accepting new inference "
            "requests"
        )

    def blockers(self, inference: Inference) -> Sequence[Sequence[Job]]:
        """See port/served.py."""
        job: Job = inference  # type: ignore[assignment]  # one of its own
        if job.state is JobState.QUEUED:
            slot = getattr(job.sequence, "slot", None)
            return self.instances.blockers(None if slot is None else slot.owner)
        if job.state is JobState.EXECUTING:
            return self.instances.busy_with(job) or [(job,)]
        ordered = self.ledger.ordered
        return [(ordered[0],)] if ordered and ordered[0] is not job else ()

    # --- Inside

    def _can_submit_anywhere(self) -> bool:
        """See port/served.py."""
        is_plain = not self._limited and not self._takes_turns and self._sequences is None
        return is_plain and self.instances.all_bound

    def _leave_queue(self, job: Job, state: JobState) -> bool:
        return self.limits.leave(job, state)

    def _look(self) -> None:
        looked = self.placement.look()
        if self._sequences is not None:
            while looked:  # each instance has sequences of its own
                looked = self.placement.look()
            self._look_when_due(self._sequences)

    def _look_when_due(self, sequences: SequenceBatcher) -> None:
        due = sequences.due()
        if due:
            self.limits.look_at(due)

    def _instances_changed(self) -> None:
        """An instance has come or gone. Without any, what waits is kept for the next, or refused, by setting."""
        if not self._running:
            return
        self.accepting = self._keep_queue or self.instances.serving > 0
        if not self.accepting:
            self._refuse_queued(Unavailable("; ".join(self.problems())))

    def _refuse_queued(self, fault: Fault) -> None:
        for job in self.scheduler.drain(JobState.REJECTED):
            self.ledger.end_refused(job, type(fault)(f"{job.request.log_prefix()}{fault.message}"))

    def _shut_streams(self) -> None:
        """The model ends: releases senders that wait for their callers."""
        for stream in list(self.ledger.streams):
            stream.shut(ShuttingDown("the model was unloaded before it had finished answering"))

    def _abandon_children(self) -> None:
        """The model ends: nobody waits any more for what it has asked of others."""
        for jobs in self.instances.executing():
            for job in jobs:
                job.abandon_children(ShuttingDown("the model that made the request was unloaded"))

    def _close(self) -> None:
        try:
            self._backend_model.close()
        except Exception:
            log.exception("closing model '%s' failed", self.name)
        # Connections remember the version that answered them last, maybe for long: what is left must be small.
        del self._backend_model
        self.instances.close()
