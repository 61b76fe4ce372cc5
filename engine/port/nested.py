"""What backends' models may ask of the engine that serves them: answers of other models, loading, metrics.

Everything here may be called from any thread, but where it says that it waits: then from any other than the engine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ...schema.inference import LATEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from .metrics import Metrics
    from .nested_request import NestedRequest
    from .served import Answer
    from .work import BackendJob


@attrs.frozen(eq=False)
class Origin:
    """Where a nested call comes from."""

    name: str
    """The instance that makes it, for texts."""
    model_name: str
    jobs: Sequence[BackendJob] = ()
    """What it is made for: the call is cancelled once the callers of all of them have left. None where nobody knows,
    as on threads of the model's own."""
    trace: Any = None
    """Of the request that it is made for, if that is traced."""


class NestedCall(Protocol):
    """A request that a model has made, on its way."""

    waits: bool
    """What makes it stands still until the next answer. To be set by whoever does."""

    def consumed(self, count: int = 1) -> None:
        """So many answers of a stream were read: there is room for as many."""
        ...

    def cancel(self) -> None:
        """The model wants no more of it; it is told so by a last answer if there was none. Idempotent, never blocks."""
        ...


class NestedCaller(Protocol):
    """The engine as models see it."""

    @property
    def metrics(self) -> Metrics:
        """Families of the models' own."""
        ...

    def may_wait(self) -> bool:
        """Whether the thread that asks may wait for an answer: the engine's own may not."""
        ...

    def call(
        self,
        request: NestedRequest,
        origin: Origin,
        on_answer: Callable[[Answer], None],
        *,
        decoupled: bool,
        waits: bool,
    ) -> NestedCall:
        """Asks a model. `on_answer` follows on the engine's thread, the last time with `final`, whatever happens: a
        refusal is an answer, too. It must neither wait nor raise. `decoupled`: several answers are expected."""
        ...

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        """Whether that version, or any, serves. Waits."""
        ...

    def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        by: str,
        is_opening: bool,
    ) -> None:
        """Loads or reloads a model for the model `by`, which is just being opened itself or not. Waits; raises Fault,
        among them InvalidArgument for a load that would wait for itself."""
        ...

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Takes a model out of service. Waits; raises Fault."""
        ...

    def attend(self, attendant: Callable[..., Awaitable[None]]) -> None:
        """Runs `attendant(engine, task_status=...)` on the engine's thread as long as the engine runs: it offers the
        engine to somebody in another way. Waits until it has started; raises Fault, and what starting it raises."""
        ...
