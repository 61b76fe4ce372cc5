"""The engine: what doors and embedding programs hold.

    Engine.run
     └─ Repository                 commands; hosts every version of every model
         └─ HostedVersion, any     see model/version.py, model/ensemble/version.py

Everything here is called on the trio thread that runs the engine; `blocking.py` is the same for other threads.
"""

from __future__ import annotations

from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import Abort

from ..schema.datatype import BY_NUMBER
from ..schema.fault import (
    Fault,
    InvalidArgument,
    NotFound,
    NotLoaded,
    NotReady,
    ShuttingDown,
    Unavailable,
    Unsupported,
)
from ..schema.inference import LATEST
from ..schema.release import RELEASE
from ..schema.wire.generated.inference import (
    ModelMetadataResponse,
    ModelMetadataResponseTensorMetadata,
    ServerMetadataResponse,
)
from .execute.inline import InlineRunner
from .model.cache.opening import open_cache
from .nesting import Nesting
from .observe.custom_metrics import CustomMetrics
from .observe.generation import Generation
from .observe.health import HealthReport, ServerState
from .observe.heartbeat import Heartbeat
from .observe.trace_file import open_trace_file
from .observe.tracing import Tracer
from .repository.agents import Agents
from .repository.discovery import Backends
from .repository.registry import Registry
from .repository.repository import NOT_EXPLICIT, Repository
from .request.call import Result, request_of
from .request.shared_memory import SharedMemory
from .streaming import answers_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

    from ..schema.inference import InferenceRequest, InferenceResponse, Parameter
    from ..schema.wire.generated.inference import (
        ModelConfig,
        ModelInput,
        ModelOutput,
        ModelStatistics,
        RepositoryIndexResponseModelIndex,
    )
    from .model.cache.keeper import Keeper
    from .model.hosted import HostedVersion
    from .observe.status import ActorStatus
    from .observe.tracing import Trace
    from .port.agent import RepositoryAgent
    from .port.backend import Backend
    from .port.cache import OpenCache
    from .port.caller import LoadWait
    from .port.served import Inference
    from .port.settings import EngineSettings, TraceSettings
    from .port.sink import TraceSink

PROTOCOL_VERSION = "2.73.0"
"""The release of the protocol that clients are told."""

EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
_READY: Final = ServerState.READY
"""Members of enumerations are looked up slowly, and probes ask often."""


