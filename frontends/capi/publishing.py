"""Tells the library which models are ready, so that it lets most requests in by itself, without asking Python.

What it is told holds for one generation; when that is over it is told nothing, and then anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ...schema.datatype import BY_NUMBER
from ...schema.fault import Fault

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.model.hosted import HostedVersion
    from ...native.extension_port import Extension


class Publisher:
    """For the trio thread. `run` goes on until it is cancelled."""

    def __init__(self, native: Extension, server: int, engine: Engine) -> None:
        self._native = native
        self._server = server
        self._engine = engine
        self._changed = trio.Event()

    def let_go(self) -> None:
        """The generation is over."""
        self._native.publish(self._server, [])
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed = trio.Event()
            self.publish()
            await self._changed.wait()

    def publish(self) -> None:
        self._engine.generation.keep(self)
        self._native.publish(
            self._server, [self._facts(model) for model in self._engine.versions() if self._is_it(model)]
        )

    def _is_it(self, model: HostedVersion) -> bool:
        """Whether clients mean it by its name: with namespaces another may bear it, too."""
        return self._found(model.name, model.version) is model

    def _found(self, name: str, version: int) -> HostedVersion | None:
        try:
            return self._engine.model(name, version)
        except Fault:
            return None

    def _facts(self, model: HostedVersion) -> tuple[Any, ...]:
        config = model.config
        batches = config.max_batch_size > 0
        return (
            model.name,
            model.version,
            self._found(model.name, -1) is model,
            model.remembers,
            model.decoupled,
            config.max_batch_size,
            [
                (
                    entry.name,
                    BY_NUMBER[int(entry.data_type)].name,
                    list(entry.dims),
                    entry.optional,
                    batches and not entry.is_shape_tensor,
                )
                for entry in config.input
            ],
            [(entry.name, list(model.labels.get(entry.name, ()))) for entry in config.output],
        )
