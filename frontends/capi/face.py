"""What the C API asks of one engine. Methods are called on the application's threads, with arguments as JSON has them,
and give the text of the answer; what they ask is carried out on the engine's thread.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from ...native.loading import extension
from ...native.pages import metrics_page
from ...schema.config_json import config_to_json
from ...schema.fault import NotLoaded, ShuttingDown, Unavailable
from ..answers import model_metadata, repository_index, server_metadata, statistics
from ..metrics.exposition import text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ...engine.engine import Engine
    from ..metrics.collector import EngineCollector
    from .pump import Pump

_T = TypeVar("_T")


class EngineFace:
    """Of a server that has an engine, a pump and a collector of metrics."""

    def __init__(self, address: int) -> None:
        """`address` is the library's object."""
        self._native = extension()
        self._address = address
        self._token: trio.lowlevel.TrioToken
        self._engine: Engine
        self._pump: Pump
        self._collector: EngineCollector

    def sweep(self) -> None:
        """Lets go of outputs that were delivered last."""
        self._native.sweep(self._address)

    # --- Health and descriptions

    def live(self) -> bytes:
        return _truth(self._healthy(lambda: self._engine.is_live()))

    def ready(self) -> bytes:
        return _truth(self._healthy(lambda: self._engine.is_ready()))

    def _healthy(self, ask: Callable[[], bool]) -> bool:
        try:
            return self._call(ask)
        except ShuttingDown:
            return False

    def model_ready(self, name: str, version: int) -> bytes:
        return _truth(self._await(lambda: self._engine.says_ready(name, version)))

    def find(self, name: str, version: int) -> bytes:
        """Raises NotFound or NotReady for a model that cannot be asked; one that loads on request can."""
        with suppress(NotLoaded):
            self._call(lambda: self._engine.model(name, version))
        return b""

    def batches(self, name: str, version: int) -> bytes:
        return _truth(self._call(lambda: self._engine.model(name, version).config.max_batch_size > 0))

    def decoupled(self, name: str, version: int) -> bytes:
        return _truth(self._call(lambda: self._engine.model(name, version).decoupled))

    def metadata(self) -> bytes:
        return server_metadata(self._call(lambda: self._engine.metadata()))

    def model_metadata(self, name: str, version: int) -> bytes:
        return model_metadata(self._call(lambda: self._engine.model_metadata(name, version)))

    def statistics(self, name: str, version: int) -> bytes:
        return statistics(self._call(lambda: self._engine.statistics(name, version)))

    def config(self, name: str, version: int) -> bytes:
        return config_to_json(self._call(lambda: self._engine.model(name, version).config))

    def index(self, ready_only: bool) -> bytes:
        return repository_index(self._await(lambda: self._engine.index(ready_only)))

    def metrics(self) -> bytes:
        """The page, with the families that applications and libraries have made."""
        self._collector.versions = self._call(lambda: list(self._engine.versions()))
        return text_of(self._collector.collect()) + metrics_page()

    # --- Commands

    def load(self, name: str, config: str | None, files: Mapping[str, bytes]) -> bytes:
        self._await(lambda: self._engine.load(name, config=config, files=files or None))
        return b""

    def unload(self, name: str, dependents: bool) -> bytes:
        self._await(lambda: self._engine.unload(name, unload_dependents=dependents))
        return b""

    def register(self, path: str, mapping: Mapping[str, str]) -> bytes:
        self._await(lambda: self._engine.register_model_repository(path, mapping))
        return b""

    def unregister(self, path: str) -> bytes:
        self._call(lambda: self._engine.unregister_model_repository(path))
        return b""

    def poll(self) -> bytes:
        self._await(lambda: self._engine.poll())
        return b""

    # --- Inference that the library did not let in by itself

    def submit(self, request: int) -> bytes:
        """Raises the fault that refuses the request."""
        taken = self._native.take(request)
        self._call(lambda: self._pump.start(taken))
        return b""

    # --- Inside

    def _call(self, call: Callable[[], _T]) -> _T:
        try:
            return trio.from_thread.run_sync(call, trio_token=self._token)
        except trio.RunFinishedError:
            raise Unavailable("Server not ready") from None

    def _await(self, call: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return trio.from_thread.run(call, trio_token=self._token)
        except trio.RunFinishedError:
            raise Unavailable("Server not ready") from None


def _truth(value: bool) -> bytes:
    return b"true" if value else b"false"
