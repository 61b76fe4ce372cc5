"""A backend that tests script, and repositories of models for it.

    FakeBackend ── open_model ──▶ FakeModel ── open_instance ──▶ FakeTask (awaited)  or  FakeThread (on its own thread)

A model answers its requests with their inputs: that of INx is the output OUTx. What
else should happen (a wait, a hold, a failure) is a function that the test puts into `FakeBackend.execute`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio
from despina.engine.port.backend import InstanceContext, InstanceKind, ModelContext
from despina.engine.port.foreign import as_fault
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.schema.fault import Fault
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import ModelConfig

Execute = Callable[[Batch], Awaitable[None]]


def answer(batch: Batch, but: Sequence[Job] = ()) -> None:
    """Gives every job of the batch its inputs back as outputs, in order; not some of them."""
    for job in batch.jobs:
        if job in but:
            continue
        job.respond(
            [
                Tensor(name.replace("IN", "OUT"), tensor.datatype, tensor.shape, array=tensor.numpy())
                for name, tensor in job.request.inputs.items()
            ]
        )


@attrs.define
class Executed:
    """What one execution worked on."""

    model: str
    version: int
    instance: str
    ids: list[str]
    size: int
    reason: str
    at: float
    """When it began: in seconds of trio's clock for awaited executors, of the monotonic clock for threads."""


class FakeBackend:
    """Hand it to `open_engine(..., backends={"fake": ...})`. Its attributes may be changed at any time."""

    preferred_kind: InstanceKind | None = None

    def __init__(self, *, asynchronous: bool = True, movable: bool = False, cost_s: float = 0.0) -> None:
        self.name = "fake"
        self.asynchronous = asynchronous
        self.prompt = False
        """Asynchronous models begin every other batch without waiting."""
        self.movable = movable
        self.cost_s = cost_s
        """Virtual seconds that one execution takes, where `execute` is not replaced."""
        self.execute: Execute = self._echo
        """For asynchronous models: awaited with each batch."""
        self.execute_sync: Callable[[Batch], None] = answer
        """For threaded models."""
        self.open_errors: dict[tuple[str, int], BaseException] = {}
        """(model, version) -> what opening it raises."""
        self.instance_error: BaseException | None = None
        self.instances_before_error = 0
        """How many instances are opened before `instance_error` is raised for the next."""
        self.close_error: BaseException | None = None
        self.open_gates: dict[str, threading.Event] = {}
        """Model -> what opening it waits for, on the loading thread."""
        self.opening = threading.Semaphore(0)
        """Released each time that opening a model begins."""
        self.opened: list[tuple[str, int]] = []
        self.closed: list[tuple[str, int]] = []
        self.contexts: list[ModelContext] = []
        self.models: list[FakeModel] = []
        self.instances_open = 0
        self.executed: list[Executed] = []

    @property
    def ids(self) -> list[list[str]]:
        """The request ids of each execution so far."""
        return [one.ids for one in self.executed]

    def open_model(self, context: ModelContext) -> FakeModel:
        self.contexts.append(context)
        self.opening.release()
        gate = self.open_gates.get(context.name)
        if gate is not None and not gate.wait(30):
            raise TimeoutError("the test never opened the gate")
        error = self.open_errors.get((context.name, context.version))
        if error is not None:
            raise error
        self.opened.append((context.name, context.version))
        self.models.append(FakeModel(self, context))
        return self.models[-1]

    def config_summary(self) -> str:
        return "scripted"

    async def _echo(self, batch: Batch) -> None:
        if self.cost_s:
            await trio.sleep(self.cost_s)
        answer(batch)

    def note(self, batch: Batch, model: ModelContext, instance: str, at: float) -> None:
        ids = [job.request.id for job in batch.jobs]
        self.executed.append(Executed(model.name, model.version, instance, ids, batch.size, batch.reason, at))


class FakeModel:
    def __init__(self, backend: FakeBackend, context: ModelContext) -> None:
        self.backend = backend
        self.context = context
        self.config: ModelConfig = context.config
        self.asynchronous = backend.asynchronous

    def open_instance(self, instance: InstanceContext) -> FakeTask | FakeThread:
        backend = self.backend
        if backend.instance_error is not None and backend.instances_open >= backend.instances_before_error:
            raise backend.instance_error
        self.backend.instances_open += 1
        fake = (FakePrompt if backend.prompt else FakeTask) if self.asynchronous else FakeThread
        return fake(self.backend, self.context, instance)

    def close(self) -> None:
        self.backend.closed.append((self.context.name, self.context.version))


class FakeTask:
    movable = False

    def __init__(self, backend: FakeBackend, model: ModelContext, context: InstanceContext) -> None:
        self.backend = backend
        self.model = model
        self.context = context

    async def open(self, nursery: trio.Nursery) -> None:
        pass

    async def execute_async(self, batch: Batch) -> None:
        self.backend.note(batch, self.model, self.context.name, trio.current_time())
        await self.backend.execute(batch)

    async def aclose(self) -> None:
        self.backend.instances_open -= 1
        if self.backend.close_error is not None:
            raise self.backend.close_error


