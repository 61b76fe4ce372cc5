"""The port that model frameworks implement. Everything here runs off the trio thread unless said otherwise.

    Backend.open_model(context)        once per model version, in a worker thread: read the files, complete the config
      └─ BackendModel.open_instance()  once per instance, on the thread that will execute it
           └─ execute(batch) ... close()
      └─ BackendModel.close()          after the last instance

A backend is found by name through the entry-point group `despina.backends`; the entry is a class without required
arguments that has the methods of `Backend`. Frameworks are imported inside `open_model`, never at module top.
Raise a `Fault` for what the user must read (its message becomes the model's state reason); anything else that escapes
is wrapped as Internal with `ExceptionType: text`. An executor that cannot execute any more raises ExecutorDied: it is
closed, and its instance opened anew after a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from .host_policy import HostPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import trio

    from ...schema.fault import Fault
    from ...schema.wire.generated.inference import ModelConfig
    from .nested import NestedCaller
    from .resources import Resource
    from .work import Batch

InstanceKind = Literal["CPU", "GPU", "MODEL"]


@attrs.frozen(kw_only=True)
class ModelContext:
    """What a backend gets to open one model version."""

    name: str
    version: int
    model_path: Path
    """The model's directory in the repository."""
    version_path: Path
    config: ModelConfig
    """Named, normalised and validated, but not yet completed by the backend. Do not change it in place: copy first."""
    auto_complete: bool
    """False when the user wants the configuration taken as it stands."""
    backend_config: Mapping[str, str]
    """`--backend-config=<backend>,<key>=<value>` over the global ones. `default-max-batch-size` is always there,
    and `debug-model`: the model that somebody looks into, or empty."""
    nested: NestedCaller | None = None
    """What the model may ask of the engine while it executes. None where there is no engine."""


@attrs.frozen(kw_only=True)
class InstanceContext:
    """Which instance of a model this is, and where it lives."""

    name: str
    """`<group>_<index>`, as error texts and `args["model_instance_name"]` show it."""
    kind: InstanceKind
    device_id: int
    resources: tuple[Resource, ...] = ()
    """What it needs while it executes, where the server limits rates."""
    host_policy: HostPolicy = attrs.field(factory=HostPolicy)
    """Where on the machine it lives. Its own thread is bound already; processes are bound by who starts them."""
    priority: int = 0
    """Its executions weigh so much, there; 0 is 1."""
    profiles: tuple[str, ...] = ()
    """Numbers of the TensorRT optimization profiles that it executes with, validated; none for the backend's choice."""


class BackendInstance(Protocol):
    """One executor's model object. Calls never overlap.

    One with a true attribute `takes_device_memory` gets inputs that clients have in a GPU's memory as they are, unread
    (`SharedTensor.on_device`): who calls `memory()` or `numpy()` copies them to the host.

    It may have an attribute `ready`: called when a client asks whether the model is ready, on any thread, also while
    `execute` runs, one at a time. May take long; what it raises is logged, and means no. An AsyncInstance may have one,
    too, which is awaited; it must end when the executor does.
    """

    movable: bool
    """True when `execute` may be called from other threads than the one that opened the instance, one at a time.
    The engine then runs cheap batches on the trio thread itself."""

    def execute(self, batch: Batch) -> None:
        """Answers every job of the batch by `respond` or `fail`. Raising answers the rest with that error.

        Raises ExecutorDied when the executor cannot go on.
        """
        ...

    def close(self) -> None:
        """Frees the model object. Called once, on the thread that opened the instance; errors are logged only."""
        ...


class BackendModel(Protocol):
    """One opened model version.

    It may have an attribute `buffers`, a BufferPool: where doors receive large requests for it, which its instances may
    then see there and write to.
    """

    config: ModelConfig
    """The completed configuration: only max_batch_size, input, output, a scheduling choice where none was given, and
    model_transaction_policy may differ from the context's."""

    def open_instance(self, instance: InstanceContext) -> BackendInstance: ...

    def close(self) -> None: ...


class AsyncInstance(Protocol):
    """An executor that is awaited on the trio thread: a child process, a scripted fake.

    A backend model whose `asynchronous` attribute is true makes these instead, on the trio thread.

    It may have a method `begin(batch, over)`: begins to execute here and now, without waiting, and later calls `over`
    with the Fault that `execute_async` would have raised, or None. Returns False where that cannot be done, and nothing
    has been: then `execute_async` is called. One batch at a time, by whichever way.
    """

    async def open(self, nursery: trio.Nursery) -> None:
        """Makes it ready. Tasks of its own run in `nursery`, which is cancelled when it has been closed; ExecutorDied
        raised there ends it, too. When this raises, or is cancelled, `aclose` follows all the same."""
        ...

    async def execute_async(self, batch: Batch) -> None:
        """As `execute`. Cancelled only when the model is torn down; must then leave nothing behind."""
        ...

    async def aclose(self) -> None:
        """Frees the model object. Called once; errors are logged only. Cancelled when it takes too long: must then
        leave nothing behind."""
        ...


class PipelinedInstance(AsyncInstance, Protocol):
    """One that may be given what it executes next while it executes, so that it waits for nobody in between.

    What it has like that is taken back whenever something befalls it that befalls queued requests only.
    """

    @property
    def ahead_max(self) -> int:
        """How many batches may wait at it now. May change at any time; 0 for none."""
        ...

    def begin(self, batch: Batch, over: Callable[[Fault | None], None]) -> bool:
        """See `AsyncInstance`."""
        ...

    def begin_ahead(
        self, batch: Batch, over: Callable[[Fault | None], None], unbegun: Callable[[], None], within_s: float
    ) -> bool:
        """Hands over what is to be executed after what has been begun. False, and nothing was done, where it is not
        taken. When its turn comes after more than `within_s`, it is not executed, and `unbegun` is called in the place
        of `over`. It stamps `started_ns`, too."""
        ...

    def take_back(self) -> int:
        """How many of those that were handed over last have not been begun, and will not be: they are the caller's
        again, and `over` is not called for them. Exact, also when the executor has died."""
        ...


@attrs.frozen
class Draft:
    """What a model's file says of its configuration."""

    config: ModelConfig
    """max_batch_size, input and output."""
    doubts: tuple[str, ...]
    """What is a guess there, a sentence each."""


class Backend(Protocol):
    """One framework.

    That of Python models has a method `based(name, folder)`: the backend of that name whose code is the folder's
    `model.py`. A backend may have an attribute `settings`: the names that it reads from `backend_config` -> "", and
    those that it knows and ignores -> why. The operator is then warned of others. One whose files say less than a
    configuration must may have a method `draft(file)`: a Draft, for a configuration that is begun for its user.
    """

    name: str
    preferred_kind: InstanceKind | None
    """What KIND_AUTO without instance groups prefers when a GPU is there; None for no wish."""

    def open_model(self, context: ModelContext) -> BackendModel:
        """Reads the model and completes its configuration. May take long; cannot be interrupted."""
        ...

    def config_summary(self) -> str:
        """One line for the table that `despina serve` prints: framework version, or that it is missing."""
        ...
