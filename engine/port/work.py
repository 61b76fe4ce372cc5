"""What executors see of the work: jobs, the batches that they come in, and the scheduler that batches are taken from.

scheduler ──take──▶ Batch of BackendJobs ──▶ executor: respond, fail (BackendStream: send, any number of times)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...schema.fault import Fault
    from ...schema.inference import InferenceRequest, InferenceResponse, Parameter, ResponseTemplate
    from ...schema.tensor import Buffer, Tensor


class LateAnswer(Protocol):
    """Answers one request, from any thread, once: what comes after that is dropped."""

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        """As BackendJob.respond."""
        ...

    def fail(self, fault: Fault) -> None:
        """As BackendJob.fail. Never blocks, also within garbage collection."""
        ...


class BackendJob(Protocol):
    """One accepted request. `respond` and `fail` are for the executing thread, `is_cancelled` for any."""

    request: InferenceRequest
    response: InferenceResponse | None
    fault: Fault | None

    @property
    def batch_size(self) -> int:
        """Rows: the first dimension for models that batch, else 1. Who has none is alone in his batch."""
        ...

    @property
    def received_ns(self) -> int:
        """When it was accepted, on the monotonic clock."""
        ...

    @property
    def executed_ns(self) -> int:
        """What earlier executions of it took, where it is executed again and again."""
        ...

    @property
    def version_text(self) -> str:
        """The version that answers, as responses name it."""
        ...

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        """Answers the request. Shapes include the batch dimension. Delivered when the batch's execute returns. An
        output that has no wire form (an array of what are no strings) fails the request."""
        ...

    def respond_as(self, template: ResponseTemplate, wires: Sequence[Buffer]) -> None:
        """The same with outputs of a form that is known: as the template says, with these bytes, which have the sizes
        that it stands for. Not for streams."""
        ...

    def fail(self, fault: Fault) -> None:
        """Answers this request alone with a fault; its neighbours in the batch are not touched."""
        ...

    def defer(self) -> LateAnswer:
        """The answer comes after `execute` has returned, through what this gives, which must be used once. On the
        executing thread; not for streams, which need none."""
        ...

    def is_cancelled(self) -> bool:
        """True once the caller has left; an executor may poll it to stop early."""
        ...

    def set_state(self, name: str, tensor: Tensor) -> None:
        """Keeps a state for the sequence's next request, which has it among its inputs. `name` is the state's output.
        Raises InvalidArgument for a name that is none."""
        ...

    @property
    def again(self) -> bool:
        """It was released to be executed once more."""
        ...

    def reschedule(self) -> None:
        """Releases the request to be executed once more, instead of an answer: of an iterative sequence. Raises
        InvalidArgument for others."""
        ...


class BackendStream(BackendJob, Protocol):
    """What decoupled models get: answered any number of times, from any thread, also after `execute` has returned."""

    @property
    def is_closed(self) -> bool:
        """True once the final answer was sent."""
        ...

    def has_left(self) -> bool:
        """Whether the caller is known to have left: `is_cancelled` where nobody may be asked, as from within garbage
        collection."""
        ...

    def send(
        self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None = None, *, final: bool = False
    ) -> bool:
        """Answers once more; without outputs only to say that nothing follows. Blocks while the caller has too many
        answers unread. False when nobody wants the answer any more."""
        ...

    def send_fault(self, fault: Fault, *, final: bool = False) -> bool:
        """Answers with an error, which need not be the last answer."""
        ...

    async def send_async(
        self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None = None, *, final: bool = False
    ) -> bool:
        """`send` for executors that are awaited. Cancelled, it has sent nothing."""
        ...

    async def send_fault_async(self, fault: Fault, *, final: bool = False) -> bool:
        """`send_fault` for executors that are awaited. Cancelled, it has sent nothing."""
        ...

    def close(self, fault: Fault | None = None) -> None:
        """Ends the stream if it has not ended, with that error if given. Never blocks."""
        ...


class Batch(Protocol):
    """The jobs of one execution and its time stamps, in ns of the monotonic clock.

    The engine sets `started_ns` and `ended_ns`; a backend may stamp the two in between, else the whole execution counts
    as compute_infer.
    """

    size: int
    """Rows over all jobs."""
    reason: str
    """Why it was closed: `full`, `preferred`, `delay`, `eager`, `shape`, `policy`, `single`, `sequence`, `warmup`."""
    started_ns: int
    inputs_ready_ns: int
    outputs_started_ns: int
    ended_ns: int

    @property
    def jobs(self) -> Sequence[BackendJob]:
        """In serving order; BackendStreams for decoupled models."""
        ...


class Instance(Protocol):
    """What a scheduler and whoever places executions see of an instance.

    An instance is on the scheduler's idle list, or owned by whoever took it off, or executing.
    """

    @property
    def movable(self) -> bool:
        """Whether its batches may execute on the trio thread, too."""
        ...

    @property
    def has_thread(self) -> bool:
        """Whether it executes by itself on a thread, for which the trio thread could wait."""
        ...

    @property
    def prompt(self) -> bool:
        """Whether it begins a batch on the trio thread in no time, though it executes it elsewhere."""
        ...

    @property
    def current(self) -> Batch | None:
        """What it executes now on its own thread, or awaits."""
        ...

    def start(self) -> None:
        """Looks for work, wherever it executes by itself. For whoever took it off the idle list; trio thread only."""
        ...
