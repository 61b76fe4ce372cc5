"""A job: one accepted request on its way through a model version.

A job is its own one-shot future. Exactly one side owns it at a time: the trio thread until it is taken into a batch,
the executing thread until its batch is done, the trio thread again to deliver. Every move out of QUEUED happens under
the scheduler's lock, so exactly one of take, cancel and expire wins.

    QUEUED ──take──▶ EXECUTING ──ended──▶ DONE
      ◀── taken back ─────┤ it was handed over before its turn, and has not been begun (execute/ahead.py)
      │ cancel ▶ CANCELLED     │ caller leaves, or its deadline passes: it hears at once (or nobody does), the batch
      │ expire, refuse ▶ REJECTED                                      goes on, and the result is dropped
      ◀──rescheduled────────── by the model of an iterative sequence, to be executed once more

What an end means for statistics, traces, client memory and the caller is in ledger.py.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from ...schema.encoding import encoding_fault
from ...schema.fault import Internal, InvalidArgument
from ...schema.inference import InferenceRequest, InferenceResponse, Parameter
from .deferral import Deferral

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ...schema.fault import Fault
    from ...schema.inference import ResponseTemplate
    from ...schema.tensor import Buffer, Tensor
    from .holding import Book, Execution, Holder


class JobState(IntEnum):
    QUEUED = 0
    EXECUTING = 1
    DONE = 2
    CANCELLED = 3
    REJECTED = 4


_FIRST: Final = JobState.QUEUED  # a name, as compiled classes take no member of an enum for a default
_BEFORE: Final = {
    JobState.EXECUTING: JobState.QUEUED,
    JobState.DONE: JobState.EXECUTING,
    JobState.CANCELLED: JobState.QUEUED,
    JobState.REJECTED: JobState.QUEUED,
    JobState.QUEUED: JobState.EXECUTING,
}
"""State -> the one from which it is entered."""


def move(jobs: Iterable[Job], state: JobState) -> None:
    """The only place where states change. Out of QUEUED: under the scheduler's lock, once the job is in a queue."""
    before = _BEFORE[state]
    for job in jobs:
        assert job.state is before, "see the table"
        job.state = state


