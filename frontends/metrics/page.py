"""The metrics door: `GET /metrics`, and health, on its own port, on the HTTP door's listener."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import trio
from prometheus_client import CollectorRegistry

from ...native.pages import metrics_page
from ...schema.kserve_http_reply import encode_error
from ..answers import readiness
from ..http.connection.listener import Listener
from ..http.request.request import JSON
from ..http.settings import HttpSettings
from . import openmetrics
from .collector import EngineCollector
from .exposition import CONTENT_TYPE, text_of
from .gpu import open_gpus
from .machine import Machine

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence

    from trio import TaskStatus

    from ...engine.model.cache.keeper import Keeper
    from ...engine.model.hosted import HostedVersion
    from ...engine.observe.custom_metrics import CustomMetrics
    from ...engine.port.caller import Health
    from ..http.request.request import HttpRequest
    from .settings import MetricsSettings

LIMITS: Final = HttpSettings(connection_count_max=64, body_bytes_max=64 * 1024, recycled_bytes_max=0)
MODELS_INLINE_MAX: Final = 10
"""A page costs about 90 us a model; beyond so many it is written in a worker thread."""


class HasVersions(Protocol):
    """What the page asks of an engine."""

    custom_metrics: CustomMetrics
    cache: Keeper | None

    def versions(self) -> Iterable[HostedVersion]: ...

    def health(self) -> Health: ...


class MetricsPage:
    """Answers scrapes. Other collectors may be registered with `registry`; they are read on a worker thread or not."""

    def __init__(self, engine: HasVersions, settings: MetricsSettings, nursery: trio.Nursery) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._engine = engine
        self._nursery = nursery
        interval_s = settings.interval_ms / 1000
        machine = Machine(interval_s, time.monotonic) if settings.allow_cpu_metrics else None
        gpus = open_gpus(interval_s, time.monotonic) if settings.allow_gpu_metrics else None
        self._collector = EngineCollector(
            machine=machine, gpus=gpus, settings=settings, custom=engine.custom_metrics, cache=engine.cache
        )
        self.registry.register(self._collector)
        self._writing = trio.Lock()

    def answer(self, request: HttpRequest) -> None:
        """The handler of the door's listener: never blocks. Health is told here, too, for this door outlives the
        others; other paths are an empty 200, other methods a 405."""
        if request.method != b"GET":
            request.reply(405, b"text/plain", [encode_error("Method Not Allowed")])
        elif request.path == b"/v2/health/live":
            request.reply(200)
        elif request.path == b"/v2/health/ready":
            health = self._engine.health()
            request.reply(200 if health.ready else 400, JSON, [readiness(health)])
        elif request.path not in (b"/metrics", b"/metrics/"):
            request.reply(200, CONTENT_TYPE)
        else:
            self._collector.versions = list(self._engine.versions())
            if openmetrics.is_asked_for(request.headers.get(b"accept")):
                content_type, write = openmetrics.CONTENT_TYPE, self._openmetrics
            else:
                content_type, write = CONTENT_TYPE, self._text
            if len(self._collector.versions) <= MODELS_INLINE_MAX and not self._writing.locked():
                request.reply(200, content_type, [write()])
            else:
                self._nursery.start_soon(self._answer_by_thread, request, content_type, write)

    async def _answer_by_thread(self, request: HttpRequest, content_type: bytes, write: Callable[[], bytes]) -> None:
        try:
            async with self._writing:
                text = await trio.to_thread.run_sync(write)
            request.reply(200, content_type, [text])
        except Exception as problem:
            request.break_off(problem)

    def _text(self) -> bytes:
        return text_of(self.registry.collect()) + metrics_page()

    def _openmetrics(self) -> bytes:
        return openmetrics.openmetrics_of(self.registry.collect(), metrics_page())


async def serve_metrics(
    engine: HasVersions,
    settings: MetricsSettings,
    *,
    sockets: Sequence[socket.socket],
    task_status: TaskStatus[MetricsServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves the page on `sockets`, which are bound, listening and from now on ours to close.

    Starts with the MetricsServer as its value and returns when that has drained.
    """
    async with trio.open_nursery() as nursery:
        server = MetricsServer(Listener(sockets, MetricsPage(engine, settings, nursery).answer, LIMITS))
        nursery.start_soon(server.listener.run)
        task_status.started(server)
        await server.drained.wait()
        nursery.cancel_scope.cancel()


class MetricsServer:
    """A running metrics door, for whoever stops it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.drained = trio.Event()

    def announce_end(self) -> None:
        """Nothing: this door is the last to close."""

    def reload_tls(self) -> bool:
        """This door speaks no TLS."""
        return False

    def stop_accepting(self) -> None:
        """Closes the listening sockets; scrapes that are under way are answered."""
        self.listener.stop_accepting()

    async def drain(self, deadline: float) -> None:
        """Answers what is under way, closes what is left at `deadline` (trio's clock, seconds), and ends."""
        await self.listener.drain(deadline)
        self.drained.set()