class FakePrompt(FakeTask):
    """See port/backend.py: AsyncInstance."""

    async def open(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._asked = 0

    def begin(self, batch: Batch, over: Callable[[Fault | None], None]) -> bool:
        self._asked += 1
        if self._asked % 2:
            self._nursery.start_soon(self._execute, batch, over)
        return bool(self._asked % 2)

    async def _execute(self, batch: Batch, over: Callable[[Fault | None], None]) -> None:
        fault = None
        try:
            await self.execute_async(batch)
        except (Exception, SystemExit) as caught:
            fault = as_fault(caught)
        over(fault)


class FakeThread:
    def __init__(self, backend: FakeBackend, model: ModelContext, context: InstanceContext) -> None:
        self.backend = backend
        self.model = model
        self.context = context
        self.movable = backend.movable
        self.threads: set[int] = set()

    def execute(self, batch: Batch) -> None:
        self.threads.add(threading.get_ident())
        self.backend.note(batch, self.model, self.context.name, time.monotonic())
        self.backend.execute_sync(batch)

    def close(self) -> None:
        self.backend.instances_open -= 1
        if self.backend.close_error is not None:
            raise self.backend.close_error


class Gate:
    """An `execute` that holds each batch until the test lets it go, oldest first."""

    def __init__(self) -> None:
        self.held: list[Batch] = []
        self._events: list[trio.Event] = []

    async def __call__(self, batch: Batch) -> None:
        event = trio.Event()
        self.held.append(batch)
        self._events.append(event)
        await event.wait()
        answer(batch)

    def release(self, index: int = 0) -> None:
        """Lets the held batch at `index` (the oldest) be answered."""
        self.held.pop(index)
        self._events.pop(index).set()


class Keeper:
    """Keeps something for a generation, and counts how often it was told that one is over."""

    def __init__(self) -> None:
        self.told = 0

    def let_go(self) -> None:
        self.told += 1


def tensor_text(kind: str, name: str, datatype: str = "TYPE_INT32", dims: Sequence[int] = (1,), more: str = "") -> str:
    """One `input` or `output` entry of config.pbtxt."""
    return f'{kind} [{{ name: "{name}" data_type: {datatype} dims: [{", ".join(map(str, dims))}] {more} }}]\n'


SCALAR_IO = tensor_text("input", "IN") + tensor_text("output", "OUT")


def config_text(
    *,
    max_batch_size: int = 8,
    instances: int = 1,
    tensors: str = SCALAR_IO,
    more: str = "",
    backend: str = "fake",
    group: str = "",
) -> str:
    """A config.pbtxt for the fake backend: by default one INT32 in, the same out. `group` is more of its group."""
    return (
        f'backend: "{backend}"\nmax_batch_size: {max_batch_size}\n{tensors}'
        f"instance_group [{{ count: {instances} kind: KIND_CPU {group} }}]\n{more}\n"
    )


def write_model(
    repository: Path, name: str, *, versions: Iterable[int | str] = (1,), config: str | None = None, **options: Any
) -> Path:
    """Writes (or overwrites) one model; options as for `config_text`. Returns its directory."""
    path = repository / name
    path.mkdir(parents=True, exist_ok=True)
    for version in versions:
        (path / str(version)).mkdir(exist_ok=True)
    (path / "config.pbtxt").write_text(config_text(**options) if config is None else config)
    return path


Step = tuple[str, dict[str, str], dict[str, str]]
"""A model (or "model:version"), the ensemble's tensors by the model's inputs, and by its outputs."""


def ensemble_text(
    *,
    steps: Sequence[Step],
    inputs: Sequence[str] = ("IN",),
    outputs: Sequence[str] = ("OUT",),
    max_batch_size: int = 8,
    max_inflight: int = 0,
    more: str = "",
) -> str:
    """A config.pbtxt for an ensemble of INT32 tensors with one element."""
    text = f'platform: "ensemble"\nmax_batch_size: {max_batch_size}\n{more}\n'
    text += "".join(tensor_text("input", name) for name in inputs)
    text += "".join(tensor_text("output", name) for name in outputs)
    text += "ensemble_scheduling {\n" + (f"max_inflight_requests: {max_inflight}\n" if max_inflight else "")
    for model, reads, writes in steps:
        name, _, version = model.partition(":")
        text += f'step {{ model_name: "{name}" model_version: {version or -1} '
        text += " ".join(f'input_map {{ key: "{key}" value: "{tensor}" }}' for key, tensor in reads.items())
        text += " ".join(f' output_map {{ key: "{key}" value: "{tensor}" }}' for key, tensor in writes.items())
        text += " }\n"
    return text + "}\n"


def chain(*models: str) -> list[Step]:
    """Steps one after the other, each from IN to OUT."""
    tensors = ["IN", *(f"between{index}" for index in range(1, len(models))), "OUT"]
    return [(model, {"IN": tensors[i]}, {"OUT": tensors[i + 1]}) for i, model in enumerate(models)]


def write_ensemble(repository: Path, name: str, *, versions: Iterable[int | str] = (1,), **options: Any) -> Path:
    """Writes (or overwrites) one ensemble; options as for `ensemble_text`. Returns its directory."""
    return write_model(repository, name, versions=versions, config=ensemble_text(**options))


def touch(path: Path, seconds: float) -> None:
    """Moves a file's time ahead, so that no two writes fall into one tick of the file system."""
    stamp = path.stat().st_mtime_ns + int(seconds * 1e9)
    os.utime(path, ns=(stamp, stamp))


def request(
    model: str = "m", value: int = 0, *, rows: int = 1, id: str = "", batching: bool = True, **options: Any
) -> InferenceRequest:
    """A request for a model written by `write_model` with default tensors."""
    array = np.full((rows, 1) if batching else (1,), value, np.int32)
    return InferenceRequest(model, {"IN": Tensor.of("IN", array)}, id=id, **options)


def value_of(response: Any) -> int:
    """The number that such a request carried, out of its answer."""
    return int(response.outputs[0].numpy().ravel()[0])


async def inline_run_sync(
    function: Callable[..., Any], *args: Any, limiter: trio.CapacityLimiter | None = None, **_: Any
) -> Any:
    """Stands in for `trio.to_thread.run_sync` on virtual time: an autojump clock does not wait for real threads."""
    async with limiter or nullcontext():
        await trio.lowlevel.checkpoint()
        return function(*args)
