"""Runs model versions: each in a task of its own, so that one that ends in error takes nobody along."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from ..port.concerns import of_model
from ..port.foreign import as_fault
from ..port.groups import first
from .naming import identifier_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ...schema.fault import Fault
    from ..model.hosted import HostedVersion

log = logging.getLogger("despina.engine.repository.hosting")


@attrs.define(eq=False)
class Hosted:
    """One version that has opened."""

    model: HostedVersion
    fault: Fault | None = None
    """Why it ended by itself, once it has."""


class Hosts:
    """Where the versions live."""

    def __init__(self, on_end: Callable[[Hosted], None]) -> None:
        """`on_end` is told of versions that end by themselves."""
        self._on_end = on_end
        self._nursery: trio.Nursery | None = None
        self.running: set[HostedVersion] = set()
        """Every version that has opened and is not closed, also those that are on their way out."""
        self._places: dict[tuple[str, int], set[HostedVersion]] = {}
        """The same by model and number."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The block in which versions may be started. Whoever starts them has to be inside of it to the end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            yield

    async def start(self, model: HostedVersion) -> Hosted:
        """Returns when the version is open. Raises what opening raised; cancelled, it is closed again."""
        assert self._nursery is not None, "inside of the block"
        hosted: Hosted = await self._nursery.start(self._host, model)
        return hosted

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: object) -> None:
        """For what has to be done to versions while nobody waits for it."""
        assert self._nursery is not None, "inside of the block"
        self._nursery.start_soon(work, *args)

    def has_others(self, model: HostedVersion) -> bool:
        """Whether another version of the same number of the same model has opened and is not closed."""
        return bool(self._places.get(_place(model), set()) - {model})

    def _opened(self, model: HostedVersion) -> None:
        self.running.add(model)
        self._places.setdefault(_place(model), set()).add(model)

    def _closed(self, model: HostedVersion) -> None:
        if model in self.running:
            self.running.discard(model)
            there = self._places[_place(model)]
            there.discard(model)
            if not there:
                del self._places[_place(model)]

    async def _host(self, model: HostedVersion, task_status: trio.TaskStatus[Hosted]) -> None:
        hosted = Hosted(model)
        started = _Started(task_status, hosted, self._opened)
        try:
            await model.run(task_status=started)
        except Exception as error:
            if model not in self.running:
                raise
            hosted.fault = as_fault(first(error))
            log.exception(
                "model '%s' version %d stopped", model.name, model.version, extra=of_model(model.name, model.version)
            )
            self._on_end(hosted)
        finally:
            self._closed(model)


class _Started(trio.TaskStatus[None]):
    """Where a version reports that it is open."""

    def __init__(
        self, task_status: trio.TaskStatus[Hosted], hosted: Hosted, opened: Callable[[HostedVersion], None]
    ) -> None:
        self._task_status = task_status
        self._hosted = hosted
        self._opened = opened

    def started(self, value: None = None) -> None:
        self._opened(self._hosted.model)
        self._task_status.started(self._hosted)


def _place(model: HostedVersion) -> tuple[str, int]:
    return identifier_of(model), model.version
