"""What the extension module has, as Python sees it. C++ objects are numbers here: their addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..schema.inference import Parameter
    from ..schema.tensor import Buffer, Tensor

TakenInput = tuple[str, str, tuple[int, ...], bytes, bool]
"""Name, datatype, shape, bytes, and whether it is raw."""
TakenRequest = tuple[
    int,
    int,
    str,
    int,
    str,
    tuple[TakenInput, ...],
    tuple[str, ...],
    "dict[str, Parameter] | None",
    int,
    "int | str",
    int,
    int,
    int,
]
"""Ticket, address, model's name, version, id, inputs, outputs, parameters, flags, correlation id, priority, timeout in
microseconds, trace level."""
Output = tuple[str, str, "Sequence[int]", "Buffer"]

KnownRequest = tuple[int, int, str, tuple[bytes, ...]]
"""Ticket, address, id, bytes of the inputs, of one whose form is known."""
KnownAnswer = tuple[int, str, str, "Sequence[Output]", "dict[str, Parameter] | None"]
"""The request's address, model's name, version, outputs, parameters."""

INFER, CANCEL, CONSUMED, WAKE, KNOWN = range(5)
"""Kinds of what is popped: a TakenRequest; tickets; what stands for a form, and a list of KnownRequests."""
MOMENT, TENSOR, CHILD, CHILD_END = range(4)
"""Kinds of what traces are told."""
Popped = tuple[Literal[0], TakenRequest] | tuple[Literal[1, 2, 3], int]
Report = tuple[Any, ...]

ANSWER, STATE, RESCHEDULE, WATCH = range(4)
"""Kinds of what a backend has told."""
GivenRequest = tuple[
    str,
    "dict[str, Tensor]",
    "Sequence[str]",
    "dict[str, Parameter] | None",
    int,
    "int | str",
    bool,
    bool,
]
"""Id, inputs, outputs, parameters, timeout in microseconds, correlation id, whether a sequence starts, and ends."""
AnswerOutput = tuple[str, str, tuple[int, ...], int]
"""Name, datatype, shape, size in bytes."""
BatchAnswer = tuple[Any, tuple[bytes, ...]] | None
"""Of one request of a batch: what stands for the form of its answer, and the outputs' bytes."""
Told = tuple[int, int, bool, Any, "dict[str, Parameter] | None", int, str]
"""Kind, tag, final, outputs (None for an end without a response; of a state, it), parameters, code or -1, text."""
Outcome = tuple[int, "str | None"]
"""Code and text of an error; -1 for none."""


class Extension(Protocol):
    """The module."""

    def attach(self, dispatch: Callable[[int, str, bytes], tuple[int, bytes]], /) -> None: ...

    def server_new(self) -> int: ...

    def server_delete(self, server: int, /) -> Outcome: ...

    def queue_fd(self, server: int, /) -> int: ...

    def pop(self, server: int, most: int, make: Callable[..., object], /) -> list[Any]:
        """What waits, oldest first, as pairs of its kind and what it is. `make(model's name, version, inputs, outputs)`
        is called when a form of request is met that is new since the last `publish`; it must not raise, and gives what
        is to stand for the form, or None where such requests are to be given whole."""
        ...

    def take(self, request: int, /) -> TakenRequest: ...

    def answer(
        self,
        server: int,
        request: int,
        ticket: int,
        final: bool,
        credit: bool,
        model_name: str,
        model_version: str,
        outputs: Sequence[Output] | None,
        parameters: Mapping[str, Parameter] | None,
        reports: Sequence[Report] | None,
        /,
    ) -> None: ...

    def answer_known(self, server: int, answers: list[KnownAnswer], /) -> list[int]:
        """Delivers final responses. The addresses of those whose outputs are not what they should be."""
        ...

    def fail(
        self,
        server: int,
        request: int,
        ticket: int,
        final: bool,
        credit: bool,
        code: int,
        text: str,
        reports: Sequence[Report] | None,
        /,
    ) -> None: ...

    def publish(self, server: int, models: Sequence[tuple[Any, ...]], /) -> None: ...

    def close_queue(self, server: int, /) -> None: ...

    def sweep(self, server: int, /) -> None: ...

    def metrics_page(self) -> str: ...

    def log_levels(self, levels: int, /) -> None: ...

    def model_open(
        self,
        path: str,
        backend: str,
        folder: str,
        backend_config: str,
        name: str,
        version: int,
        model_folder: str,
        config: str,
        auto_complete: bool,
        server: int | None,
        /,
    ) -> tuple[int | None, Outcome]: ...

    def model_facts(self, model: int, /) -> tuple[str, int, bool]: ...

    def model_settle(
        self, model: int, config: str, decoupled: bool, outputs: Sequence[str], states: Sequence[str], /
    ) -> None: ...

    def model_close(self, model: int, /) -> None: ...

    def instance_open(
        self, model: int, name: str, kind: int, device_id: int, host_policy: str, /
    ) -> tuple[int | None, Outcome]: ...

    def instance_close(self, instance: int, /) -> None: ...

    def instance_ready(self, instance: int, /) -> Outcome: ...

    def instance_execute(
        self,
        instance: int,
        first: int,
        requests: Sequence[GivenRequest],
        reshape: Callable[[str, Sequence[int]], Sequence[int]] | None,
        make: Callable[[tuple[AnswerOutput, ...]], object],
        /,
    ) -> tuple[Outcome, int, int, list[BatchAnswer], list[Told]]:
        """Executes a batch, whose tags are `first` and those after it: what came of it, when it began and ended to
        compute, and of each request its answer, where that has a form: what stands for the answer's form, and the
        outputs' bytes. What is told besides comes whole.

        `reshape(input's name, shape)` is what the library sees of a shape; it and what it gives stay the same.
        `make(outputs)` is called when a form of answer is met that is new, and gives what is to stand for it, or None
        where such answers are to be told whole. What they raise fails a request, or the call."""
        ...

    def instance_let_be_late(self, instance: int, tags: Sequence[int], /) -> list[Told]: ...

    def instance_wait(self, instance: int, milliseconds: int, /) -> list[Told]: ...

    def instance_until_left(self, instance: int, /) -> None:
        """Waits until the library has let go of every request of this instance's."""
        ...

    def instance_stop_waiting(self, instance: int, /) -> None: ...

    def instance_cancel(self, instance: int, tag: int, /) -> None: ...

    def agent_open(self, path: str, /) -> tuple[int | None, Outcome]: ...

    def agent_model_open(
        self, agent: int, location: str, config: str, parameters: Sequence[tuple[str, str]], /
    ) -> tuple[int | None, Outcome]: ...

    def agent_act(self, agent: int, model: int, location: str, action: int, /) -> tuple[Outcome, str]: ...

    def agent_model_close(self, agent: int, model: int, /) -> Outcome: ...

    def cache_open(self, path: str, config: str, /) -> tuple[int | None, Outcome]: ...

    def cache_insert(self, cache: int, key: str, entry: bytes, /) -> tuple[Outcome, bool]: ...

    def cache_lookup(self, cache: int, key: str, /) -> tuple[Outcome, bytes | None]: ...

    def cache_close(self, cache: int, /) -> Outcome: ...
