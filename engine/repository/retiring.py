"""Takes model versions out of service: no look-up finds them any more, what is in flight finishes, then they close."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Internal
from ..port.concerns import of_model
from .naming import identifier_of
from .registry import EVICTED, UNLOADED, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..model.hosted import HostedVersion
    from ..port.store import ModelSource
    from .hosting import Hosts
    from .registry import Registry

log = logging.getLogger("despina.engine.repository.retiring")

_AS_LONG_AS_IT_TAKES = float("inf")
"""Unloading waits for what is in flight: nobody is waiting for the place."""

_DISCARD_S = 5.0
"""For removing files, and for telling agents."""


class Retirement:
    """The ways out of service. Without checkpoints, but for `all`: the rest is done by tasks of the hosts'."""

    def __init__(self, registry: Registry, hosts: Hosts) -> None:
        self._registry = registry
        self._hosts = hosts

    def unload(self, name: str, *, evicted: bool = False) -> None:
        """Takes a whole model out of service. An unknown name is no error. `evicted`: until somebody asks for it."""
        entry = self._registry.models.get(name)
        if entry is None:
            return
        entry.dismissed = not evicted
        entry.on_request = entry.on_request or evicted
        gone = entry.ready()
        for model in gone:
            self.retire(model, EVICTED if evicted else UNLOADED)
        loaded, waiting = entry.loaded, entry.waiting
        entry.hold(None, None)
        entry.failure, entry.by_name = "", False
        self._registry.refresh(name)
        for reading in (loaded, waiting):
            if reading is not None:
                self.let_go(reading.source, gone)

    def suspend(self, name: str) -> None:
        """Takes an ensemble out of service until its models allow it again."""
        entry = self._registry.models[name]
        for model in entry.ready():
            self.retire(model)
        loaded, waiting = entry.loaded, entry.waiting
        if loaded is not None:
            entry.failed_ns = loaded.times_ns
            entry.hold(None, waiting or loaded)
            if waiting is not None:
                self.let_go(loaded.source)
        self._registry.refresh(name)

    def retire(self, model: HostedVersion, reason: str = UNLOADED) -> None:
        """Takes one version out of service that has no successor. Its model's look-ups are to be refreshed."""
        self._registry.entry(identifier_of(model)).version(model.version).move(State.UNLOADING)
        self._hosts.start_soon(self._retire, model, reason)

    def replace(self, model: HostedVersion) -> None:
        """Lets a version end that has a successor already, or never served."""
        self._hosts.start_soon(model.drain, _AS_LONG_AS_IT_TAKES)

    def let_go(self, source: ModelSource, models: Sequence[HostedVersion] = ()) -> None:
        """Discards files once the versions that were made of them are closed."""
        if source.discard is not None:
            self._hosts.start_soon(self._let_go, source, models)

    async def all(self, timeout_s: float) -> None:
        """Takes every model out of service and waits for what is in flight, so long. Raises Internal when that was
        not long enough."""
        late = []

        async def drain(model: HostedVersion) -> None:
            with trio.move_on_after(timeout_s) as patience:
                await model.drain(timeout_s)
            if patience.cancelled_caught:
                late.append(f"{model.name} version {model.version}")

        models = list(self._hosts.running)
        # What is in flight may still ask other models, so none of them ends before the last request.
        unpin = [model.pin_alone() for model in models if model.accepting]

        async def let_go() -> None:
            try:
                with trio.move_on_after(timeout_s):
                    while busy := [model for model in models if model.inflight]:
                        await busy[0].until_idle()
            finally:
                for release in unpin:
                    release()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            for model in models:
                nursery.start_soon(drain, model)
        for entry in self._registry.models.values():
            for version in entry.versions.values():
                if version.state is State.READY:
                    version.move(State.UNLOADING)
                    version.move(State.UNAVAILABLE, UNLOADED)
        for entry in list(self._registry.models.values()):
            self._registry.refresh(entry.name)
            for reading in (entry.loaded, entry.waiting):
                if reading is not None:
                    await discard(reading.source)
            entry.hold(None, None)
        if late:
            log.error("still busy after %g s: %s", timeout_s, ", ".join(late))
            raise Internal("Exit timeout expired. Exiting immediately.")

    async def _retire(self, model: HostedVersion, reason: str) -> None:
        """Says in the index why it does not serve, unless a new load has taken the place."""
        await model.drain(_AS_LONG_AS_IT_TAKES)
        place = (identifier_of(model), model.version)
        version = self._registry.entry(place[0]).version(model.version)
        if version.state is State.UNLOADING and not self._hosts.has_others(model):
            version.move(State.UNAVAILABLE, reason)
        log.info("successfully unloaded '%s' version %d", *place, extra=of_model(*place))

    async def _let_go(self, source: ModelSource, models: Sequence[HostedVersion]) -> None:
        try:
            await tell(source.leaving)
            for model in models:
                await model.drain(_AS_LONG_AS_IT_TAKES)
        finally:
            await discard(source)


async def tell(callback: Callable[[], None] | None) -> None:
    """Calls what wants to know of a model. A thread that is not done in time goes on, unobserved."""
    if callback is not None:
        with trio.move_on_after(_DISCARD_S):
            await trio.to_thread.run_sync(callback, abandon_on_cancel=True)


async def discard(source: ModelSource) -> None:
    """Removes what was brought to this machine for one load."""
    if source.discard is not None:
        # Also for a task that is cancelled: nobody else knows of the files. A thread that is not done by then goes on.
        with trio.move_on_after(_DISCARD_S, shield=True):
            await trio.to_thread.run_sync(source.discard, abandon_on_cancel=True)
