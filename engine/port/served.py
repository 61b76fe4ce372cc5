"""What is served under a model's name: what doors, ensembles and nested calls see of it, whatever answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...schema.fault import Fault
    from ...schema.inference import InferenceRequest, InferenceResponse
    from ...schema.wire.generated.inference import ModelConfig
    from .buffers import BufferPool


class Inference(Protocol):
    """A request that was accepted. For the trio thread."""

    request: InferenceRequest
    response: InferenceResponse | None
    fault: Fault | None
    """Once it is over, one of the two is set."""

    @property
    def on_done(self) -> object:
        """None once its caller was told, or has left."""
        ...

    def spent_ns(self) -> tuple[int, int, int]:
        """What answering it took: input, inference, output. For whoever is just told that it is over, and only then;
        zeros for what was not executed."""
        ...

    @property
    def version_text(self) -> str:
        """The version that answers."""
        ...

    def waited_ns(self) -> int:
        """How long it was queued; as `spent_ns`, while its caller is told. 0 for what was not executed."""
        ...

    def cancel(self) -> None:
        """The caller leaves: it will not be told. Idempotent, never blocks."""
        ...


class InferenceStream(Inference, Protocol):
    """The same of a decoupled model."""

    def consumed(self, count: int = 1) -> None:
        """So many answers need no more room: the model may send as many again."""
        ...


class Answer(Protocol):
    """One of a stream's answers: a response, a fault, or, when `final`, possibly neither."""

    response: InferenceResponse | None
    fault: Fault | None
    final: bool
    """Nothing follows."""


class Served(Protocol):
    """One version of one model, or what stands for it."""

    name: str
    version: int
    version_text: str
    config: ModelConfig
    labels: Mapping[str, Sequence[str]]
    """Output name -> label per index, for outputs that have labels."""
    decoupled: bool
    depth: int
    """Of an ensemble: how many are within each other; else 0."""
    remembers: bool
    """It, or a model that it asks as an ensemble, is of sequences."""
    submits_anywhere: bool
    """`submit` without a deadline asks nothing of trio's, and executes nothing itself: it may be called in the trio
    thread's place (see mailbox.py)."""

    @property
    def generation(self) -> str:
        """What tells this load of it from others where answers are kept, an ensemble's models included."""
        ...

    @property
    def buffers(self) -> BufferPool | None:
        """Where large requests of its own are received best: its executors see them there, and may write there. None
        for anywhere."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether anything answers what comes, now."""
        ...

    async def says_ready(self) -> bool:
        """Whether no executor of what answers now says that it is not ready. May take as long as one has to say so."""
        ...

    def pin(self) -> Callable[[], None]:
        """Keeps it answering requests that are `pinned`, also once it is taken out of service. Returns what is to be
        called when that is needed no longer, once."""
        ...

    def blockers(self, inference: Inference) -> Sequence[Sequence[Any]]:
        """What holds up a request of its own: for each executor that might let it go on, the jobs that are executed
        there. Empty where it can go on."""
        ...

    def submit(
        self, request: InferenceRequest, on_done: Callable[[Inference], None], deadline: float = 0.0
    ) -> Inference:
        """Admits and queues a request. Never blocks. `on_done(call)` follows exactly once, on the trio thread, unless
        the call is cancelled; maybe before this returns.

        `deadline`, in seconds of trio's clock, is when the caller stops waiting. Raises InvalidArgument for a request
        that does not fit the model, QueueFull, ShuttingDown.
        """
        ...

    def submit_all(
        self,
        requests: Sequence[InferenceRequest],
        on_done: Callable[[Inference], None],
        refused: Callable[[InferenceRequest, Exception], None],
    ) -> Sequence[Inference]:
        """As `submit` of each, in their order, with no deadlines, for less. Returns those that were accepted; of each
        other `refused(request, problem)` is told, before this returns, what `submit` would have raised."""
        ...

    def submit_stream(
        self, request: InferenceRequest, on_answer: Callable[[InferenceStream, Answer], None], deadline: float = 0.0
    ) -> InferenceStream:
        """As `submit`, for decoupled models: `on_answer(stream, answer)` follows any number of times, at last with
        `final`."""
        ...
