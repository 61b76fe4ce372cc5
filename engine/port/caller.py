"""What doors see of the engine: typed, whole, and nothing else of it.

Local today: `Engine` itself. Doors in processes of their own will get one that speaks to an engine elsewhere.
Everything is for the trio thread that runs the door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ...schema.inference import LATEST
from ...schema.shared_memory import Regions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...schema.fault import Fault
    from ...schema.wire.generated.inference import (
        ModelMetadataResponse,
        ModelStatistics,
        RepositoryIndexResponseModelIndex,
        ServerMetadataResponse,
    )
    from .served import Served
    from .settings import TraceChanges


class Keeper(Protocol):
    """Who holds something of the present generation."""

    def let_go(self) -> None:
        """The generation is over: drops what it holds. Must not raise."""
        ...


class Generation(Protocol):
    """For how long what a door remembers of earlier requests holds."""

    def keep(self, keeper: Keeper) -> None:
        """Tells `keeper`, which is held weakly, when the present generation is over, once."""
        ...


class Passes(Protocol):
    """Brackets what a door's loop has found, so that requests of one pass may share batches."""

    def begin_pass(self, *, is_alone: bool = False) -> None:
        """A door is about to submit, one request at most if `is_alone`. Call `end_pass` before the next checkpoint."""
        ...

    def end_pass(self) -> None:
        """Executes what the pass has started."""
        ...


class RequestTrace(Protocol):
    """What is noted of one request that is traced."""

    has_timestamps: bool

    def stamp(self, name: str, ns: int = 0) -> None:
        """Notes a moment of the monotonic clock, now if not given."""
        ...

    def finish(self) -> None:
        """Hands the trace over to be written. Idempotent; what is noted later is lost."""
        ...


class Tracing(Protocol):
    """Which requests are traced."""

    active: bool
    """Whether any request can be chosen: what doors look at before they ask."""

    def sample(self, model_name: str, traceparent: str | None = None, tracestate: str = "") -> RequestTrace | None:
        """Counts a request for that model and gives it a trace if it is its turn."""
        ...

    def check_model(self, model_name: str) -> None:
        """Raises InvalidArgument for a name that has no settings."""
        ...

    def shown(self, model_name: str = "") -> Mapping[str, Sequence[str]]:
        """The settings in force, by the protocol's names. Raises InvalidArgument for no model."""
        ...

    def change(self, changes: TraceChanges, model_name: str = "") -> None:
        """Changes the settings of one model, or of all that have none of their own; None takes a field back.

        Raises InvalidArgument for no model and for settings by which nothing could be traced.
        """
        ...


class SystemRegionFacts(Protocol):
    """A region of system memory that a client has registered."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def offset(self) -> int: ...

    @property
    def byte_size(self) -> int: ...


class CudaRegionFacts(Protocol):
    """A region of device memory that a client has registered."""

    @property
    def name(self) -> str: ...

    @property
    def device_id(self) -> int: ...

    @property
    def byte_size(self) -> int: ...


class ClientMemory(Regions, Protocol):
    """The regions that clients have registered."""

    def check_allowed(self) -> None:
        """Raises Unsupported where clients may not register."""
        ...

    def register_system(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Raises Unsupported, AlreadyExists, Internal, InvalidArgument, Unavailable."""
        ...

    def unregister_system(self, name: str = "") -> None:
        """Forgets the region, or all. An unknown one is no error."""
        ...

    def system_status(self, name: str = "") -> Sequence[SystemRegionFacts]:
        """That region, or all. Raises NotFound."""
        ...

    async def register_cuda(self, name: str, raw_handle: bytes, device_id: int, byte_size: int) -> None:
        """As `register_system`. Waits for the driver, a bounded time."""
        ...

    async def unregister_cuda(self, name: str = "") -> None: ...

    def cuda_status(self, name: str = "") -> Sequence[CudaRegionFacts]: ...


class LoadWait(Protocol):
    """Somebody who waits for a model to be loaded."""

    def cancel(self) -> None:
        """It leaves: it is not told. Idempotent, never blocks."""
        ...


class Health(Protocol):
    """Whether the engine can do its work, and what keeps it from it."""

    @property
    def ready(self) -> bool: ...

    @property
    def problems(self) -> Sequence[str]:
        """One line for each part that is down, also where the server counts as ready all the same."""
        ...


class Caller(Protocol):
    """The engine as a door has it."""

    @property
    def generation(self) -> Generation: ...

    @property
    def inline(self) -> Passes: ...

    @property
    def tracer(self) -> Tracing: ...

    @property
    def shared_memory(self) -> ClientMemory: ...

    def is_live(self) -> bool:
        """True once the start-up models are loaded. Raises ShuttingDown while exiting."""
        ...

    def is_ready(self) -> bool:
        """True when the server should get requests. Raises ShuttingDown while exiting."""
        ...

    def health(self) -> Health:
        """The same with what is wrong; never raises."""
        ...

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        """Whether that version, or any, serves."""
        ...

    async def says_ready(self, name: str, version: int = LATEST) -> bool:
        """The same, and that the model itself does not say otherwise; which may take it seconds."""
        ...

    def metadata(self) -> ServerMetadataResponse: ...

    def model_metadata(self, name: str, version: int = LATEST) -> ModelMetadataResponse:
        """Raises NotFound, NotReady."""
        ...

    def model(self, name: str, version: int = LATEST) -> Served:
        """What serves that version, or the highest. Raises NotFound, NotReady, ShuttingDown; NotLoaded, which is a
        NotFound, where `when_loaded` would load it."""
        ...

    def when_loaded(self, name: str, on_done: Callable[[Fault | None], None], deadline: float = 0.0) -> LoadWait:
        """After NotLoaded: loads that model, and calls `on_done` once, unless cancelled: with the fault that it has
        met, or None, and then `model` finds it until the next checkpoint. Raises QueueFull, and what loading it has met
        lately."""
        ...

    async def bring(self, name: str, deadline: float = 0.0) -> None:
        """The same for a task. Raises what loading the model has met."""
        ...

    def statistics(self, name: str = "", version: int = LATEST) -> Sequence[ModelStatistics]:
        """Raises InvalidArgument for models and versions that do not serve."""
        ...

    async def index(self, ready_only: bool = False) -> Sequence[RepositoryIndexResponseModelIndex]:
        """Every model directory, with the versions ever seen of it."""
        ...

    async def load(self, name: str, *, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads or reloads a model. Raises Unavailable, InvalidArgument, Internal."""
        ...

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Takes a model out of service; with its dependents, also the models of an ensemble that nothing else needs."""
        ...
