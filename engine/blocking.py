"""The engine for programs that are not trio's: the same methods, callable from any thread, each blocking its caller.

with despina.blocking.open_engine("models/") as engine:
    result = engine.infer("addsub", {"INPUT0": a, "INPUT1": b})
"""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, Unpack

import trio

from .observe.trace_file import open_trace_file
from .opening import open_engine as open_async_engine
from .port.groups import single

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from ..schema.wire.generated.inference import (
        ModelMetadataResponse,
        ModelStatistics,
        RepositoryIndexResponseModelIndex,
        ServerMetadataResponse,
    )
    from .engine import Engine
    from .model.cache.keeper import Keeper
    from .model.hosted import HostedVersion
    from .observe.custom_metrics import CustomMetrics
    from .port.agent import RepositoryAgent
    from .port.backend import Backend
    from .port.cache import OpenCache
    from .port.options import EngineOptions
    from .port.settings import TraceSettings
    from .port.sink import TraceSink
    from .request.call import InferOptions, Result

_T = TypeVar("_T")


class BlockingEngine:
    """A handle on an engine that runs on its own thread. Safe to share between threads.

    A call blocks until it is answered; give `infer` a `timeout` to bound it. KeyboardInterrupt leaves a call at once
    only between its steps, as with any lock.
    """

    def __init__(self, engine: Engine, token: trio.lowlevel.TrioToken) -> None:
        self._engine = engine
        self._token = token

    def infer(self, model_name: str, inputs: Mapping[str, object], **options: Unpack[InferOptions]) -> Result:
        """See Engine.infer."""
        return self._await(lambda: self._engine.infer(model_name, inputs, **options))

    def stream(
        self, model_name: str, inputs: Mapping[str, object], **options: Unpack[InferOptions]
    ) -> Iterator[Result]:
        """See Engine.stream: the answers one by one."""
        answers = self._engine.stream(model_name, inputs, **options)
        try:
            while True:
                try:
                    yield self._await(lambda: anext(answers))
                except StopAsyncIteration:
                    return
        finally:
            self._await(answers.aclose)

    def load(self, name: str, *, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """See Engine.load."""
        self._await(lambda: self._engine.load(name, config=config, files=files))

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """See Engine.unload."""
        self._await(lambda: self._engine.unload(name, unload_dependents=unload_dependents))

    def register_model_repository(self, path: str, name_mapping: Mapping[str, str] | None = None) -> None:
        """See Engine.register_model_repository."""
        self._await(lambda: self._engine.register_model_repository(path, name_mapping))

    def unregister_model_repository(self, path: str) -> None:
        """See Engine.unregister_model_repository."""
        self._call(lambda: self._engine.unregister_model_repository(path))

    def poll(self) -> None:
        """See Engine.poll."""
        self._await(self._engine.poll)

    def metadata(self) -> ServerMetadataResponse:
        """See Engine.metadata."""
        return self._call(self._engine.metadata)

    def measured(self) -> tuple[list[HostedVersion], CustomMetrics, Keeper | None]:
        """What a metrics page shows: the versions that serve, the models' own families, the cache if there is one."""
        engine = self._engine
        return self._call(lambda: (list(engine.versions()), engine.custom_metrics, engine.cache))

    def index(self, ready_only: bool = False) -> list[RepositoryIndexResponseModelIndex]:
        """See Engine.index."""
        return self._await(lambda: self._engine.index(ready_only))

    def model(self, name: str, version: int = -1) -> HostedVersion:
        """See Engine.model. Read its configuration and statistics; do not call what submits."""
        return self._call(lambda: self._engine.model(name, version))

    def model_metadata(self, name: str, version: int = -1) -> ModelMetadataResponse:
        """See Engine.model_metadata."""
        return self._call(lambda: self._engine.model_metadata(name, version))

    def statistics(self, name: str = "", version: int = -1) -> list[ModelStatistics]:
        """See Engine.statistics."""
        return self._call(lambda: self._engine.statistics(name, version))

    def is_live(self) -> bool:
        return self._call(self._engine.is_live)

    def is_ready(self) -> bool:
        return self._call(self._engine.is_ready)

    def _await(self, call: Callable[[], Awaitable[_T]]) -> _T:
        return trio.from_thread.run(call, trio_token=self._token)

    def _call(self, call: Callable[[], _T]) -> _T:
        return trio.from_thread.run_sync(call, trio_token=self._token)


@contextmanager
def open_engine(
    model_repository: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    backends: Mapping[str, Backend] | None = None,
    open_traces: Callable[[TraceSettings], TraceSink] = open_trace_file,
    agents: Mapping[str, RepositoryAgent] | None = None,
    caches: Mapping[str, OpenCache] = MappingProxyType({}),
    **options: Unpack[EngineOptions],
) -> Iterator[BlockingEngine]:
    """As `despina.open_engine`, for a `with` block. The engine runs on a thread of its own until the block ends."""
    opened: queue.SimpleQueue[BlockingEngine | BaseException] = queue.SimpleQueue()
    closing: list[Callable[[], None]] = []
    ended: list[BaseException] = []

    async def main() -> None:
        close = trio.Event()
        closing.append(close.set)
        async with open_async_engine(
            model_repository, backends=backends, open_traces=open_traces, agents=agents, caches=caches, **options
        ) as engine:
            opened.put(BlockingEngine(engine, trio.lowlevel.current_trio_token()))
            await close.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # raised again in the thread that waits
            ended.append(error)
            opened.put(error)

    thread = threading.Thread(target=run, name="despina/engine", daemon=True)
    thread.start()
    handle = opened.get()
    if not isinstance(handle, BlockingEngine):
        thread.join()
        raise single(handle)
    try:
        yield handle
    finally:
        with suppress(trio.RunFinishedError):  # the engine has ended by itself; `ended` says why
            handle._token.run_sync_soon(closing[0])
        thread.join()
    if ended:
        raise single(ended[0])
