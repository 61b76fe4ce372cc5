"""The engine as doors see it, of a few lines: `Caller` and `Served` of engine/port, scripted.

Doors are tested against this where the engine is not the point: what a model answers is computed at once, held, refused
or failed as the test says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from despina.engine.execute.inline import InlineRunner
from despina.engine.observe.generation import Generation
from despina.engine.observe.health import HealthReport
from despina.engine.observe.trace_file import open_trace_file
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.engine.request.job import Job
from despina.engine.request.shared_memory import SharedMemory
from despina.engine.request.together import submit_each
from despina.schema.fault import DeadlineExceeded, Fault, InvalidArgument, ModelFailure, NotFound, ShuttingDown
from despina.schema.inference import LATEST, InferenceRequest, InferenceResponse
from despina.schema.tensor import Tensor
from despina.schema.wire.generated import inference as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from despina.engine.port.caller import LoadWait
    from despina.engine.port.served import InferenceStream

NAMES = ("addsub", "identity", "held", "broken", "streams", "stream", "nothing")


class FakeModel:
    """`addsub` adds and subtracts, as whatever gets two inputs of one shape; others answer with their inputs; `held`
    waits for `release`; `broken` fails; `nothing` answers without outputs; `stream` and `streams` are decoupled."""

    version = 1
    version_text = "1"

    def __init__(self, name: str, *, echoes_parameters: bool = False) -> None:
        self.name = name
        self.decoupled = name in ("stream", "streams")
        self.config = pb.ModelConfig(name=name, max_batch_size=8)
        self.labels: Mapping[str, Sequence[str]] = {}
        self.is_held = name == "held"
        self.held: list[Job] = []
        """Those that wait for `release`, cancelled ones included."""
        self.cancelled: list[Job] = []
        self.submitted = trio.Event()
        self.fault: Fault | None = None
        """What every request is answered with."""
        self.refusal: Exception | None = None
        """What `submit` raises."""
        self._echoes_parameters = echoes_parameters

    @property
    def waiting(self) -> list[Job]:
        """Those held whose callers still wait."""
        return [job for job in self.held if not job.is_cancelled()]

    def submit(self, request: InferenceRequest, on_done: Callable[[Any], None], deadline: float = 0.0) -> Job:
        if self.refusal is not None:
            raise self.refusal
        if request.parameters and "refuse" in request.parameters:
            raise InvalidArgument(request.log_prefix() + "refused")
        job = Job(request, on_done)
        job.ledger = self
        self.submitted.set()
        if self.is_held:
            self.held.append(job)
            if deadline:
                trio.lowlevel.spawn_system_task(self._expire, job, deadline)
            return job
        self._finish(job)
        return job

    def submit_all(
        self,
        requests: Sequence[InferenceRequest],
        on_done: Callable[[Any], None],
        refused: Callable[[InferenceRequest, Exception], None],
    ) -> list[Job]:
        return submit_each(self.submit, requests, on_done, refused)

    def submit_stream(
        self, request: InferenceRequest, on_answer: Callable[[Any, Any], None], deadline: float = 0.0
    ) -> InferenceStream:
        raise AssertionError("streams are tested against a real engine")

    def release(self) -> None:
        """Answers all that are held."""
        held, self.held = self.held, []
        for job in held:
            self._finish(job)

    is_serving = True
    generation = "1"
    depth = 0
    buffers = None
    remembers = False
    submits_anywhere = False

    async def says_ready(self) -> bool:
        return True

    def blockers(self, inference: Any) -> Sequence[Sequence[Any]]:
        raise AssertionError("doors ask for no blockers")

    def pin(self) -> Callable[[], None]:
        raise AssertionError("doors pin nothing")

    # What jobs ask of their books.

    ending = None
    defers = False

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        raise AssertionError("everything is on one thread here")

    def end_deferred(self, later: Any) -> None:
        raise AssertionError("nothing is answered later here")

    def leave(self, job: Job) -> None:
        job.on_done = None
        self.cancelled.append(job)

    def late(self, job: Job) -> None:
        raise AssertionError("no limits in time here")

    def _finish(self, job: Job) -> None:
        self._compute(job)
        self.deliver(job)

    def deliver(self, job: Job) -> None:
        """Tells the caller what is there, if it still listens."""
        on_done = job.on_done
        if on_done is not None:
            job.on_done = None
            on_done(job)

    def _compute(self, job: Job) -> None:
        try:
            job.response = InferenceResponse(
                self.name,
                "1",
                self._outputs(job.request),
                id=job.request.id,
                parameters=job.request.parameters if self._echoes_parameters else None,
            )
        except Fault as fault:
            job.fault = fault

    def _outputs(self, request: InferenceRequest) -> list[Tensor]:
        if self.fault is not None:
            raise self.fault
        if self.name == "broken" or "break" in (request.parameters or {}):
            raise ModelFailure("broken on purpose")
        if self.name == "nothing":
            return []
        inputs = list(request.inputs.values())
        if self.name == "addsub" or (len(inputs) == 2 and self.name != "identity"):
            first, second = (tensor.numpy() for tensor in inputs)
            return [Tensor.of("OUTPUT0", first + second), Tensor.of("OUTPUT1", first - second)]
        return [
            Tensor(name.replace("IN", "OUT") or "OUTPUT0", tensor.datatype, tensor.shape, tensor.memory())
            for name, tensor in request.inputs.items()
        ]

    async def _expire(self, job: Job, deadline: float) -> None:
        await trio.sleep_until(deadline)
        job.fault = DeadlineExceeded("Deadline Exceeded")
        self.deliver(job)


class FakeEngine:
    """See the module."""

    def __init__(self, names: Sequence[str] = NAMES, *, echoes_parameters: bool = False) -> None:
        self.models = {name: FakeModel(name, echoes_parameters=echoes_parameters) for name in names}
        self.generation = Generation()
        self.inline = InlineRunner()
        self.shared_memory = SharedMemory()
        self.tracer = Tracer(TraceSettings(), self.models.__contains__, open_trace_file, self.generation)
        self.ready = True
        self.is_stopping = False
        self.commands: list[tuple[Any, ...]] = []
        """The loads and unloads that came."""
        self.load_gate = trio.Event()
        self.load_gate.set()
        self.load_fault: Fault | None = None

    def is_live(self) -> bool:
        if self.is_stopping:
            raise ShuttingDown("Server exiting")
        return True

    def is_ready(self) -> bool:
        self.is_live()
        return self.ready

    def health(self) -> HealthReport:
        return HealthReport(self.ready, () if self.ready else ("model 'm' version 1 is LOADING",))

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        return self.ready and name in self.models

    async def says_ready(self, name: str, version: int = LATEST) -> bool:
        return self.is_model_ready(name, version)

    def metadata(self) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="triton", version="2.0", extensions=["statistics", "logging"])

    def model(self, name: str, version: int = LATEST) -> FakeModel:
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        if version not in (LATEST, 1):
            raise NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return model

    def when_loaded(self, name: str, on_done: Callable[[Fault | None], None], deadline: float = 0.0) -> LoadWait:
        raise AssertionError("loading on request is tested against a real engine")

    async def bring(self, name: str, deadline: float = 0.0) -> None:
        raise AssertionError("loading on request is tested against a real engine")

    def model_metadata(self, name: str, version: int = LATEST) -> pb.ModelMetadataResponse:
        self.model(name, version)
        tensor = pb.ModelMetadataResponseTensorMetadata(name="INPUT0", datatype="INT32", shape=[-1, 16])
        return pb.ModelMetadataResponse(name=name, versions=["1"], platform="onnxruntime_onnx", inputs=[tensor])

    def statistics(self, name: str = "", version: int = LATEST) -> list[pb.ModelStatistics]:
        if name and name not in self.models:
            raise InvalidArgument(f"requested model '{name}' is not available")
        spent = pb.StatisticDuration(count=3, ns=900)
        return [
            pb.ModelStatistics(
                name=name or "addsub",
                version="1",
                last_inference=7,
                inference_count=3,
                execution_count=2,
                inference_stats=pb.InferStatistics(success=spent),
                batch_stats=[pb.InferBatchStatistics(batch_size=1, compute_infer=spent)],
            )
        ]

    async def index(self, ready_only: bool = False) -> list[pb.RepositoryIndexResponseModelIndex]:
        await trio.lowlevel.checkpoint()
        row = pb.RepositoryIndexResponseModelIndex
        entries = [row(name="addsub", version="1", state="READY")]
        if not ready_only:
            entries.append(row(name="never"))
            entries.append(row(name="was", version="1", state="UNAVAILABLE", reason="unloaded"))
        return entries

    async def load(self, name: str, *, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        self.commands.append(("load", name, config, files))
        await self.load_gate.wait()
        if self.load_fault is not None:
            raise self.load_fault

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        self.commands.append(("unload", name, unload_dependents))
