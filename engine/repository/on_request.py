"""Loads models that are asked for and not loaded, where the settings say so.

    first request ──▶ wait() ──┬─ the first: a load begins        ──▶ over ──▶ all are told at once, or its fault
    further ones  ──▶ wait() ──┴─ the others: wait for the same
                                    └─ a caller leaves, or its time is up: it alone; the load goes on

A model that was unloaded by command stays out until it is loaded by command. What has failed is not tried again for a
while: all who ask meanwhile hear the same at once.
"""

from __future__ import annotations

import heapq
import logging
from itertools import count
from typing import TYPE_CHECKING

import attrs
import trio

from ...schema.fault import DeadlineExceeded, Fault, Internal, NotFound, QueueFull, ShuttingDown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ..port.settings import EngineSettings
    from .registry import Registry

log = logging.getLogger("despina.engine.repository.on_request")

LOADS_MAX = 64
"""Models that are loaded, or wait to be, because somebody has asked."""
AGAIN_S = 5.0
"""After a load that has failed, before the next is tried."""
FAILED_MAX = 1024
"""Failures remembered: callers choose the names."""


@attrs.define(eq=False)
class Waiting:
    """One caller who waits for a model. `cancel` may be called at any time: then it is not told."""

    on_done: Callable[[Fault | None], None] | None

    def cancel(self) -> None:
        self.on_done = None

    def tell(self, fault: Fault | None) -> None:
        on_done, self.on_done = self.on_done, None
        if on_done is None:
            return
        try:
            on_done(None if fault is None else fault.copy())
        except Exception:  # a door's bug must not take its neighbours' answers with it
            log.exception("telling of a load has failed")


class _Load:
    """One load and all who wait for it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, bool, Waiting]] = []
        """A heap, by until when; the flag says that this is the caller's own deadline."""
        self.scope: trio.CancelScope | None = None


class OnRequest:
    """See the module's text. Everything on the trio thread."""

    def __init__(
        self,
        settings: EngineSettings,
        registry: Registry,
        names: Callable[[], Awaitable[Mapping[str, int]]],
        load: Callable[[str], Awaitable[None]],
        start_soon: Callable[..., None],
        why: Callable[[str], str],
    ) -> None:
        """`names` is what there is to load, `load` loads one. `start_soon` starts tasks that nobody waits for. `why`
        says what keeps a model from being loaded, if that is known."""
        self._loads_on_request = settings.load_on_request
        self._wait_s = settings.load_wait_secs
        self._waiting_max = settings.queue_size_max
        self._registry = registry
        self._names = names
        self._load = load
        self._start_soon = start_soon
        self._why = why
        self._loads: dict[str, _Load] = {}
        self._failed: dict[str, tuple[float, Fault]] = {}
        """Names -> until when it is not tried again, and why."""
        self._order = count()
        self._held: dict[str, int] = {}

    def may_load(self, name: str) -> bool:
        """Whether a model of that name, if there is one, is loaded when somebody asks for it."""
        if not self._loads_on_request or not name:
            return False
        entry = self._registry.models.get(name)
        return entry is None or not (entry.ready() or entry.dismissed)

    def is_held(self, name: str) -> bool:
        """Whether somebody waits for it, or is about to use it."""
        return name in self._loads or name in self._held

    def wait(self, name: str, on_done: Callable[[Fault | None], None], deadline: float = 0.0) -> Waiting:
        """Begins to load the model if nobody has, and calls `on_done` once, with what has gone wrong or None: then the
        model can be used at once, before the next checkpoint. Raises QueueFull, and what failed lately.

        `deadline`, in seconds of trio's clock, is when the caller stops waiting.
        """
        now = trio.current_time()
        failed = self._failed.get(name)
        if failed is not None:
            if now < failed[0]:
                raise failed[1].copy()
            del self._failed[name]
        load = self._loads.get(name)
        if load is None:
            if len(self._loads) >= LOADS_MAX:
                raise QueueFull(f"model '{name}' is not loaded, and {LOADS_MAX} others are being loaded already")
            load = self._loads[name] = _Load()
            self._start_soon(self._bring, name, load)
        elif len(load.waiting) >= self._waiting_max:
            raise QueueFull(f"{self._waiting_max} requests wait already for model '{name}' to be loaded")
        waiting = Waiting(on_done)
        until = now + self._wait_s
        entry = (min(until, deadline or until), next(self._order), bool(deadline) and deadline < until, waiting)
        heapq.heappush(load.waiting, entry)
        if load.waiting[0] is entry and load.scope is not None:
            load.scope.deadline = entry[0]
        return waiting

    async def loaded(self, name: str, deadline: float = 0.0) -> None:
        """The same for a task. Raises what has gone wrong. The model can be used before the next checkpoint."""
        done = trio.Event()
        told: list[Fault | None] = []

        def on_done(fault: Fault | None) -> None:
            told.append(fault)
            self._held[name] = self._held.get(name, 0) + 1  # until the task has its turn
            done.set()

        waiting = self.wait(name, on_done, deadline)
        try:
            await done.wait()
        finally:
            waiting.cancel()
            if told:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name]
        if told[0] is not None:
            raise told[0]

    async def _bring(self, name: str, load: _Load) -> None:
        fault: Fault | None = ShuttingDown("Server not ready")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._time_out, name, load)
                fault = await self._try(name)
                nursery.cancel_scope.cancel()
        finally:
            del self._loads[name]
            for *_, waiting in sorted(load.waiting, key=lambda entry: entry[1]):
                waiting.tell(fault)

    async def _try(self, name: str) -> Fault | None:
        try:
            if name not in await self._names():
                raise NotFound(f"Request for unknown model: '{name}' is not found")
            await self._load(name)
        except Fault as fault:
            self._remember(name, fault)
            return fault
        except Exception as error:
            log.exception("loading model '%s' on request failed", name)
            return Internal(f"failed to load '{name}': {type(error).__name__}")
        return None

    def _remember(self, name: str, fault: Fault) -> None:
        if isinstance(fault, ShuttingDown | NotFound):
            return
        if len(self._failed) >= FAILED_MAX:
            del self._failed[next(iter(self._failed))]
        self._failed[name] = (trio.current_time() + AGAIN_S, fault)

    async def _time_out(self, name: str, load: _Load) -> None:
        """Tells those whose time is up."""
        heap = load.waiting
        while True:
            until = heap[0][0] if heap else float("inf")
            with trio.CancelScope(deadline=until) as load.scope:
                await trio.sleep_forever()
            while heap and heap[0][0] <= trio.current_time():
                _, _, is_callers, waiting = heapq.heappop(heap)
                if is_callers:
                    waiting.tell(DeadlineExceeded("Deadline Exceeded"))
                else:
                    why = self._why(name)
                    waiting.tell(Unavailable(f"model '{name}' is not loaded after {self._wait_s:g} s{why}"))
