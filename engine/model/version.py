"""One version of one model: an actor that owns its mailbox, its deadlines, its statistics and its instances.

    ModelVersion.run
     ├─ Instance, some     each takes batches from the mailbox by itself
     └─ timers             one task for every deadline and batching delay of the model

| message                    | from            | effect                                                             |
|----------------------------|-----------------|--------------------------------------------------------------------|
| submit(request, on_done)   | doors, callers  | admit, queue, start an idle instance; refusals raise               |
| submit_stream(request, ..) | doors, callers  | the same for decoupled models, see stream.py                       |
| job.cancel()               | doors, callers  | a queued job is out at once; an executing one's result is dropped  |
| finish(batch)              | instances       | count, then deliver                                                |
| give_up(jobs)              | instances       | jobs that cannot meet their deadlines any more                     |
| wake_at(time)              | instances       | start an idle instance then                                        |
| drain(grace_s)             | lifecycle       | accept no more, finish what is inside, stop                        |

All of it happens on the trio thread; instances' threads only post.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import trio

from ...schema.fault import DeadlineExceeded, Fault, QueueTimeout, ShuttingDown
from ...schema.wire.generated.inference import ModelQueuePolicyTimeoutAction as TimeoutAction
from ..execute.inline import Company
from ..execute.instance import TaskInstance, ThreadInstance, as_fault
from ..observe.latencies import stats_for
from ..observe.statistics import ModelStats
from ..observe.tracing import trace_accepted, trace_batch, trace_computed
from ..request.admission import Admission
from ..request.job import Job, JobState
from ..request.sharing import place
from ..request.stream import Answer, StreamJob
from ..schedule import queue_rules
from ..schedule.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...schema.inference import InferenceRequest
    from ...schema.wire.generated.inference import ModelConfig
    from ..execute.inline import InlineRunner
    from ..execute.instance import Instance
    from ..execute.warmup import Warmup
    from ..port.backend import AsyncInstance, BackendInstance, BackendModel, Batch, InstanceContext
    from ..port.settings import EngineSettings

log = logging.getLogger("despina.engine.model.version")


class ModelVersion:
    """See the module's table. Made by the repository; used by doors through `submit`."""

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
        inline: InlineRunner,
    ) -> None:
        self.name = name
        self.version = version
        self.version_text = str(version)
        self.config = config
        self.decoupled = bool(config.model_transaction_policy and config.model_transaction_policy.decoupled)
        self.labels = labels
        """Output name -> label per index, for outputs that have labels."""
        self.statistics = stats_for(settings.latencies, config)
        self.carried = ModelStats()
        """What versions of the same number had counted before an overlapping reload replaced them by this one."""
        self.load_seconds = 0.0
        self.clock = clock
        self.admission = Admission(config)
        self.placement = queue_rules.placement(config)
        self.mailbox = queue_rules.mailbox(config, settings, clock)
        self.accepting = False
        self.inflight = 0
        """Jobs accepted and not yet over: queued, executing, or executing for a caller that has left."""
        self.shares = False
        """A request has used shared memory at least once."""
        self.streams: set[StreamJob] = set()
        """Those of them that are streams."""
        self.home_thread = 0
        """Where everything here runs, but for executors."""
        self.post: Callable[..., object] = _nowhere
        """Runs a call there soon. From any thread; raises trio.RunFinishedError when all is over."""
        self._backend_model = backend_model
        self._contexts = instances
        self._instances: list[Instance] = []
        self._settings = settings
        self._warmup = warmup
        self._policies = queue_rules.policies(config)
        self._stamped = (
            len(self.mailbox.levels) > 1
            or self.mailbox.rule.delay_s > 0
            or any(policy.default_timeout_microseconds for policy in self._policies)
        )
        """Whether a job's arrival, level or time in the queue makes a difference."""
        self._priority_default = queue_rules.priority_default(config)
        self._stop = trio.Event()
        self._closed = trio.Event()
        self._empty: trio.Event | None = None
        self.timers = Timers(clock, self._expire, self._wake)
        self._traced = 0
        """Traced requests that are not over."""
        self._direct = False
        """No joining, delaying or reordering, and every instance can move: what runs inline need not queue."""
        self.company = Company()
        self._inline = inline
        self._inline_running = False

    @property
    def gpus(self) -> tuple[int, ...]:
        """The devices that its instances execute on, ascending; empty for a model on the CPU."""
        return tuple(sorted({context.device_id for context in self._contexts if context.kind == "GPU"}))

    @property
    def pending(self) -> int:
        """Requests waiting to execute, now."""
        return self.mailbox.live

    # --- Life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens every instance, reports started, serves until `drain` ends or it is cancelled, closes everything.

        Raises (in a group) what opening an instance raised. Nothing is left behind in any case.
        """
        close_timeout_s = self._settings.exit_timeout_secs
        self.post = trio.lowlevel.current_trio_token().run_sync_soon
        self.home_thread = threading.get_ident()
        try:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as opening:
                    for context in self._contexts:
                        instance = self._instance(context)
                        self._instances.append(instance)
                        opening.start_soon(nursery.start, instance.run, close_timeout_s)
                self._direct = (
                    not self.mailbox.batching
                    and self.mailbox.ordered is None
                    and not self._policies
                    and all(instance.movable for instance in self._instances)
                )
                nursery.start_soon(self.timers.run)
                self.accepting = True
                task_status.started()
                try:
                    await self._stop.wait()
                finally:
                    self.accepting = False
                    self._refuse_queued()
                    self._shut_streams()
                nursery.cancel_scope.cancel()
        finally:
            self.accepting = False
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._close)
            self._closed.set()

    async def drain(self, grace_s: float) -> None:
        """Accepts nothing more, lets what is inside finish for at most `grace_s`, stops. Returns when all is closed.

        Cancelled, it leaves the model not accepting but running: call it again.
        """
        self.accepting = False
        if self.inflight:
            if self._empty is None:
                self._empty = trio.Event()
            with trio.move_on_after(grace_s):
                await self._empty.wait()
        self._stop.set()
        await self._closed.wait()

    def warm_up(self, executor: BackendInstance) -> None:
        """Runs the configured warm-up samples on an executor just opened, on its own thread. Raises InvalidArgument."""
        self._warmup.run(self, executor)

    async def warm_up_async(self, executor: AsyncInstance) -> None:
        """The same on an executor that is awaited."""
        await self._warmup.run_async(self, executor)

    # --- Requests

    def submit(self, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0) -> Job:
        """Admits and queues a request. Never blocks. `on_done(job)` follows exactly once unless the job is cancelled.

        `deadline`, in seconds of trio's clock, is when the caller stops waiting: a job that passes it, queued or
        executing, is answered DeadlineExceeded. Raises InvalidArgument for a request that does not fit the model,
        QueueFull, ShuttingDown; a request refused this way is counted nowhere.
        """
        if not self.accepting:
            raise ShuttingDown(
                f"{request.log_prefix()}Server is stopping, scheduler for model has stopped accepting new inference "
                "requests"
            )
        job = Job(request, on_done)
        job.model = self
        self.admission.admit(job)
        if request.shared is not None:
            self.shares = True
        job.received_ns = time.monotonic_ns()
        if request.trace is not None:
            self._trace(job)
        mailbox = self.mailbox
        if self._direct and self.placement.inline and not deadline and not self._inline_running:
            claimed = mailbox.claim()
            if claimed is not None:
                assert isinstance(claimed, ThreadInstance)
                self.inflight += 1
                self._inline_running = True
                claimed.execute_now(job)
                self._inline_running = False
                return job
        if self._stamped or deadline:
            self._stamp(job, deadline)
        try:
            instance = mailbox.put(job)
        except Fault:
            self._trace_end(job)
            raise
        self.inflight += 1
        if instance is not None:
            self.start(instance)
        else:
            self.company.lonely = 0
        return job

    def submit_stream(
        self, request: InferenceRequest, on_answer: Callable[[StreamJob, Answer], None], deadline: float = 0.0
    ) -> StreamJob:
        """As `submit`, for decoupled models: `on_answer(job, answer)` follows any number of times, see StreamJob."""
        if not self.accepting:
            raise ShuttingDown(
                f"{request.log_prefix()}Server is stopping, scheduler for model has stopped accepting new inference "
                "requests"
            )
        assert self.decoupled, "other models answer once"
        job = StreamJob(request, on_answer, self, self._settings.stream_responses_max)
        self.admission.admit(job)
        if request.shared is not None:
            self.shares = True
        job.received_ns = time.monotonic_ns()
        if request.trace is not None:
            self._trace(job)
        if self._policies or deadline:
            self._stamp(job, deadline)
        try:
            instance = self.mailbox.put(job)
        except Fault:
            self._trace_end(job)
            raise
        self.inflight += 1
        self.streams.add(job)
        if instance is not None:
            self.start(instance)
        return job

    def abandon(self, job: Job) -> None:
        """The caller leaves. See Job.cancel."""
        job.on_done = None
        if self.mailbox.leave(job, JobState.CANCELLED):
            self.statistics.failed(job, "CANCELED", time.monotonic_ns())
            if job.request.shared is not None:
                job.request.shared.release()
            self._out(1)
            self._trace_end(job)
        if job.request.trace is not None:
            job.request.trace.finish()  # its door has nothing more to note

    def _stamp(self, job: Job, deadline: float) -> None:
        """Arrival, level and timers, for models with a queue to speak of."""
        now = job.queued_at = self.clock()
        request = job.request
        if len(self.mailbox.levels) > 1:
            wanted = request.priority
            job.level = (wanted if 0 < wanted <= len(self.mailbox.levels) else self._priority_default) - 1
        policy = self._policies[job.level] if self._policies else None
        if deadline:
            job.deadline = now + deadline - trio.current_time()
            self.timers.at(job.deadline, job, self.inflight)
        if policy is not None and policy.default_timeout_microseconds:
            timeout_us = policy.default_timeout_microseconds
            if policy.allow_timeout_override and 0 < request.timeout_us < timeout_us:
                timeout_us = request.timeout_us
            self.timers.at(now + timeout_us * 1e-6, job, self.inflight)

    # --- From instances

    def start(self, instance: Instance) -> None:
        """Starts an instance that is off the idle list: inline if it can move and the model is cheap."""
        if not (self.placement.inline and instance.movable):
            instance.start()
            return
        assert isinstance(instance, ThreadInstance)
        if self._inline_running or (self.mailbox.batching and (self._inline.in_pass or self.company.is_there())):
            # After everybody who is runnable now: their requests may share the batch.
            self._inline.soon(instance)
        elif self.execute_inline(instance):
            self._inline.soon(instance)

    def execute_inline(self, instance: ThreadInstance) -> bool:
        """Executes what waits, here on the trio thread. True when a slice was used up and more may wait."""
        self._inline_running = True
        more = instance.execute_inline()
        self._inline_running = False
        return more

    def finish(self, batch: Batch) -> None:
        """Counts an executed batch and delivers its answers."""
        if self.decoupled:
            self._finish_streams(batch)
            return
        if self._traced:
            self._traced -= trace_batch(batch)
        if self.shares:
            place(batch.jobs)
        self.statistics.executed(batch)
        self._done(batch)

    def disown(self, batch: Batch, fault: Fault) -> None:
        """Answers the jobs of a batch whose executor will not come back."""
        if self.decoupled:
            for job in batch.jobs:
                job.settle(fault)
            self._finish_streams(batch)
            return
        for job in batch.jobs:
            job.fault = job.fault or fault
            self.statistics.failed(job, "BACKEND", time.monotonic_ns())
            self._trace_end(job)
        self._done(batch)

    def give_up(self, jobs: list[Job]) -> None:
        """Answers jobs that were found too late to meet their callers' deadlines."""
        for job in jobs:
            self._reject(job, DeadlineExceeded("Deadline Exceeded"))

    def wake_at(self, when: float) -> None:
        """Starts an idle instance at `when`, in seconds of the engine's clock."""
        self.timers.wake_at(when, self.inflight)

    # --- Ends of jobs

    def stream_over(self, job: StreamJob, batch: Batch) -> None:
        """For the job: its final answer is delivered and its execution is over."""
        self.streams.discard(job)
        if job.request.trace is not None:
            trace_computed(job.request.trace, batch)
            job.request.trace.finish()  # its door has noted all it had to
            self._traced -= 1
        self.statistics.streamed(job, batch)
        self._out(1)

    def _finish_streams(self, batch: Batch) -> None:
        self.statistics.executed_streams(batch)
        for job in batch.jobs:
            assert isinstance(job, StreamJob)
            job.finish(batch)

    def _shut_streams(self) -> None:
        """The model ends: releases senders that wait for their callers."""
        for job in list(self.streams):
            job.shut(ShuttingDown("the model was unloaded before it had finished answering"))

    def _done(self, batch: Batch) -> None:
        """Delivers the answers of a batch, or what may go out now where answers keep the order of requests."""
        ordered = self.mailbox.ordered
        if ordered is None:
            for job in batch.jobs:
                job.state = JobState.DONE
                on_done = job.on_done
                if on_done is not None:
                    job.on_done = None
                    try:
                        on_done(job)
                    except Exception:  # a door's bug must not take its neighbours' answers with it
                        log.exception("delivering an answer of model '%s' failed", self.name)
        else:
            for job in batch.jobs:
                job.state = JobState.DONE
            while ordered and ordered[0].state is JobState.DONE:
                self._deliver(ordered.popleft())
        self._out(len(batch.jobs))

    def _deliver(self, job: Job) -> None:
        on_done = job.on_done
        if on_done is None:
            return
        job.on_done = None
        try:
            on_done(job)
        except Exception:  # a door's bug must not take its neighbours' answers with it
            log.exception("delivering an answer of model '%s' failed", self.name)

    def _reject(self, job: Job, fault: Fault) -> None:
        """Answers a job that `leave` or `take` has already moved out of the queue."""
        job.fault = fault
        self.statistics.failed(
            job, "CANCELED" if isinstance(fault, DeadlineExceeded) else "REJECTED", time.monotonic_ns()
        )
        self._trace_end(job)
        if job.request.shared is not None:
            job.request.shared.release()
        self._deliver(job)
        self._out(1)

    def _out(self, count: int) -> None:
        self.inflight -= count
        if self.inflight == 0 and self._empty is not None:
            self._empty.set()

    def _refuse_queued(self) -> None:
        for job in self.mailbox.drain(JobState.REJECTED):
            self._reject(job, ShuttingDown(f"{job.request.log_prefix()}the model was unloaded before its turn came"))

    # --- Traces

    def _trace(self, job: Job) -> None:
        """A request to be traced was accepted."""
        self._traced += 1
        trace_accepted(job)

    def _trace_end(self, job: Job) -> None:
        """A request ends that was not executed, or not to the end."""
        if job.request.trace is not None:
            self._traced -= 1
            job.request.trace.stamp("REQUEST_END")

    # --- Limits in time

    def _wake(self) -> None:
        instance = self.mailbox.wake()
        if instance is not None:
            self.start(instance)

    def _expire(self, job: Job, now: float) -> None:
        """A limit of this job has passed: its caller's deadline, or what its level lets it wait in the queue."""
        if job.deadline and job.deadline <= now:
            if self.mailbox.leave(job, JobState.REJECTED):
                self._reject(job, DeadlineExceeded("Deadline Exceeded"))
            elif job.state is JobState.EXECUTING and isinstance(job, StreamJob):
                job.expire()
            elif job.state is JobState.EXECUTING:
                # The caller is told now; the batch goes on, and counts the job when it is done.
                job.fault = DeadlineExceeded("Deadline Exceeded")
                self._deliver(job)
        elif job.state is JobState.QUEUED:
            policy = self._policies[job.level]
            if policy.timeout_action == TimeoutAction.DELAY:
                self.mailbox.delay(job)
            elif self.mailbox.leave(job, JobState.REJECTED):
                self._reject(job, QueueTimeout("Request timeout expired"))

    # --- Construction and closing

    def _instance(self, context: InstanceContext) -> Instance:
        if getattr(self._backend_model, "asynchronous", False):
            try:
                executor = self._backend_model.open_instance(context)
            except SystemExit as error:  # a user model's; here it would end the engine
                raise as_fault(error) from error
            return TaskInstance(self, executor, context)  # type: ignore[arg-type]
        return ThreadInstance(self, self._backend_model, context)

    def _close(self) -> None:
        try:
            self._backend_model.close()
        except Exception:
            log.exception("closing model '%s' failed", self.name)
        # Connections remember the version that answered them last, maybe for long: what is left must be small.
        del self._backend_model
        self._instances = []


def _nowhere(*_: object) -> None:
    raise trio.RunFinishedError("the model does not run")
