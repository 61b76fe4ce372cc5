"""Brings models into service: what has changed is read, opened, and swapped in.

    read                           serve
times ──newer?──▶ reading ──┬─▶ open every version ──all or none──▶ swap: one step, no gap
                            │        └─ failure: what served goes on serving
                            ├─▶ only instances differ: add and remove them (regrouping.py)
                            └─▶ an ensemble whose models do not allow it: it waits for them (ensembles.py)
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault, Internal, InvalidArgument, ShuttingDown, Unavailable
from ..model.ensemble.graph import members
from ..model.ensemble.version import EnsembleVersion
from ..port.concerns import of_model
from ..port.foreign import as_fault
from ..port.groups import first
from .changes import is_newer
from .leases import is_kept, size_of
from .naming import identifier
from .reading import discard_now, read
from .registry import UNLOADED, State
from .regrouping import is_regrouping, regroup
from .retiring import discard, tell
from .worker import in_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from ..model.hosted import HostedVersion
    from ..port.settings import EngineSettings
    from ..port.store import ModelStore
    from .agents import Agents
    from .ensembles import Ensembles
    from .hosting import Hosted, Hosts
    from .leases import Leases
    from .loader import Loader
    from .reading import Reading
    from .registry import ModelEntry, Registry
    from .retiring import Retirement

log = logging.getLogger("despina.engine.repository.loading")

READ_S_MIN = 30.0
"""Reading a model gets that long even if opening it may take less."""

FILES_MAX = 8
"""Threads that read models' files: a store that hangs holds no others."""


