"""Streams: jobs of decoupled models, which a model answers any number of times, from any thread, also after `execute`.

    executing side, any thread                        trio thread
    send ──▶ outbox, at most `credit` unconsumed ──one wake-up per burst──▶ deliver ──▶ on_answer(job, answer)
      ▲ blocks while there is no credit                                                     │
      └──────────────────────────── consumed(n) ◀───────────── the door, when it has room ──┘

A stream is over when the model has sent its final answer *and* `execute` has returned: until then it counts as in
flight. Rules:

1. `_outbox`, `_unconsumed`, `_closed` and `_gone` are touched under the job's lock only; nothing that may run foreign
   code happens under it.
2. Nobody waits for ever: who blocks in `send` is released by credit, by the caller's leaving, by the deadline and by
   the end of the model.
3. A final answer without outputs, and any that the engine makes, needs no credit. So the end of a stream never waits.
4. After the caller has left, answers are dropped where they are sent; the final one still ends the accounting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar

import trio

from ...schema.encoding import encoding_fault
from ...schema.fault import Cancelled, DeadlineExceeded, Fault, Internal
from ...schema.inference import InferenceRequest, InferenceResponse, Parameter
from ..observe.tracing import trace_response
from .batch import Batch
from .job import Job, JobState
from .ledger import End
from .sharing import place_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.tensor import Tensor
    from .ledger import Ledger

log = logging.getLogger("despina.engine.request.stream")

UNATTENDED = 0
"""As a credit: nobody listens and nobody is to be waited for (warm-up)."""


class Answer:
    """One of a stream's answers: a response, a fault, or, when `final`, possibly neither."""

    __slots__ = ("fault", "final", "response", "spent_ns")

    def __init__(self, response: InferenceResponse | None, fault: Fault | None, final: bool) -> None:
        self.response = response
        self.fault = fault
        """The model's error for this answer alone; with `final`, it may be the engine's."""
        self.final = final
        """Nothing follows."""
        self.spent_ns = 0
        """Since the answer before it, or since the execution began."""

    def __repr__(self) -> str:
        return f"Answer({self.response!r}, {self.fault!r}, final={self.final})"


