"""One server of an application: an engine on a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import trio

from ...engine.engine import Engine
from ...engine.observe.trace_file import open_trace_file
from ...engine.port.groups import single
from ...native.servers import note_server
from ...schema.fault import Fault, Internal, Unsupported
from ..cli.log_format import configure_logging
from ..cli.repositories import check_repositories
from ..metrics.collector import EngineCollector
from ..metrics.gpu import open_gpus
from ..metrics.machine import Machine
from .face import EngineFace
from .options import settings_of
from .publishing import Publisher
from .pump import Pump

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cli.settings import ServeSettings
    from ..log_settings import LogSettings
    from .options import Note

log = logging.getLogger("despina.capi")
_T = TypeVar("_T")


class ApplicationServer(EngineFace):
    """Made and started by one thread; then for any."""

    def __init__(self, address: int, notes: Sequence[Note], *, sets_logging: bool) -> None:
        """`address` is the library's object. Raises InvalidArgument for options that cannot be."""
        super().__init__(address)
        self._settings = settings_of(notes)
        self._sets_logging = sets_logging
        self._opened: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._closing: trio.Event
        self._exit_timeout: float = self._settings.engine.exit_timeout_secs
        self._stop_fault: Fault | None = None
        self._thread = threading.Thread(target=self._run, name="despina/server", daemon=True)

    # --- Life

    def start(self) -> None:
        """Returns when the start-up models are loaded. Raises what keeps the engine from starting."""
        check_repositories(self._settings.engine.model_repository)
        if self._sets_logging:
            configure_logging(self._settings.log)
        self._native.log_levels(_log_levels(self._settings.log))
        self._thread.start()
        problem = self._opened.get()
        if problem is not None:
            self._thread.join()
            raise single(problem)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as problem:  # told whoever waits for the start, else there is only the log
            log.error("the server has ended", exc_info=problem)
            self._opened.put(problem)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._closing = trio.Event()
        self._engine = engine = Engine(self._settings.engine, open_traces=open_trace_file)
        note_server(engine.nesting, self._address)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                self._pump = Pump(self._native, self._address, engine)
                publisher = Publisher(self._native, self._address, engine)
                self._collector = _collector(self._settings, engine)
                try:
                    publisher.publish()
                    nursery.start_soon(publisher.run)
                    nursery.start_soon(self._pump.run)
                    self._opened.put(None)
                    await self._closing.wait()
                    await self._stop_engine()
                finally:
                    self._pump.close()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise single(group) from None

    async def _stop_engine(self) -> None:
        try:
            with trio.move_on_after(self._exit_timeout):
                await self._engine.stop()
                return
            raise Internal("Exit timeout expired. Exiting immediately.")
        except Fault as fault:
            self._stop_fault = fault

    def stop(self) -> bytes:
        """Refuses new work and finishes what is in flight. Raises Internal when that took too long."""
        self._await(self._stop_engine)
        self._raise_stop_fault()
        return b""

    def delete(self) -> bytes:
        """The same, and ends the thread."""
        if self._thread.is_alive():
            self._token.run_sync_soon(self._closing.set)
            self._thread.join()
        self._raise_stop_fault()
        return b""

    def _raise_stop_fault(self) -> None:
        fault, self._stop_fault = self._stop_fault, None
        if fault is not None:
            raise fault

    def exit_timeout(self, seconds: int) -> bytes:
        """Of a `stop` or `delete` that follows: shorter than the one that the server was made with, or the same."""
        self._exit_timeout = float(seconds)
        return b""

    def metrics(self) -> bytes:
        """Raises Unsupported where they are switched off."""
        if not self._settings.doors.allow_metrics:
            raise Unsupported("metrics not supported")
        return super().metrics()


def _log_levels(settings: LogSettings) -> int:
    return settings.info | settings.warning << 1 | settings.error << 2 | (settings.verbose > 0) << 3


def _collector(settings: ServeSettings, engine: Engine) -> EngineCollector:
    metrics = settings.metrics
    interval_s = metrics.interval_ms / 1000
    return EngineCollector(
        machine=Machine(interval_s, time.monotonic) if metrics.allow_cpu_metrics else None,
        gpus=open_gpus(interval_s, time.monotonic) if metrics.allow_gpu_metrics else None,
        settings=metrics,
        custom=engine.custom_metrics,
        cache=engine.cache,
    )
