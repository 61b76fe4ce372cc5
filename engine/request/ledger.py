"""The books of one model version: which requests are in flight, and the one end that each of them has.

    accepted ──▶ in flight ──▶ end(jobs, how) ──▶ statistics ─▶ trace ─▶ client memory ─▶ the caller hears

| how      | who                                        | counts as                                        |
|----------|--------------------------------------------|--------------------------------------------------|
| EXECUTED | a batch that was executed                  | success, or failure BACKEND, or CANCELED         |
| DEFERRED | a request answered after its batch        | the same                                         |
| STREAMED | a stream that is over                      | the same, by its first error                     |
| COMPOSED | what other models have answered            | success, or failure OTHER, or CANCELED           |
| LOST     | a batch whose executor does not come back  | failure BACKEND, or CANCELED                     |
| LEFT     | a queued request whose caller has left     | failure CANCELED                                 |
| REFUSED  | a request taken out of the queue           | failure REJECTED, or CANCELED                    |
| CACHED   | a request answered from the cache          | success, and a hit                               |
| RELAYED  | a request that another job has answered    | nothing: that job does                           |

A request counts as CANCELED exactly if its caller did not wait for the answer: it left, or its deadline passed, while
the request was queued or executing. Rules:

1. Nothing else ends a job, and an end never raises: what fails on the way is logged, and the callers hear of it.
2. Everything here is for the trio thread, but `post`, which is how other threads get there; `ends_anywhere` says what
   may be done in its place.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import trio

from ...schema.fault import Cancelled, DeadlineExceeded, Fault, Internal, QueueFull
from ..observe.tracing import trace_accepted, trace_answered, trace_batch, trace_composed, trace_computed
from ..port.concerns import concerning
from ..port.mailbox import mailbox
from ..port.threads import THREADS, SystemThreads, Threads
from .job import JobState, move
from .sharing import place

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence

    from ..observe.statistics import CountedStream, FailureReason, ModelStats
    from ..port.work import Batch
    from .deferral import Deferral
    from .holding import Execution
    from .job import Job

log = logging.getLogger("despina.engine.request.ledger")


class End(Enum):
    """How a job ends: see the module's table."""

    EXECUTED = "executed"
    DEFERRED = "deferred"
    STREAMED = "streamed"
    COMPOSED = "composed"
    LOST = "lost"
    LEFT = "left"
    REFUSED = "refused"
    CACHED = "cached"
    RELAYED = "relayed"


class OpenStream(Protocol):
    """A stream in flight."""

    def shut(self, fault: Fault) -> None:
        """The model ends: what was sent is delivered, then the fault if the stream has not ended by itself."""
        ...


