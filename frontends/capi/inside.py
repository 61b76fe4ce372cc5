"""The server that backends in C++ ask other models by, where no C program has made it: the engine that serves them.

Made when a library asks for the first time. It is the program's, so a library cannot stop it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ...schema.fault import Unsupported
from ..metrics.collector import EngineCollector
from ..metrics.settings import MetricsSettings
from . import control
from .face import EngineFace
from .publishing import Publisher
from .pump import Pump
from .requests import LibraryRequest

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...native.extension_port import Extension


async def serve_libraries(
    native: Extension, address: int, engine: Engine, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answers for the library's object until it is cancelled, on the engine's thread."""
    server = InsideServer(address, engine)
    publisher = Publisher(native, address, engine)
    control.answer_library(native)
    control.add(address, server)
    try:
        publisher.publish()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.run)
            nursery.start_soon(server.pump.run)
            task_status.started()
    finally:
        server.pump.close()
        control.remove(address)


class LibraryPump(Pump):
    """Of requests that libraries make."""

    request_type = LibraryRequest


class InsideServer(EngineFace):
    """What libraries see of it."""

    def __init__(self, address: int, engine: Engine) -> None:
        super().__init__(address)
        self._token = trio.lowlevel.current_trio_token()
        self._engine = engine
        self._pump = self.pump = LibraryPump(self._native, address, engine)
        self._collector = EngineCollector(
            machine=None, gpus=None, settings=MetricsSettings(), custom=engine.custom_metrics, cache=engine.cache
        )

    def stop(self) -> bytes:
        raise Unsupported("the server belongs to the program that has started it: a library cannot stop it")

    def delete(self) -> bytes:
        raise Unsupported("the server belongs to the program that has started it: a library cannot delete it")

    def exit_timeout(self, seconds: int) -> bytes:
        raise Unsupported("the server belongs to the program that has started it: a library cannot set its timeouts")