class Engine:
    """Models, and what is known about them. Open one with `open_engine`; `settings` never change afterwards."""

    def __init__(
        self,
        settings: EngineSettings,
        backends: Mapping[str, Backend] | None = None,
        open_traces: Callable[[TraceSettings], TraceSink] = open_trace_file,
        agents: Mapping[str, RepositoryAgent] | None = None,
        caches: Mapping[str, OpenCache] = MappingProxyType({}),
    ) -> None:
        """`caches`, by name, come before those of entry points. `open_traces` is asked for a place to keep traces when
        there is a first one."""
        self.settings = settings
        self.backends = Backends(backends, settings.backend_config, settings.backend_directory)
        self.agents = Agents(agents, settings.repoagent_directory)
        self.generation = Generation()
        """What doors compare before they use what they remember of earlier requests."""
        self.registry = Registry(self.generation, namespacing=settings.model_namespacing)
        self.inline = InlineRunner()
        """Brackets a door's passes."""
        self.state = ServerState.INITIALIZING
        self.heartbeat = Heartbeat()
        """For watchdogs: beats while this runs and its event loop gets round."""
        self._is_leaving = False
        self.custom_metrics = CustomMetrics()
        """Families of models' and backends' own, which the metrics page shows, too."""
        self.tracer = Tracer(settings.trace, self._is_served, open_traces, self.generation)
        self.nesting = Nesting(self.model, self.when_loaded, self.load, self.unload, self.custom_metrics, self)
        """What models ask of the engine."""
        self._repository: Repository | None = None
        self._caches = caches
        self.cache: Keeper | None = None
        """Where answers are kept, once it runs."""
        self.shared_memory = SharedMemory(
            allowed=settings.allow_client_shm,
            regions_max=settings.shared_memory_regions_max,
            input_bytes_max=settings.shared_memory_input_bytes_max,
        )
        """The regions that clients have registered."""

    # --- Life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Loads the start-up models, reports started, serves until cancelled. Call `stop` first for a clean end.

        Raises Internal when a start-up model does not load and `exit_on_error` is set, ValueError for a repository that
        is no directory.
        """
        clock = trio.lowlevel.current_clock().current_time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.heartbeat.run)
            await nursery.start(self.nesting.run)
            nursery.start_soon(self.inline.run)
            if self.settings.cache():
                await self._open_cache(nursery)
            self._repository = Repository(
                self.settings, self.registry, self.backends, self.agents, clock, self.inline, self.nesting, self.cache
            )
            await nursery.start(self._repository.run)
            try:
                await self._repository.start()
            except Fault:
                if self.settings.exit_on_error:
                    self.state = ServerState.FAILED
                    nursery.cancel_scope.cancel()
                    raise
            self.state = ServerState.READY
            task_status.started()

    async def _open_cache(self, nursery: trio.Nursery) -> None:
        try:
            self.cache = await trio.to_thread.run_sync(
                open_cache, self.settings.cache(), self._caches, self.settings.cache_directory, abandon_on_cancel=True
            )
        except Fault:
            self.state = ServerState.FAILED
            raise
        await nursery.start(self.cache.run)

    def announce_end(self) -> None:
        """Not ready from now on, and all else as before: whoever distributes requests sends none here, and what comes
        all the same is served. `stop` follows."""
        self._is_leaving = True

    async def stop(self) -> None:
        """Refuses new work, finishes what is in flight, unloads everything. Called again it waits with the first.

        Raises Internal when `exit_timeout_secs` were not enough.
        """
        if self.state in (ServerState.READY, ServerState.EXITING):
            self.state = ServerState.EXITING
            self.nesting.stops = True
            await self._actor.stop()
            if self.tracer.has_work:
                await trio.to_thread.run_sync(self.tracer.close)

    @property
    def _actor(self) -> Repository:
        if self._repository is None:
            raise Unavailable("Server not ready")
        return self._repository

    # --- Health and descriptions

    def is_live(self) -> bool:
        """True once the start-up models are loaded. Raises ShuttingDown while exiting."""
        if self.state is _READY:
            return True
        self._check_exiting()
        return False

    def is_ready(self) -> bool:
        """True when the server should get requests. Raises ShuttingDown while exiting."""
        self._check_exiting()
        return self.health().ready

    def health(self) -> HealthReport:
        """The same with what is wrong; never raises."""
        problems = self.registry.problems()
        if self.state is not ServerState.READY:
            problems.insert(0, f"the server is {self.state.value}")
            return HealthReport(False, tuple(problems))
        if self._is_leaving:
            return HealthReport(False, ("the server is draining: it will stop", *problems))
        return HealthReport(not (problems and self.settings.strict_readiness), tuple(problems))

    def status(self) -> list[ActorStatus]:
        """What every actor does now: how much waits for it, for how long, and what it counts. Never raises."""
        found = [] if self._repository is None else self._repository.status()
        for model in self.registry.serving():
            found.extend(model.status())
        if self.cache is not None:
            found.append(self.cache.status())
        return [*found, self.inline.status(), *self.tracer.status()]

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        """Whether that version, or any, serves: one of its instances at least is up.

        False also for a model never heard of, as clients' polling expects.
        """
        self._check_running()
        try:
            return self.registry.find(name, version).is_serving
        except (InvalidArgument, NotFound, Unavailable):
            return False

    async def says_ready(self, name: str, version: int = LATEST) -> bool:
        """As `is_model_ready`; a model that has a say in it is asked, too, and has five seconds to answer."""
        return self.is_model_ready(name, version) and await self.registry.find(name, version).says_ready()

    def metadata(self) -> ServerMetadataResponse:
        """The last of the extensions names our own release."""
        extensions = [*EXTENSIONS, f"despina({RELEASE})"]
        return ServerMetadataResponse(name=self.settings.id, version=PROTOCOL_VERSION, extensions=extensions)

    def model_metadata(self, name: str, version: int = LATEST) -> ModelMetadataResponse:
        """Raises NotFound, NotReady."""
        model = self.model(name, version)
        config = model.config
        versions = [entry.version_text for entry in self.registry.for_statistics(name, LATEST)]
        return ModelMetadataResponse(
            name=name,
            versions=versions if version == LATEST else [model.version_text],
            platform=config.platform or config.backend,
            inputs=[_tensor_metadata(config, tensor) for tensor in config.input],
            outputs=[_tensor_metadata(config, tensor) for tensor in config.output],
        )

    def model(self, name: str, version: int = LATEST) -> HostedVersion:
        """What serves that version, or the highest. Raises NotFound, NotReady in the protocol's words, and ShuttingDown
        instead once the engine stops."""
        try:
            return self.registry.find(name, version)
        except (NotFound, NotReady) as fault:
            self._check_exiting()
            if self.state is ServerState.READY and self._actor.on_request.may_load(name):
                not_loaded = NotLoaded(fault.message)
                not_loaded.model_name = name
                raise not_loaded from None
            raise

    def when_loaded(self, name: str, on_done: Callable[[Fault | None], None], deadline: float = 0.0) -> LoadWait:
        """After NotLoaded: loads that model, and calls `on_done` on the trio thread, once, unless cancelled: with the
        fault that it has met, or None, and then `model` finds it until the next checkpoint. Raises QueueFull, and what
        loading it has met lately."""
        self._check_running()
        return self._actor.on_request.wait(name, on_done, deadline)

    async def bring(self, name: str, deadline: float = 0.0) -> None:
        """The same for a task, which has until its next checkpoint. Raises what loading the model has met."""
        self._check_running()
        await self._actor.on_request.loaded(name, deadline)

    async def _model(self, request: InferenceRequest, deadline: float) -> HostedVersion:
        """What serves the request, loaded for it if need be."""
        while True:
            try:
                return self.model(request.model_name, request.model_version)
            except NotLoaded as fault:
                await self.bring(fault.model_name, deadline)

    def versions(self) -> Iterator[HostedVersion]:
        """Every version that serves, by name and number."""
        return self.registry.serving()

    def statistics(self, name: str = "", version: int = LATEST) -> list[ModelStatistics]:
        """Raises InvalidArgument for models and versions that do not serve."""
        self._check_running()
        return [
            model.statistics.message(model.name, model.version_text)
            for model in self.registry.for_statistics(name, version)
        ]

    async def index(self, ready_only: bool = False) -> list[RepositoryIndexResponseModelIndex]:
        """Every model in the repository as it is now, with the versions ever seen of it. Raises ShuttingDown, and
        Internal for a repository that cannot be read. Empty strings stand for what is not known."""
        self._check_running()
        return await self._actor.index(ready_only)

    # --- Control

    async def load(self, name: str, *, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads or reloads a model; what serves keeps serving until the new version does. Explicit mode only.

        `config` is a whole configuration in JSON, `files` relative paths and contents that take the place of the
        model's directory. Raises Unavailable, InvalidArgument, Internal. Cancelled, it goes on unobserved.
        """
        self._check_explicit()
        await self._actor.load(name, config, files)

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Takes a model out of service; what is in flight finishes. An unknown name is no error. Explicit mode only.

        `unload_dependents` takes the models of an ensemble with it that nobody has loaded by name and no other ensemble
        asks.
        """
        self._check_explicit()
        await self._actor.unload(name, with_parts=unload_dependents)

    async def register_model_repository(self, path: str, name_mapping: Mapping[str, str] | None = None) -> None:
        """One more repository, by path or location; nothing of it is loaded. Explicit mode only.

        `name_mapping` gives other names to some of its models: name -> directory, which then has no other. Raises
        Unsupported, InvalidArgument, AlreadyExists, Unavailable.
        """
        await self._actor.register(str(path), name_mapping or {})

    def unregister_model_repository(self, path: str) -> None:
        """No model is loaded from that repository any more; those that are go on serving. Explicit mode only. Raises
        Unsupported, InvalidArgument."""
        self._actor.unregister(str(path))

    async def poll(self) -> None:
        """Looks at the repository now. Poll mode only; raises Unavailable otherwise."""
        await self._actor.poll()

    # --- Inference

    async def infer(
        self,
        model_name: str,
        inputs: Mapping[str, object],
        *,
        outputs: Sequence[str] = (),
        model_version: int = LATEST,
        request_id: str = "",
        priority: int = 0,
        parameters: Mapping[str, Parameter] | None = None,
        sequence_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109  # the engine's queue keeps it, not a scope around the caller
    ) -> Result:
        """One inference: arrays by input name in, arrays by output name out.

        `timeout` is in seconds, over queueing and execution. Raises the protocol's faults, DeadlineExceeded among them.
        Cancelled while queued, the request gives its place back; while executing, its result is dropped.
        """
        request = request_of(
            model_name,
            inputs,
            model_version=model_version,
            outputs=outputs,
            request_id=request_id,
            priority=priority,
            parameters=parameters,
            sequence_id=sequence_id,
            sequence_start=sequence_start,
            sequence_end=sequence_end,
        )
        deadline = 0.0 if timeout is None else trio.current_time() + timeout
        return Result(await self.infer_request(request, deadline=deadline))

    async def stream(
        self,
        model_name: str,
        inputs: Mapping[str, object],
        *,
        outputs: Sequence[str] = (),
        model_version: int = LATEST,
        request_id: str = "",
        priority: int = 0,
        parameters: Mapping[str, Parameter] | None = None,
        sequence_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109  # as for `infer`
    ) -> AsyncGenerator[Result, None]:
        """All answers of one request, as they come; options as for `infer`. One answer for ordinary models.

        A model that makes answers faster than they are taken here waits. Closing the generator, or cancelling, tells
        the model that nobody listens any more. An error among the answers is raised and ends the stream.
        """
        request = request_of(
            model_name,
            inputs,
            model_version=model_version,
            outputs=outputs,
            request_id=request_id,
            priority=priority,
            parameters=parameters,
            sequence_id=sequence_id,
            sequence_start=sequence_start,
            sequence_end=sequence_end,
        )
        deadline = 0.0 if timeout is None else trio.current_time() + timeout
        async with aclosing(self.stream_request(request, deadline=deadline)) as responses:
            async for response in responses:
                yield Result(response)

    async def stream_request(
        self, request: InferenceRequest, *, deadline: float = 0.0
    ) -> AsyncGenerator[InferenceResponse, None]:
        """The same for a request already built. `deadline` in seconds of trio's clock, 0 for none."""
        model = await self._model(request, deadline)
        if not model.decoupled:
            yield await self.infer_request(request, deadline=deadline)
            return
        async with aclosing(answers_of(model, request, deadline, self.settings.stream_responses_max)) as answers:
            async for response in answers:
                yield response

    async def infer_request(self, request: InferenceRequest, *, deadline: float = 0.0) -> InferenceResponse:
        """The same for a request already built. `deadline` in seconds of trio's clock, 0 for none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            model = self.model(request.model_name, request.model_version)
        except NotLoaded:
            model = await self._model(request, deadline)
        if model.decoupled:
            raise Unsupported(f"model '{model.name}' is decoupled: its answers come as a stream")
        waiter = _Waiter()
        if self.tracer.active and request.trace is None:
            request.trace = waiter.trace = self.tracer.sample(model.name)
        company = model.company
        company.calling = True
        try:
            job = model.submit(request, waiter.done, deadline)
        finally:
            company.calling = False
        if job.on_done is None:  # it is over already
            company.resting += 1
            await trio.lowlevel.cancel_shielded_checkpoint()
            company.resting -= 1
        else:
            waiter.task = trio.lowlevel.current_task()

            def leave(_: object) -> Abort:
                job.cancel()
                return Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(leave)
        if job.fault is not None:
            raise job.fault.copy()
        response = job.response
        assert response is not None, "a finished job has an answer"
        return response

    # --- Checks

    def _is_served(self, name: str) -> bool:
        return any(entry.ready() for entry in self.registry.sharing(name))

    def _check_exiting(self) -> None:
        if self.state is ServerState.EXITING:
            raise ShuttingDown("Server exiting")

    def _check_running(self) -> None:
        if self.state is not ServerState.READY:
            raise ShuttingDown("Server not ready")

    def _check_explicit(self) -> None:
        if self.settings.model_control_mode != "explicit":
            raise Unavailable(NOT_EXPLICIT)


class _Nothing:
    """What every waiter is woken with: trio's own `Value(None)` is made anew for each."""

    def unwrap(self) -> None: ...


_NOTHING: Any = _Nothing()


class _Waiter:
    """Where one caller in process waits."""

    __slots__ = ("task", "trace")

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self.task: trio.lowlevel.Task | None = None

    def done(self, _: Inference) -> None:
        if self.trace is not None:
            self.trace.finish()
        if self.task is not None:
            trio.lowlevel.reschedule(self.task, _NOTHING)


def _tensor_metadata(config: ModelConfig, tensor: ModelInput | ModelOutput) -> ModelMetadataResponseTensorMetadata:
    dims = list(tensor.dims)
    return ModelMetadataResponseTensorMetadata(
        name=tensor.name,
        datatype=BY_NUMBER[int(tensor.data_type)].name,
        shape=[-1, *dims] if config.max_batch_size > 0 else dims,
    )
