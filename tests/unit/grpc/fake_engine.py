"""An engine of a few lines, with models that answer, hold, fail and refuse on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from despina.schema.fault import DeadlineExceeded, InvalidArgument, ModelFailure, NotFound, ShuttingDown
from despina.schema.inference import LATEST, InferenceRequest, InferenceResponse
from despina.schema.tensor import Tensor
from despina.schema.wire.generated import inference as pb

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeJob:
    """The part of a Job that doors use."""

    def __init__(self, request: InferenceRequest, on_done: Callable[[Any], None]) -> None:
        self.request = request
        self.on_done: Callable[[Any], None] | None = on_done
        self.response: InferenceResponse | None = None
        self.fault: Exception | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.on_done = None

    def deliver(self) -> None:
        if self.on_done is not None:
            on_done, self.on_done = self.on_done, None
            on_done(self)


class FakeModel:
    """`addsub` computes; `identity` returns its inputs; `held` waits for `release`; `broken` fails; `streams` is
    decoupled; `nothing` answers without outputs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.decoupled = name == "streams"
        self.config = pb.ModelConfig(name=name, max_batch_size=8)
        self.held: list[FakeJob] = []
        self.submitted = trio.Event()

    def submit(self, request: InferenceRequest, on_done: Callable[[Any], None], deadline: float = 0.0) -> FakeJob:
        if request.parameters and "refuse" in request.parameters:
            raise InvalidArgument(request.log_prefix() + "refused")
        job = FakeJob(request, on_done)
        self.submitted.set()
        if self.name == "held":
            self.held.append(job)
            if deadline:
                trio.lowlevel.spawn_system_task(self._expire, job, deadline)
            return job
        self._compute(job)
        job.deliver()
        return job

    def release(self) -> None:
        for job in self.held:
            self._compute(job)
            job.deliver()
        self.held.clear()

    async def _expire(self, job: FakeJob, deadline: float) -> None:
        await trio.sleep_until(deadline)
        job.fault = DeadlineExceeded("Deadline Exceeded")
        job.deliver()

    def _compute(self, job: FakeJob) -> None:
        request = job.request
        if self.name == "broken" or "break" in (request.parameters or {}):
            job.fault = ModelFailure("broken on purpose")
            return
        if self.name == "addsub":
            first, second = (tensor.numpy() for tensor in request.inputs.values())
            outputs = [Tensor.of("OUTPUT0", first + second), Tensor.of("OUTPUT1", first - second)]
        elif self.name == "nothing":
            outputs = []
        else:
            outputs = [
                Tensor(name.replace("IN", "OUT"), tensor.datatype, tensor.shape, tensor.memory())
                for name, tensor in request.inputs.items()
            ]
        job.response = InferenceResponse(self.name, "1", outputs, id=request.id, parameters=request.parameters)


class FakeEngine:
    def __init__(self) -> None:
        self.models = {name: FakeModel(name) for name in ("addsub", "identity", "held", "broken", "streams", "nothing")}
        self.ready = True
        self.exiting = False
        self.loads: list[Any] = []
        self.hold_load = False

    def is_live(self) -> bool:
        self._check_exiting()
        return True

    def is_ready(self) -> bool:
        self._check_exiting()
        return self.ready

    def _check_exiting(self) -> None:
        if self.exiting:
            raise ShuttingDown("Server exiting")

    def metadata(self) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="triton", version="1.2.3", extensions=["classification"])

    def model(self, name: str, version: int = LATEST) -> FakeModel:
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        if version not in (LATEST, 1):
            raise NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return model

    def model_metadata(self, name: str, version: int = LATEST) -> pb.ModelMetadataResponse:
        self.model(name, version)
        return pb.ModelMetadataResponse(name=name, versions=["1"], platform="fake")

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        self.model(name, version)
        return True

    def statistics(self, name: str = "", version: int = LATEST) -> list[pb.ModelStatistics]:
        return [
            pb.ModelStatistics(name=one, version="1", inference_count=3) for one in self.models if name in ("", one)
        ]

    def index(self, ready_only: bool = False) -> list[pb.RepositoryIndexResponseModelIndex]:
        return [pb.RepositoryIndexResponseModelIndex(name=name, version="1", state="READY") for name in self.models]

    async def load(self, name: str, *, config: str | None = None, files: dict[str, bytes] | None = None) -> None:
        self.loads.append(("load", name, config, files))
        if self.hold_load:
            await trio.sleep_forever()

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        self.loads.append(("unload", name, unload_dependents))