class Ledger:
    """See the module's table. One for each model version; never waits."""

    def __init__(
        self,
        name: str,
        version: int,
        statistics: ModelStats,
        leave_queue: Callable[[Job, JobState], bool],
        ordered: deque[Job] | None = None,
    ) -> None:
        """`leave_queue` takes a queued job out of its scheduler's queue, or says that it was not there any more."""
        self.name = name
        self.version = version
        self.version_text = str(version)
        self.statistics = statistics
        self.inflight = 0
        """Jobs accepted and not yet over: queued, executing, or executing for a caller that has left."""
        self.streams: set[OpenStream] = set()
        """Those of them that are streams."""
        self.pins = 0
        """Callers who will send more, and must find the model: see Served.pin."""
        self.ending: Execution | None = None
        """What those jobs were executed in whose callers are just being told."""
        self.deferred: dict[Job, Deferral] = {}
        """Those that will be answered although their batches are over."""
        self.defers = False
        """A job has been answered later at least once. Set on executing threads, too."""
        self.shares = False
        """A request has used client memory at least once."""
        self.on_devices = False
        """That was memory of a GPU, at least once."""
        self.broken = 0
        """Ends that failed on the way: bugs of ours or of a backend's, each with its traceback in the log."""
        self.ordered = ordered
        """Where answers keep the order of requests: the jobs taken and not yet told, in the order they were taken."""
        self.home_thread = 0
        """Where everything here runs, but for executors."""
        self.threads: Threads = SystemThreads()
        """Where executors get theirs from."""
        self._leave_queue = leave_queue
        self._post: Callable[..., object] = _nowhere
        self._traced = 0
        """Traced requests that are not over."""
        self._empty: trio.Event | None = None

    # --- Threads

    def open(self) -> None:
        """On the trio thread: `post` works from now on."""
        self._post = mailbox().post
        self.home_thread = threading.get_ident()
        self.threads = THREADS.get()

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Runs a call on the trio thread soon. From any thread; raises trio.RunFinishedError when all is over."""
        self._post(self._guarded, call, arguments)

    def _guarded(self, call: Callable[..., object], arguments: Sequence[object]) -> None:
        # What is raised in a posted call would end trio.run, and with it everybody else's requests.
        try:
            call(*arguments)
        except Exception:
            self.broken += 1
            log.exception("model '%s': %s failed", self.name, getattr(call, "__qualname__", call))

    # --- Requests

    def trace(self, job: Job) -> None:
        """A request to be traced was accepted."""
        self._traced += 1
        trace_accepted(job, self.version)

    def untrace(self, job: Job) -> None:
        """A request ends that was not executed, or not to the end, or was not accepted after all."""
        if job.request.trace is not None:
            self._traced -= 1
            job.request.trace.stamp("REQUEST_END")

    def turn_away(self, job: Job, fault: Fault) -> None:
        """There was no place for it: it was not accepted after all."""
        if isinstance(fault, QueueFull):
            self.statistics.unserved["queue_full"] += 1
        self.untrace(job)

    def leave(self, job: Job) -> None:
        """The caller leaves. See Job.cancel."""
        job.on_done = None
        if self._leave_queue(job, JobState.CANCELLED):
            self.statistics.unserved["left_queued"] += 1
            self.end((job,), End.LEFT)
        elif job.fault is None:
            self.statistics.unserved["left_executing"] += 1
            job.fault = Cancelled("the caller has left")
        if job.children:
            job.abandon_children()
        if job.request.trace is not None:
            job.request.trace.finish()  # its door has nothing more to note

    def refuse(self, job: Job, fault: Fault) -> bool:
        """Answers a job with a fault if it is still queued; False if it was not any more."""
        if not self._leave_queue(job, JobState.REJECTED):
            return False
        self.end_refused(job, fault)
        return True

    def end_refused(self, job: Job, fault: Fault) -> None:
        """Answers a job with a fault that has been taken out of the queue as REJECTED."""
        self.end((job,), End.REFUSED, fault=fault)

    def late(self, job: Job) -> None:
        """The caller's deadline has passed while the job executes: it is told now; the batch goes on, and counts the
        job when it is done."""
        job.fault = DeadlineExceeded("Deadline Exceeded")
        self.statistics.unserved["deadline_executing"] += 1
        self._tell(job)
        if job.children:
            job.abandon_children()

    def end(self, jobs: Sequence[Job], how: End, batch: Batch | None = None, fault: Fault | None = None) -> None:
        """The one end of jobs: see the module's table. `batch` is what they were executed in, `fault` what those are
        told that have none yet. Jobs of a queue have left it before, those of a batch are moved to DONE here."""
        before, self.ending = self.ending, batch  # type: ignore[assignment]  # the engine's own are executions
        try:
            if how is End.EXECUTED:
                if self.defers:
                    jobs = self._put_off(jobs, batch)
                if self._traced:
                    self._traced -= trace_batch(batch, jobs)  # type: ignore[arg-type]  # what they were executed in
                if self.shares:
                    place(jobs)
                self.statistics.executed(batch, jobs)  # type: ignore[arg-type]  # as above
                move(jobs, JobState.DONE)
            else:
                self._book(jobs, how, batch, fault)
        except Exception:
            self._break(jobs)
        ordered = self.ordered
        if ordered is None:
            for job in jobs:
                on_done = job.on_done
                if on_done is not None:
                    job.on_done = None
                    try:
                        on_done(job)
                    except Exception:  # a door's bug must not take its neighbours' answers with it
                        self._log_undelivered(job)
        else:
            for job in jobs:
                job.execution = self.ending
                if how is End.CACHED:
                    ordered.append(job)  # behind those that execute
                elif how not in (End.EXECUTED, End.DEFERRED, End.LOST):
                    self._tell(job)
            while ordered and ordered[0].state is JobState.DONE:
                self._tell(ordered.popleft())
        self.ending = before
        self.inflight -= len(jobs)
        if self.inflight == 0 and self._empty is not None:
            self._empty.set()

    def ends_anywhere(self, jobs: Sequence[Job]) -> bool:
        """Whether all that the end of these jobs, just executed, leads to are further requests, and books: that asks
        nothing of trio's, and may be done in the trio thread's place (see port/mailbox.py)."""
        if self.defers or self._traced or self.shares or self.ordered is not None:
            return False
        if self._empty is not None and not self._empty.is_set():
            return False  # somebody waits for the last of them
        return all(job.request.goes_on and job.fault is None and job.response is not None for job in jobs)

    def unpin(self) -> None:
        """One who had pinned the model will send nothing more."""
        self.pins -= 1
        if self.pins == 0 and self._empty is not None:
            self._empty.set()

    async def until_idle(self) -> None:
        """Waits until nothing is in flight, for now."""
        while self.inflight:
            if self._empty is None or self._empty.is_set():
                self._empty = trio.Event()
            await self._empty.wait()

    async def until_empty(self) -> None:
        """Waits until nothing is in flight, and nobody who has pinned the model will send more."""
        while self.inflight or self.pins:
            if self._empty is None or self._empty.is_set():
                self._empty = trio.Event()
            await self._empty.wait()

    def _book(self, jobs: Sequence[Job], how: End, batch: Batch | None, fault: Fault | None) -> None:
        """The ends that are rare: one job after the other."""
        now = time.monotonic_ns()
        for job in jobs:
            if how is End.STREAMED:
                self._book_stream(job, batch)  # type: ignore[arg-type]  # streams only, see stream.py
            elif how is End.DEFERRED:
                self._book_deferred(job, batch)
            elif how is End.COMPOSED:
                self._book_composed(job, batch, now)
            elif how in (End.CACHED, End.RELAYED):
                self._book_answered(job, how, now)
            else:
                job.fault = job.fault or fault
                self.statistics.failed(job, _reason(job, how), now)
                self.untrace(job)
            if job.request.shared is not None:
                job.request.shared.release()
        if how in (End.DEFERRED, End.STREAMED, End.COMPOSED, End.LOST):
            move(jobs, JobState.DONE)

    def _book_stream(self, job: CountedStream, batch: Batch | None) -> None:
        assert batch is not None, "a stream that was not executed is LEFT or REFUSED"
        trace = job.request.trace
        if trace is not None:
            trace_computed(trace, batch)
            trace.finish()  # its door has noted all it had to
            self._traced -= 1
        self.statistics.streamed(job, batch)

    def end_deferred(self, later: Deferral) -> None:
        """An answer has come after its batch, or will not come any more."""
        job: Job = later.job  # type: ignore[assignment]  # as it was taken from one
        if self.deferred.pop(job, None) is not None:
            self.end((job,), End.DEFERRED, later.batch)  # type: ignore[arg-type]  # what it was executed in

    def shut_deferred(self, fault: Fault) -> None:
        """The model ends: nothing more comes."""
        for later in list(self.deferred.values()):
            later.come(None, fault)

    def _put_off(self, jobs: Sequence[Job], batch: Batch | None) -> Sequence[Job]:
        """Those that are over with their batch; the others end later."""
        over = []
        for job in jobs:
            later = job.later
            if later is None or later.has_come or job.fault is not None:
                over.append(job)
            else:
                later.batch = batch
                self.deferred[job] = later
                self.statistics.nobodys(job.batch_size)
        return over

    def _book_deferred(self, job: Job, batch: Batch | None) -> None:
        assert batch is not None, "it was executed"
        if job.request.shared is not None:
            place((job,))
        if job.request.trace is not None:
            self._traced -= trace_batch(batch, (job,))
        job.ended_ns = time.monotonic_ns()
        self.statistics.streamed(job, batch)  # type: ignore[arg-type]  # counted as a stream of one answer

    def _book_composed(self, job: Job, batch: Batch | None, now: int) -> None:
        assert batch is not None, "its parts have times"
        if job.request.shared is not None:
            place((job,))
        trace = job.request.trace
        if trace is not None:
            trace_composed(trace, job.response, None if job.is_cancelled() else job.fault)
            self._traced -= 1
        if job.failure is None:
            self.statistics.executed(batch, (job,))
        else:
            self.statistics.failed(job, _reason(job, End.COMPOSED), now)

    def _book_answered(self, job: Job, how: End, now_ns: int) -> None:
        """Of a job without an execution of its own."""
        if job.request.shared is not None:
            place((job,))
        if how is End.RELAYED:
            job.fault = job.fault or (None if job.response is not None else Cancelled("the caller has left"))
            return
        trace = job.request.trace
        if trace is not None:
            trace_answered(trace, job.response)
            self._traced -= 1
        if job.fault is None:
            self.statistics.hit(job, now_ns)  # type: ignore[arg-type]  # CACHED are calls of a cache only
        else:
            self.statistics.failed(job, "BACKEND", now_ns)

    def _break(self, jobs: Sequence[Job]) -> None:
        """Something failed on the way to an end: the end comes all the same."""
        self.broken += 1
        log.exception("model '%s': ending %d requests failed", self.name, len(jobs), extra=concerning(jobs))
        for job in jobs:
            job.response = None
            job.fault = job.fault or Internal(
                f"the answer of model '{self.name}' could not be handed over; the server's log says why"
            )
            if job.state is JobState.EXECUTING:
                move((job,), JobState.DONE)
            if job.request.shared is not None:
                job.request.shared.release()

    def _tell(self, job: Job) -> None:
        on_done = job.on_done
        if on_done is None:
            return
        job.on_done = None
        try:
            on_done(job)
        except Exception:  # a door's bug must not take its neighbours' answers with it
            self._log_undelivered(job)

    def _log_undelivered(self, job: Job) -> None:
        log.exception("delivering an answer of model '%s' failed", self.name, extra=concerning((job,)))


_REASONS: dict[End, FailureReason] = {
    End.LOST: "BACKEND",
    End.LEFT: "CANCELED",
    End.REFUSED: "REJECTED",
    End.COMPOSED: "OTHER",
}


def _reason(job: Job, how: End) -> FailureReason:
    fault = job.fault if how is End.REFUSED else job.failure  # a refused stream has answered nothing, wrongly or not
    late = how in (End.REFUSED, End.COMPOSED) and isinstance(fault, DeadlineExceeded)
    return "CANCELED" if late or job.is_cancelled() else _REASONS[how]


def _nowhere(*_: object) -> None:
    raise trio.RunFinishedError("the model does not run")
