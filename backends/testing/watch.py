"""A backend seen from outside: what of it lives, what it executes; and executions held until a test lets them go.

WatchedBackend ─ open_model ─▶ WatchedModel ─ open_instance ─▶ WatchedInstance, or WatchedTask if it is awaited
"""

from __future__ import annotations

import contextlib
import gc
import resource
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

if TYPE_CHECKING:
    from ...engine.port.backend import (
        AsyncInstance,
        Backend,
        BackendInstance,
        BackendModel,
        InstanceContext,
        ModelContext,
    )
    from ...engine.port.work import Batch
    from ...schema.wire.generated.inference import ModelConfig

HELD_S_MAX = 60.0


class Watch:
    """What a test knows of the backend, and how it holds it. Made on the trio thread that uses it."""

    def __init__(self, *, holds: bool = False) -> None:
        self.holds = holds
        """Each execution waits for `let_go`. On an instance's own thread, so that the trio thread does not wait."""
        self.executed: list[list[str]] = []
        """The ids of each batch's requests."""
        self.changed_configuration = False
        self._living: list[weakref.ref[Any]] = []
        self._gone = threading.Event()
        self._gone_too = trio.Event()
        self._entered = trio.Semaphore(0)
        self._token = trio.lowlevel.current_trio_token()

    def let_go(self) -> None:
        """What is held is executed, and what comes later at once."""
        self._gone.set()
        self._gone_too.set()

    async def entered(self) -> None:
        """Returns once another batch is about to be executed."""
        await self._entered.acquire()

    def living(self) -> list[Any]:
        """Models and instances of the backend that somebody still holds."""
        if any(reference() is not None for reference in self._living):  # may be in a circle only
            gc.collect()
        return [found for reference in self._living if (found := reference()) is not None]

    def note(self, made: object) -> None:
        with contextlib.suppress(TypeError):  # one of a compiled class, which lives unseen
            self._living.append(weakref.ref(made))

    def begin(self, batch: Batch) -> None:
        self.executed.append([job.request.id for job in batch.jobs])
        self._token.run_sync_soon(self._entered.release)

    def wait(self) -> None:
        if self.holds and not self._gone.wait(HELD_S_MAX):
            raise TimeoutError("the test never let the batch go")

    async def wait_async(self) -> None:
        if self.holds:
            await self._gone_too.wait()


class WatchedBackend:
    """In the place of the backend."""

    def __init__(self, backend: Backend, watch: Watch) -> None:
        self._backend = backend
        self._watch = watch
        self.name = backend.name
        self.preferred_kind = backend.preferred_kind
        self.settings = getattr(backend, "settings", None)

    def open_model(self, context: ModelContext) -> WatchedModel:
        before = bytes(context.config)
        model = self._backend.open_model(context)
        self._watch.changed_configuration |= bytes(context.config) != before
        self._watch.note(model)
        return WatchedModel(model, self._watch)

    def config_summary(self) -> str:
        return self._backend.config_summary()


@attrs.define
class WatchedModel:
    _model: BackendModel
    _watch: Watch

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._model.config = config

    @property
    def asynchronous(self) -> bool:
        return bool(getattr(self._model, "asynchronous", False))

    def open_instance(self, instance: InstanceContext) -> WatchedInstance | WatchedTask:
        opened: Any = self._model.open_instance(instance)
        self._watch.note(opened)
        return WatchedTask(opened, self._watch) if self.asynchronous else WatchedInstance(opened, self._watch)

    def close(self) -> None:
        self._model.close()


@attrs.define
class WatchedInstance:
    _instance: BackendInstance
    _watch: Watch

    @property
    def movable(self) -> bool:
        return self._instance.movable and not self._watch.holds

    def execute(self, batch: Batch) -> None:
        self._watch.begin(batch)
        self._watch.wait()
        self._instance.execute(batch)

    def close(self) -> None:
        self._instance.close()


@attrs.define
class WatchedTask:
    _instance: AsyncInstance
    _watch: Watch

    async def open(self, nursery: trio.Nursery) -> None:
        await self._instance.open(nursery)

    async def execute_async(self, batch: Batch) -> None:
        self._watch.begin(batch)
        await self._watch.wait_async()
        await self._instance.execute_async(batch)

    async def aclose(self) -> None:
        await self._instance.aclose()


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