class StreamJob(Job):
    """What backends see of a request to a decoupled model, and what doors hold.

    Doors pass `on_answer(job, answer)`: called on the trio thread, in the order of sending, the last time with `final`,
    and no more after `cancel`. For every answer that is not final they call `consumed` when they have room for another.
    """

    __slots__ = (
        "_answered",
        "_closed",
        "_credit",
        "_delivered",
        "_dropped",
        "_gone",
        "_last_ns",
        "_lock",
        "_on_answer",
        "_outbox",
        "_posted",
        "_room",
        "_unconsumed",
        "batch",
        "books",
        "ended_ns",
        "failure",
        "started_ns",
    )

    ends: ClassVar[End] = End.STREAMED
    """How it ends."""

    def __init__(
        self,
        request: InferenceRequest,
        on_answer: Callable[[StreamJob, Answer], None] | None,
        ledger: Ledger,
        credit: int,
    ) -> None:
        super().__init__(request, StreamJob._refused)  # type: ignore[arg-type]  # jobs are handed to their own callback
        self.ledger = self.books = ledger
        """The same: `ledger` is all jobs', who need know less of it."""
        self._on_answer = on_answer
        self._credit = credit
        self._lock = ledger.threads.room()
        self._outbox: deque[Answer] = deque()
        self._unconsumed = 0
        self._posted = False
        """A delivery is under way to the trio thread."""
        self._closed = False
        """The final answer was sent, by whomever."""
        self._gone = False
        """Nobody listens any more."""
        self._room: trio.Event | None = None
        """Where asynchronous senders wait."""
        self._last_ns = 0
        self.started_ns = 0
        """When `execute` was called."""
        self._answered = 0
        self._dropped = 0
        """Answers that were not delivered because the caller had left."""
        self._delivered = False
        """The final answer has come to the trio thread."""
        self.batch: Batch | None = None
        """Set when `execute` has returned."""
        self.ended_ns = 0
        """When the final answer was sent."""
        self.failure: Fault | None = None
        """The first error among the answers: the request counts as failed."""

    # For backends, from any thread.

    def send(
        self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None = None, *, final: bool = False
    ) -> bool:
        """Answers once more; without outputs only to say that nothing follows. Shapes include the batch dimension.

        Blocks while the caller has too many answers unread. False when nobody wants the answer: the caller has left,
        the stream was ended by the engine, or the final answer was sent before. Not for the trio thread, where it
        raises Internal instead of blocking: use `send_async`.
        """
        return self._send(self._answer(outputs, parameters, final))

    def send_fault(self, fault: Fault, *, final: bool = False) -> bool:
        """Answers with an error, which need not be the last answer. Otherwise as `send`."""
        return self._send(Answer(None, fault, final))

    async def send_async(
        self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None = None, *, final: bool = False
    ) -> bool:
        """`send` for executors that are awaited on the trio thread. Cancelled, it has sent nothing."""
        return await self._send_when_there_is_room(self._answer(outputs, parameters, final))

    async def send_fault_async(self, fault: Fault, *, final: bool = False) -> bool:
        """`send_fault`, likewise."""
        return await self._send_when_there_is_room(Answer(None, fault, final))

    async def _send_when_there_is_room(self, answer: Answer) -> bool:
        await trio.lowlevel.checkpoint()
        while (room := self._room_for(answer)) is not None:
            await room.wait()
        return self._send(answer)

    def _room_for(self, answer: Answer) -> trio.Event | None:
        """What to wait for; None where there is room."""
        with self._lock:
            if not self._must_wait(answer):
                return None
            self._room = room = self._room or trio.Event()
            return room

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        """The only answer and the last, for backends that know no others."""
        self.send(outputs, parameters, final=True)

    def fail(self, fault: Fault) -> None:
        self.send_fault(fault, final=True)

    def close(self, fault: Fault | None = None) -> None:
        """Ends the stream if it has not ended, with that error if given. Never blocks, from any thread and also from
        within garbage collection."""
        try:
            self.books.post(self._end, fault)
        except trio.RunFinishedError:
            self._gone = True

    def is_cancelled(self) -> bool:
        return self._gone

    def has_left(self) -> bool:
        """See port/work.py."""
        return self._gone

    @property
    def is_held_up(self) -> bool:
        return self._unconsumed >= self._credit > UNATTENDED and not self._gone

    @property
    def is_closed(self) -> bool:
        """True once the final answer was sent."""
        return self._closed

    # For doors, on the trio thread.

    def spent_ns(self) -> tuple[int, int, int]:
        return 0, max(0, self.ended_ns - self.started_ns) if self.started_ns else 0, 0

    def consumed(self, count: int = 1) -> None:
        """So many answers need no more room: the model may send as many again."""
        with self._lock:
            self._unconsumed -= count
            self._lock.notify_all()
        self._wake_async()

    @property
    def told(self) -> object:
        return self._on_answer

    def cancel(self) -> None:
        """The caller leaves: `on_answer` will not be called again. Idempotent, never blocks.

        Who waits in `send` is released; a request still queued gives its place back at once.
        """
        self._leave(Cancelled("the caller has left"))
        super().cancel()
        if self.state in (JobState.CANCELLED, JobState.REJECTED):  # refused, and not told yet
            self._closed = True
            self.books.streams.discard(self)

    # For the engine.

    def settle(self, fault: Fault | None) -> None:
        """`execute` has returned, on the executing thread. An error ends the stream; else it goes on."""
        if fault is not None:
            self._send(Answer(None, fault, True))
        if self._credit == UNATTENDED:
            self.fault = self.failure

    def start(self, started_ns: int) -> None:
        """`execute` is about to be called, on the executing thread."""
        self._last_ns = self.started_ns = started_ns

    def finish(self, batch: Batch) -> None:
        """`execute` is over, on the trio thread."""
        self.batch = batch
        self._over()

    def overdue(self) -> None:
        if self._gone or (self._closed and not self._outbox):
            return
        on_answer = self._on_answer
        self._leave(DeadlineExceeded("Deadline Exceeded"))
        self._call(on_answer, Answer(None, DeadlineExceeded("Deadline Exceeded"), True))

    def shut(self, fault: Fault) -> None:
        """The model ends: what was sent is delivered, then the fault if the stream has not ended by itself."""
        if self.state is JobState.REJECTED:
            return  # found too late on an instance's thread: it hears so at once, and is counted as it is told
        self._deliver()
        self._end(fault)

    # Sending, on any thread.

    def _answer(self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None, final: bool) -> Answer:
        if outputs is None:
            return Answer(None, None, final)
        fault = encoding_fault(outputs)
        if fault is not None:
            return Answer(None, fault, final)
        response = InferenceResponse(
            self.request.model_name, self.books.version_text, outputs, id=self.request.id, parameters=parameters
        )
        return Answer(response, None, final)

    def _must_wait(self, answer: Answer) -> bool:
        return (
            self._unconsumed >= self._credit > UNATTENDED
            and not (self._gone or self._closed)
            and (answer.response is not None or answer.fault is not None)
            and not (answer.fault is not None and answer.final)
        )

    def _send(self, answer: Answer) -> bool:
        with self._lock:
            if self._must_wait(answer):
                if threading.get_ident() == self.books.home_thread:
                    raise Internal("a stream without credit cannot be waited for on the engine's own thread")
                while self._must_wait(answer):
                    self._lock.wait()
            if self._closed:
                return False
            now = time.monotonic_ns()
            if answer.fault is not None and self.failure is None:
                self.failure = answer.fault
            if answer.final:
                self._closed = True
                self.ended_ns = now
                self._lock.notify_all()
            if self._credit == UNATTENDED:
                return True
            if self._gone and not answer.final:
                self._dropped += 1
                return False
            answer.spent_ns = now - self._last_ns
            self._last_ns = now
            if not answer.final:
                self._unconsumed += 1
            self._outbox.append(answer)
            if self._posted:
                return not self._gone
            self._posted = True
        self._hand_over()
        return not self._gone

    def _hand_over(self) -> None:
        try:
            self.books.post(self._deliver)
        except trio.RunFinishedError:
            self._gone = True

    # Delivering, on the trio thread.

    def _deliver(self) -> None:
        with self._lock:
            answers, self._outbox = self._outbox, deque()
            self._posted = False
        for answer in answers:
            try:
                self._place(answer)
                self._count(answer)
            except Exception:  # whatever it was, the stream goes on, and ends
                log.exception("an answer of model '%s' could not be handed over", self.request.model_name)
                answer.response = None
                answer.fault = Internal(
                    f"an answer of model '{self.books.name}' could not be handed over; the server's log says why"
                )
                self.failure = self.failure or answer.fault
            self._delivered = answer.final
            if self._on_answer is not None:
                self._call(self._on_answer, answer)
            if answer.final:
                self._wake_async()
                self._over()

    def _place(self, answer: Answer) -> None:
        """What lies in shared memory goes there, while the caller listens."""
        shared = self.request.shared
        if shared is not None and answer.response is not None and self._on_answer is not None:
            answer.fault = place_response(answer.response, shared)
            if answer.fault is not None:
                answer.response = None

    def _call(self, on_answer: Callable[[StreamJob, Answer], None] | None, answer: Answer) -> None:
        if on_answer is None:
            return
        if answer.final:
            self._on_answer = None
        try:
            on_answer(self, answer)
        except Exception:  # a door's bug must not take other streams with it
            log.exception("delivering an answer of model '%s' failed", self.request.model_name)
            self.cancel()

    def _count(self, answer: Answer) -> None:
        index = self._answered
        self._note(answer)
        self.books.statistics.responses.count(index, answer, cancelled=self._on_answer is None)

    def _note(self, answer: Answer) -> None:
        """Everything but what it cost."""
        if self._answered == 0 and answer.response is not None:
            self.books.statistics.answered_first(self)
        self._answered += 1
        if answer.response is not None and self.request.trace is not None:
            trace_response(self.request.trace, answer.response)

    def _end(self, fault: Fault | None) -> None:
        """Closes the stream if nobody has. Never waits."""
        self._send(Answer(None, Cancelled("the caller has left") if self._gone else fault, True))
        self._deliver()

    def _leave(self, fault: Fault) -> None:
        """Nobody listens any more: that is how the request ends, unless it has ended or failed before."""
        with self._lock:
            if not self._delivered and self.failure is None:
                self.failure = fault
            self._gone = True
            self._on_answer = None
            self._lock.notify_all()
        self._wake_async()
        if self.children:
            self.abandon_children()

    def _wake_async(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def _refused(self) -> None:
        """The engine's `on_done`: the job did not get to execute, or not once more."""
        self._deliver()  # what it was answered before
        self._closed = True
        self.books.streams.discard(self)
        self._call(self._on_answer, Answer(None, self.fault, True))

    def _over(self) -> None:
        """Ends it, once, when both the final answer and the end of `execute` have been seen."""
        batch = self.batch
        if batch is None or not self._delivered or self.state is JobState.DONE:
            return
        self.on_done = None  # its caller has heard everything
        self.books.streams.discard(self)
        if self._dropped:
            self.books.statistics.responses.dropped(self._answered, self._dropped)
        self.books.end((self,), self.ends, batch)
        self.batch = None  # which has this job


class StreamBatch(Batch):
    """Of decoupled models: its streams end one by one, each when it has had its final answer."""

    __slots__ = ()

    def begin(self) -> None:
        super().begin()
        for job in self._streams():
            job.start(self.started_ns)

    def settle(self, error: Fault | None) -> None:
        self.ended_ns = time.monotonic_ns()
        for job in self._streams():
            job.settle(error)

    def over(self, ledger: Ledger) -> None:
        ledger.statistics.executed_streams(self)
        for job in self._streams():
            job.finish(self)

    def lose(self, ledger: Ledger, fault: Fault) -> None:
        self.settle(fault)
        self.over(ledger)

    def _streams(self) -> list[StreamJob]:
        return self.jobs  # type: ignore[return-value]  # decoupled models get no others