class Job:
    """What backends see of a request, and what doors hold to cancel it.

    Doors pass `on_done(job)`: called on the trio thread exactly once, unless the caller cancels first; it finds
    `response` or `fault` set and must not raise. It may be called before `submit` returns.
    """

    ledger: Book | None = None
    """Of the model version that accepted it."""
    batch_size = 1
    """Rows: the first dimension for models that batch, else 1."""
    response: InferenceResponse | None = None
    fault: Fault | None = None
    deadline = 0.0
    """When the caller stops waiting, in seconds of the engine's clock; 0 for never."""
    key: object = None
    """Requests share a batch only if their keys are equal; None where any two may."""
    level = 0
    """Index of the priority level, 0 the first to be served."""
    received_ns = 0
    queued_at = 0.0
    """Arrival, in seconds of the engine's clock."""
    state: JobState = _FIRST
    execution: Execution | None = None
    """What it was executed in, where answers keep the order of requests: others may be told with it."""
    sequence: Any = None
    """The sequence that it is of, for the scheduler of sequences; None for other models' jobs."""
    turn = 0
    """Of it: who comes first has the lower one."""
    again = False
    """The model has released it to be executed once more."""
    executed_ns = 0
    """What its earlier executions took."""
    children: set[Any] | None = None
    """Requests that its model has made for it and that are under way; None where there never were any."""
    ended_ns = 0
    """When it was answered, of one that is answered later."""
    later: Deferral | None = None
    """Set where its answer comes after `execute` has returned."""
    ahead: Holder | None = None
    """Set where it was handed to an executor that still worked on others."""

    # What most jobs have at these values is stored with those only that differ.

    def __init__(self, request: InferenceRequest, on_done: Callable[[Job], None] | None) -> None:
        self.request = request
        self.on_done = on_done

    @property
    def failure(self) -> Fault | None:
        """Why it counts as failed."""
        return self.fault

    @property
    def told(self) -> object:
        """Whom its answer is for, as long as somebody waits for it."""
        return self.on_done

    @property
    def is_held_up(self) -> bool:
        """Whether who executes it waits until its caller has read more."""
        return False

    # For backends, on the executing thread.

    @property
    def version_text(self) -> str:
        """The version that answers, as responses name it."""
        assert self.ledger is not None, "a job in a backend was accepted"
        return self.ledger.version_text

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        """Answers the request. Shapes include the batch dimension. Delivered when the batch's execute returns.

        An output that has no wire form fails the request.
        """
        fault = encoding_fault(outputs)
        if fault is not None:
            self.fail(fault)
            return
        request = self.request
        ledger = self.ledger
        assert ledger is not None, "a job in a backend was accepted"
        self.response = InferenceResponse(request.model_name, ledger.version_text, outputs, request.id, parameters)

    def respond_as(self, template: ResponseTemplate, wires: Sequence[Buffer]) -> None:
        """The same with outputs of a form that is known: as the template says, with these bytes, which have the sizes
        that it stands for. Not for streams."""
        self.response = template.response(self.request.id, wires)

    def fail(self, fault: Fault) -> None:
        """Answers this request alone with a fault; its neighbours in the batch are not touched."""
        self.fault = fault

    def set_state(self, name: str, tensor: Tensor) -> None:
        """The sequence's state of that output's name from now on: an input of its next request. Shapes include the
        batch dimension; the tensor must not change any more. Raises InvalidArgument for a name that is none."""
        if self.sequence is None:
            raise InvalidArgument(f"state '{name}' is not a valid state name.")
        self.sequence.states.set(name, tensor)

    def reschedule(self) -> None:
        """Releases the request unanswered, to be executed once more when `execute` has returned. An answer, or the end
        of a stream, counts more. Raises InvalidArgument where the model's sequences are not iterative."""
        if self.sequence is None or not self.sequence.is_iterative:
            raise InvalidArgument(
                "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured "
                "to handle such a flag."
            )
        self.again = True

    def defer(self) -> Deferral:
        """The answer comes later, through what this gives. On the executing thread."""
        assert self.ledger is not None, "a job in a backend was accepted"
        self.ledger.defers = True
        self.later = later = Deferral(self, self.ledger)
        return later

    def settle(self, fault: Fault | None) -> None:
        """For the engine, on the executing thread: the batch is done and this job has no answer yet."""
        if self.later is not None and fault is None:
            return
        self.fault = fault or Internal("the backend did not answer this request")

    def is_cancelled(self) -> bool:
        """True once the caller has left. Safe from any thread; a backend may poll it to stop early."""
        return self.on_done is None

    def abandon_children(self, fault: Fault | None = None) -> None:
        """For the engine, on the trio thread: the caller has left, or with `fault` what executes it ends."""
        for child in list(self.children or ()):
            child.look() if fault is None else child.abandon(fault)

    def overdue(self) -> None:
        """For the engine, on the trio thread: the caller's deadline has passed while the job executes."""
        assert self.ledger is not None, "an executing job was accepted"
        self.ledger.late(self)

    # For doors, on the trio thread.

    def spent_ns(self) -> tuple[int, int, int]:
        """What answering it took: input, inference, output. While its caller is told, and only then."""
        assert self.ledger is not None, "a job that is over was accepted"
        ending = self.execution or self.ledger.ending
        return (0, 0, 0) if ending is None else ending.spent_ns()

    def waited_ns(self) -> int:
        """How long it was queued. As `spent_ns`."""
        assert self.ledger is not None, "a job that is over was accepted"
        ending = self.execution or self.ledger.ending
        started_ns = 0 if ending is None else ending.started_ns
        return max(0, started_ns - self.received_ns - self.executed_ns) if started_ns else 0

    def cancel(self) -> None:
        """The caller leaves: `on_done` will not be called. Idempotent, never blocks.

        A queued job gives its place back at once; an executing one runs on and its result is dropped.
        """
        if self.on_done is not None and self.ledger is not None:
            self.ledger.leave(self)
