"""An engine for the length of a block: opened with its start-up models, stopped when the block ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack

import trio

from .engine import Engine
from .observe.trace_file import open_trace_file
from .port.groups import single
from .port.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from .port.agent import RepositoryAgent
    from .port.backend import Backend
    from .port.cache import OpenCache
    from .port.options import EngineOptions
    from .port.settings import TraceSettings
    from .port.sink import TraceSink


@asynccontextmanager
async def open_engine(
    model_repository: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    backends: Mapping[str, Backend] | None = None,
    open_traces: Callable[[TraceSettings], TraceSink] = open_trace_file,
    agents: Mapping[str, RepositoryAgent] | None = None,
    caches: Mapping[str, OpenCache] = MappingProxyType({}),
    **options: Unpack[EngineOptions],
) -> AsyncIterator[Engine]:
    """An engine over one model repository, or several, for the length of an `async with` block.

    Options are the command line's, with underscores (see EngineSettings). `open_traces` is for traces that do not go
    to files (see TraceSettings), `agents` and `caches` are those that no entry point names. Entering waits until the
    start-up models are loaded; leaving refuses new work and finishes what is in flight. Raises Internal when a start-up
    model does not load, TypeError or ValueError for options that cannot be, alone or together.
    """
    paths = [model_repository] if isinstance(model_repository, str | PathLike) else model_repository
    settings = EngineSettings(model_repository=[str(path) for path in paths], **options)
    engine = Engine(settings, backends, open_traces, agents, caches)
    try:
        async with trio.open_nursery() as nursery:
            running = trio.CancelScope()

            async def run(task_status: trio.TaskStatus[None]) -> None:
                with running:
                    await engine.run(task_status)

            await nursery.start(run)
            # Cancelling the block must not cut off what is in flight for others: the engine ends by `stop` only.
            running.shield = True
            try:
                yield engine
            finally:
                try:
                    with trio.CancelScope(shield=True):
                        # Bounded by exit_timeout_secs: what is in flight belongs to callers who still wait for it.
                        await engine.stop()
                finally:
                    running.cancel()
    except BaseExceptionGroup as group:
        # That there is a nursery in here is no business of the block's: its errors leave as they were raised.
        raise single(group) from None