class Loading:
    """Loads one model at a time by name: callers keep others of that name away meanwhile."""

    def __init__(
        self,
        settings: EngineSettings,
        registry: Registry,
        store: ModelStore,
        agents: Agents,
        loader: Loader,
        hosts: Hosts,
        retirement: Retirement,
        ensembles: Ensembles,
        leases: Leases,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._agents = agents
        self._loader = loader
        self._hosts = hosts
        self._retirement = retirement
        self._ensembles = ensembles
        self._leases = leases
        self._timeout_s = settings.model_load_timeout_secs or float("inf")
        self._files = trio.CapacityLimiter(FILES_MAX)
        self.accepting = True
        """False once nothing may come into service any more."""

    async def read(
        self, name: str, config: str | None, files: Mapping[str, bytes] | None, *, again: bool
    ) -> Reading | None:
        """What is to be served of a model from now on; None if nothing has changed, or, without `again`, if it is what
        has failed before. To be followed by `serve`. Raises Internal in the protocol's words."""
        times_ns: Mapping[str, int] | None = None
        try:
            if not files:
                times_ns = await self._times_ns(name)
                if config is None and not self._is_due(name, times_ns, again):
                    return None
            reading = await self._read(name, times_ns or {}, config, files or {})
        except (Fault, OSError) as error:
            text = error.message if isinstance(error, Fault) else str(error)
            log.error("Poll failed for model directory '%s': %s", name, text, extra=of_model(name))
            if times_ns is not None:  # it is there, and not a name that somebody has thought of
                entry = self._registry.entry(name)
                entry.unread = text
                entry.failed_ns = None if isinstance(error, Unavailable) else times_ns  # that says to try again
            raise Internal(f"failed to load '{name}', failed to poll from model repository") from error
        entry = self._registry.entry(name)
        entry.unread = ""
        entry.failed_ns = times_ns
        if reading.config.ensemble_scheduling is not None:
            self._want(entry, reading)
        return reading

    async def serve(self, name: str, reading: Reading) -> None:
        """Brings into service what was read. Raises InvalidArgument, ShuttingDown in the protocol's words; then an
        ensemble whose models are to blame waits for them."""
        entry = self._registry.entry(name)
        if reading.config.ensemble_scheduling is not None and entry.waiting is not reading:
            return  # it serves by now, or was unloaded, or something newer is wanted
        try:
            try:
                chosen = reading.chosen()
            except InvalidArgument as fault:
                entry.failure = fault.message
                raise InvalidArgument(f"load failed for model '{name}': {fault.message}\n") from fault
            if is_regrouping(entry, reading, chosen):
                await regroup(entry, reading, self._registry, self._loader, self._timeout_s)
                await discard(reading.source)  # what serves keeps its files
            else:
                self._check_models(entry, reading)
                await self._load_versions(entry, reading, chosen)
        except BaseException:
            if entry.waiting is reading and not entry.unread:  # it has no models to wait for
                entry.hold(entry.loaded, None)
            if entry.waiting is not reading:
                await discard(reading.source)
            raise

    async def parts(self, reading: Reading) -> list[str]:
        """The models that an ensemble asks for: of its own namespace where that has them, else all of the name."""
        names = members(reading.config)
        namespace = reading.source.namespace
        if not namespace:
            return names
        found: list[str] = []
        for name in names:
            named = await trio.to_thread.run_sync(self._store.named, name, abandon_on_cancel=True, limiter=self._files)
            own = identifier(namespace, name)
            found += [own] if own in named else named
        return found

    async def revive(self, name: str) -> None:
        """Brings an ensemble into service that waits, if its models allow it now. Raises as `serve`."""
        entry = self._registry.models.get(name)
        waiting = None if entry is None else entry.waiting
        if waiting is not None and not self._ensembles.problem(waiting):
            await self.serve(name, waiting)

    def _want(self, entry: ModelEntry, reading: Reading | None) -> None:
        """What an ensemble is to serve as soon as it can; None for nothing."""
        before = entry.waiting
        entry.hold(entry.loaded, reading)
        if before is not None and before is not reading:
            self._retirement.let_go(before.source)

    async def _times_ns(self, name: str) -> Mapping[str, int]:
        return await trio.to_thread.run_sync(self._store.times_ns, name, abandon_on_cancel=True, limiter=self._files)

    def _is_due(self, name: str, times_ns: Mapping[str, int], again: bool) -> bool:
        """Whether a load with nothing of its own has anything to do."""
        entry = self._registry.models.get(name)
        if entry is None:
            return True
        if not again and entry.failed_ns == times_ns:
            return False
        serving = entry.loaded if entry.ready() else None
        return serving is None or is_newer(times_ns, serving.times_ns)

    async def _read(
        self, name: str, times_ns: Mapping[str, int], config: str | None, files: Mapping[str, bytes]
    ) -> Reading:
        return await in_worker(
            f"reading model '{name}'",
            partial(read, self._store, self._agents, self._settings, name, times_ns, config, files),
            discard_now,
            limiter=self._files,
            timeout_s=max(self._timeout_s, READ_S_MIN),
            patience_s=self._settings.exit_timeout_secs,
        )

    @asynccontextmanager
    async def _room(self, reading: Reading, chosen: Mapping[int, Path]) -> AsyncIterator[None]:
        """Around the opening of a model: others may have to go first. Raises Unavailable when it finds no room."""
        if reading.config.ensemble_scheduling is not None:
            yield
            return
        is_kept(reading.config)  # raises for what it cannot mean, also while nothing is evicted
        byte_size = 0
        if self._leases.budget.bytes:
            sizes = partial(size_of, reading, list(chosen.values()))
            byte_size = await trio.to_thread.run_sync(sizes, abandon_on_cancel=True, limiter=self._files)
        async with self._leases.room(reading.config.name, byte_size):
            yield

    def _check_models(self, entry: ModelEntry, reading: Reading) -> None:
        """An ensemble whose models do not allow it waits for them, and its load fails: raises InvalidArgument."""
        if reading.config.ensemble_scheduling is None:
            return
        entry.unread = self._ensembles.problem(reading)
        if entry.unread:
            log.error("Invalid argument: %s", entry.unread)
            raise InvalidArgument(f"load failed for model '{entry.name}': {entry.unread}\n")

    async def _load_versions(self, entry: ModelEntry, reading: Reading, chosen: Mapping[int, Path]) -> None:
        """All versions or none: what opens replaces what served, without a gap; a failure leaves it as it was."""
        if not self.accepting:  # any more, as the load before this one may have found out
            raise ShuttingDown("Server not ready")
        opened: dict[int, Hosted] = {}
        faults: dict[int, Fault] = {}
        for number in chosen:
            version = entry.version(number)
            if version.state is not State.READY:
                version.move(State.LOADING)

        async def open_version(number: int) -> None:
            try:
                opened[number] = await self._open(entry.name, reading, number, chosen[number])
            except Fault as fault:
                faults[number] = fault

        no_room = False
        try:
            async with self._room(reading, chosen), trio.open_nursery() as nursery:
                for number in chosen:
                    nursery.start_soon(open_version, number)
        except Unavailable as fault:
            no_room = True
            faults.update(dict.fromkeys(chosen, fault))
        # From here to the swap nothing can come between: what has not ended by now is put in service running.
        faults.update((number, hosted.fault) for number, hosted in opened.items() if hosted.fault is not None)
        try:
            if not self.accepting:
                raise ShuttingDown("Server not ready")
            for number in chosen:
                version = entry.version(number)
                if version.state in (State.UNAVAILABLE, State.UNLOADING):
                    version.move(State.LOADING)  # what had served has ended by itself, or was suspended, meanwhile
            if faults:
                text = self._failed(entry, opened, faults)
                raise Unavailable(text) if no_room else InvalidArgument(text)
            self._fit(entry, reading, opened)
            self._swap(entry, reading, {number: hosted.model for number, hosted in opened.items()})
        except Fault:
            if any(isinstance(fault, Unavailable) for fault in faults.values()):
                entry.failed_ns = None  # that says to try again
            async with trio.open_nursery() as nursery:
                for hosted in opened.values():
                    nursery.start_soon(hosted.model.drain, 0)
            raise
        log.info("successfully loaded '%s'", entry.name, extra=of_model(entry.name))
        await tell(reading.source.serving)

    async def _open(self, name: str, reading: Reading, number: int, path: Path) -> Hosted:
        """Opens one version and starts its actor. Raises Fault."""
        log.info("loading: %s:%d", name, number, extra=of_model(name, number))
        for attempt in range(self._settings.model_load_retry_count + 1):
            try:
                model = await self._loader.open(name, reading, number, path)
                return await self._start(model)
            except Exception as error:
                fault = as_fault(first(error))
                log.error(
                    "failed to load '%s' version %d: %s", name, number, fault.as_reason(), extra=of_model(name, number)
                )
                if attempt == self._settings.model_load_retry_count:
                    raise fault from error
        raise AssertionError("unreachable")

    async def _start(self, model: HostedVersion) -> Hosted:
        if isinstance(model, EnsembleVersion):
            model.refit()
        began = trio.current_time()
        hosted: Hosted | None = None
        with trio.move_on_after(self._timeout_s):
            hosted = await self._hosts.start(model)
        if hosted is None:
            raise Internal(f"the instances have not opened within {self._timeout_s:g} s")
        model.load_seconds += trio.current_time() - began
        return hosted

    def _fit(self, entry: ModelEntry, reading: Reading, opened: Mapping[int, Hosted]) -> None:
        """What an ensemble asks may have changed while it opened. Raises InvalidArgument."""
        try:
            self._check_models(entry, reading)
        except InvalidArgument:
            for number in opened:
                version = entry.version(number)
                if version.state is State.LOADING:
                    version.move(State.UNAVAILABLE, UNLOADED)
            raise
        for hosted in opened.values():
            if isinstance(hosted.model, EnsembleVersion):
                hosted.model.refit()

    def _failed(self, entry: ModelEntry, opened: Mapping[int, Hosted], faults: Mapping[int, Fault]) -> str:
        """Notes for each version that the load has failed. Returns what its caller hears."""
        details = ""
        for number, fault in sorted(faults.items()):
            version = entry.version(number)
            if version.state is State.READY:
                version.reason = fault.as_reason()
            else:
                version.move(State.UNAVAILABLE, fault.as_reason())
            details += f"version {number} is at UNAVAILABLE state: {fault.as_reason()};"
        for number in opened:
            version = entry.version(number)
            if version.state is State.LOADING:
                version.move(State.UNAVAILABLE, "the load failed for another version of the model")
        log.error("failed to load '%s'", entry.name, extra=of_model(entry.name))
        entry.failure = details
        return f"load failed for model '{entry.name}': {details}\n"

    def _swap(self, entry: ModelEntry, reading: Reading, opened: Mapping[int, HostedVersion]) -> None:
        """Puts the opened versions in service and takes the others out, in one step that nothing can come between."""
        retirement = self._retirement
        retired: list[HostedVersion] = []
        for number, model in opened.items():
            version = entry.version(number)
            if version.state is State.READY:
                old = version.replace(model)
                model.carried.add(old.carried)
                model.carried.add(old.statistics)
                retirement.replace(old)
                retired.append(old)
            else:
                version.move(State.READY, model=model)
        for model in entry.ready():
            if model.version not in opened:
                retirement.retire(model)
                retired.append(model)
        replaced, waited = entry.loaded, entry.waiting
        entry.hold(reading, None)
        if waited is not None and waited is not reading:
            retirement.let_go(waited.source)
        entry.failed_ns = None
        entry.failure = entry.unread = ""
        entry.dismissed = False
        self._registry.refresh(entry.name)
        if replaced is not None:
            retirement.let_go(replaced.source, retired)
