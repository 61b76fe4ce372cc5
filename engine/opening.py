"""An engine for the length of a block: opened with its start-up models, stopped when the block ends."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack

import trio

from .engine import Engine
from .observe.trace_file import open_trace_file
from .port.groups import single
from .port.options import settings_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from os import PathLike

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
    model does not load, TypeError or ValueError for options that cannot be, alone or together, RuntimeError where
    trio does not run: the words say what to use under asyncio.
    """
    _refuse_other_loops()
    settings = settings_of(model_repository, **options)
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


def _refuse_other_loops() -> None:
    """Before anything is opened that only trio could close."""
    if trio.lowlevel.in_trio_run():
        return
    if _is_asyncio_running():
        raise RuntimeError(
            "despina.open_engine runs on trio, and this is asyncio. Use despina.blocking.open_engine instead, whose "
            "engine has a thread of its own: `result = await asyncio.to_thread(engine.infer, name, inputs)`. Or give "
            "trio a thread: `await asyncio.to_thread(trio.run, main)`"
        )
    raise RuntimeError(
        "despina.open_engine runs on trio, which is not running here. Call it below `trio.run(main)`; for programs "
        "without trio there is despina.blocking.open_engine"
    )


def _is_asyncio_running() -> bool:
    asyncio = sys.modules.get("asyncio")  # a program that has not imported it runs none
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
