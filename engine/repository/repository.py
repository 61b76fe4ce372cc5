"""The repository actor: loads, unloads and watches models. The only writer of the registry.

| command                 | effect                                                                | answered          |
|-------------------------|-----------------------------------------------------------------------|-------------------|
| Load(name, config, files) | read, open, swap in; on failure what served goes on serving         | when done         |
| Unload(name)            | stop look-ups at once; what is in flight finishes; then close         | at once           |
| Poll()                  | compare the directories with what is loaded; load and unload          | when done         |

Commands come over one bounded memory channel. Each runs in a task of its own, under its model's lock: commands about
one model are serial, about different models parallel. A command goes on when whoever sent it has left.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import attrs
import trio

from ...schema.fault import Fault, Internal, InvalidArgument, ShuttingDown, Unavailable
from ..port.foreign import as_fault
from ..port.groups import first
from . import configuration, storage
from .loader import Loader
from .registry import UNLOADED, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig
    from ..execute.inline import InlineRunner
    from ..model.version import ModelVersion
    from ..port.settings import EngineSettings
    from .discovery import Backends
    from .registry import ModelEntry, Registry
    from .storage import ModelSource

log = logging.getLogger("despina.engine.repository.repository")

COMMANDS_MAX = 256
"""Commands waiting to be picked up; senders wait beyond that."""

NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"


@attrs.define(eq=False)
class Command:
    """One message to the actor and, in the end, its answer."""

    model_name: str
    done: trio.Event = attrs.field(factory=trio.Event)
    fault: Fault | None = attrs.field(factory=lambda: ShuttingDown("Server not ready"))
    """None once it has been carried out; until then, what its sender hears if the actor goes away."""


@attrs.define(eq=False)
class Load(Command):
    config: str | None = None
    files: Mapping[str, bytes] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Unload(Command):
    unload_dependents: bool = False


class Poll(Command):
    pass


class Repository:
    """See the module's table. `run` is the actor; `load`, `unload` and `poll` send it commands and await the answer."""

    def __init__(
        self,
        settings: EngineSettings,
        registry: Registry,
        backends: Backends,
        clock: Callable[[], float],
        inline: InlineRunner,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._loader = Loader(settings, backends, clock, inline)
        self._send, self._receive = trio.open_memory_channel[Command](COMMANDS_MAX)
        self._locks: dict[str, tuple[trio.Lock, list[Command]]] = {}
        self._models: trio.Nursery | None = None
        self._running: set[ModelVersion] = set()
        """Every version that has opened and is not closed, also those that are on their way out."""
        self._accepting = True

    # --- For the engine and its callers

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads or reloads one model. Raises InvalidArgument, Internal, ShuttingDown in the protocol's words."""
        name = name.strip()
        if not name:
            raise InvalidArgument("Model name cannot be empty. Please enter a valid name to deploy.")
        if name == ".." or "/" in name:
            raise InvalidArgument(f"invalid model name '{name}', model name must not contain path traversal characters")
        await self._ask(Load(name, config=config, files=files or {}))

    async def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Takes one model out of service. Returns when no look-up finds it any more; an unknown name is no error."""
        await self._ask(Unload(name, unload_dependents=unload_dependents))

    async def poll(self) -> None:
        """Looks at the directories once."""
        await self._ask(Poll(""))

    async def start(self) -> None:
        """Loads the start-up set. Raises Internal when one of its models does not serve afterwards, ValueError for a
        repository that is no directory."""
        settings = self._settings
        for path in settings.model_repository:
            if not await trio.to_thread.run_sync(os.path.isdir, path):
                raise ValueError(f"repository path is not a valid directory: {path}")
        names: list[str]
        if settings.model_control_mode == "explicit":
            names = list(settings.load_model)
            if "*" in names:
                if len(names) > 1:
                    raise InvalidArgument("Wildcard model name '*' must be the ONLY startup model if specified at all.")
                names = await self._names()
        else:
            names = await self._names()
        failed = []

        async def load(name: str) -> None:
            try:
                await self.load(name)
            except Fault as fault:
                failed.append(name)
                log.error("failed to load '%s': %s", name, fault.message.rstrip())

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(load, name)
        if failed:
            raise Internal("failed to load all models")

    async def stop(self) -> None:
        """Takes every model out of service and waits for what is in flight, as long as the settings allow.

        Raises Internal when that was not long enough.
        """
        self._accepting = False
        late = []

        async def drain(model: ModelVersion) -> None:
            with trio.move_on_after(self._settings.exit_timeout_secs) as patience:
                await model.drain(self._settings.exit_timeout_secs)
            if patience.cancelled_caught:
                late.append(f"{model.name} version {model.version}")

        async with trio.open_nursery() as nursery:
            for model in list(self._running):
                nursery.start_soon(drain, model)
        for entry in self._registry.models.values():
            for version in entry.versions.values():
                if version.state is State.READY:
                    version.move(State.UNLOADING)
                    version.move(State.UNAVAILABLE, UNLOADED)
            self._registry.refresh(entry.name)
            source, entry.source = entry.source, None
            if source is not None:
                source.discard()
        if late:
            log.error("still busy after %g s: %s", self._settings.exit_timeout_secs, ", ".join(late))
            raise Internal("Exit timeout expired. Exiting immediately.")

    # --- The actor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves commands, and hosts the models that they start, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._models = nursery
            if self._settings.model_control_mode == "poll" and self._settings.repository_poll_secs:
                nursery.start_soon(self._watch)
            task_status.started()
            async for command in self._receive:
                nursery.start_soon(self._serve, command)

    async def _ask(self, command: Command) -> None:
        if not self._accepting:
            raise ShuttingDown("Server not ready")
        await self._send.send(command)
        await command.done.wait()
        if command.fault is not None:
            raise command.fault

    async def _serve(self, command: Command) -> None:
        lock, users = self._locks.setdefault(command.model_name, (trio.Lock(), []))
        users.append(command)
        try:
            async with lock:
                if isinstance(command, Load):
                    await self._load(command)
                elif isinstance(command, Unload):
                    self._unload(command.model_name)
                else:
                    await self._poll()
            command.fault = None
        except Fault as fault:
            command.fault = fault
        except Exception as error:
            log.exception("a command about model '%s' failed", command.model_name)
            command.fault = Internal(f"{type(error).__name__}: {error}")
        finally:
            users.remove(command)
            if not users:
                del self._locks[command.model_name]
            command.done.set()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(self._settings.repository_poll_secs)
            try:
                await self.poll()
            except Fault as fault:
                log.error("%s", fault.message)

    # --- Loading

    async def _load(self, command: Load) -> None:
        name = command.model_name
        source: ModelSource | None = None
        try:
            source = await trio.to_thread.run_sync(self._source, command)
            entry = self._registry.models.get(name)
            serving = entry.source if entry is not None and entry.ready() else None
            if (
                serving is not None
                and command.config is None
                and not serving.temporary
                and not storage.is_modified(serving.times_ns, source.times_ns)
            ):
                return
            config = await trio.to_thread.run_sync(
                configuration.read, name, source.path, command.config, self._settings
            )
            available = await trio.to_thread.run_sync(storage.version_directories, source.path)
        except (Fault, OSError) as error:
            text = error.message if isinstance(error, Fault) else str(error)
            log.error("Poll failed for model directory '%s': %s", name, text)
            if source is not None:
                source.discard()
            raise Internal(f"failed to load '{name}', failed to poll from model repository") from error
        try:
            chosen = storage.chosen_versions(name, available, config.version_policy)
        except InvalidArgument as fault:
            source.discard()
            raise InvalidArgument(f"load failed for model '{name}': {fault.message}\n") from fault
        await self._load_versions(self._registry.entry(name), source, config, chosen)

    def _source(self, command: Load) -> ModelSource:
        """In a worker thread: where this load reads from."""
        name = command.model_name
        if command.files:
            if command.config is None:
                raise InvalidArgument("Load parameter 'config' must be specified for model file override")
            return storage.ModelSource(name, storage.upload(name, command.files), {}, temporary=True)
        paths = storage.find_model(self._settings.model_repository, name)
        if not paths:
            raise InvalidArgument(f"failed to poll model '{name}': model not found in any model repository.")
        if len(paths) > 1:
            raise InvalidArgument(f"failed to poll model '{name}': not unique across all model repositories")
        times = {} if command.config is not None else storage.newest_times_ns(paths[0])
        return storage.ModelSource(name, paths[0], times)

    async def _load_versions(
        self, entry: ModelEntry, source: ModelSource, config: ModelConfig, chosen: Mapping[int, Path]
    ) -> None:
        """All versions or none: what opens replaces what served, without a gap; a failure leaves it as it was."""
        opened: dict[int, ModelVersion] = {}
        faults: dict[int, Fault] = {}
        for number in chosen:
            version = entry.version(number)
            if version.state is not State.READY:
                version.move(State.LOADING)

        async def open_version(number: int) -> None:
            try:
                opened[number] = await self._open(source, config, number, chosen[number])
            except Fault as fault:
                faults[number] = fault

        async with trio.open_nursery() as nursery:
            for number in chosen:
                nursery.start_soon(open_version, number)
        if faults:
            await self._discard_load(entry, source, opened, faults)
        self._swap(entry, source, opened)
        log.info("successfully loaded '%s'", entry.name)

    async def _open(self, source: ModelSource, config: ModelConfig, number: int, path: Path) -> ModelVersion:
        """Opens one version and starts its actor. Raises Fault."""
        log.info("loading: %s:%d", source.name, number)
        for attempt in range(self._settings.model_load_retry_count + 1):
            try:
                model = await self._loader.open(source, config, number, path)
                assert self._models is not None, "commands are served only while the actor runs"
                began = trio.current_time()
                await self._models.start(self._host, model)
                self._running.add(model)
                model.load_seconds += trio.current_time() - began
                return model
            except Exception as error:
                fault = as_fault(first(error))
                log.error("failed to load '%s' version %d: %s", source.name, number, fault.as_reason())
                if attempt == self._settings.model_load_retry_count:
                    raise fault from error
        raise AssertionError("unreachable")

    async def _host(self, model: ModelVersion, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs one model version. Its failure to start goes to the loader; a later one takes only this model down."""
        started = _Started(task_status)
        try:
            await model.run(task_status=started)
        except Exception as error:
            if not started.happened:
                raise
            fault = as_fault(first(error))
            log.exception("model '%s' version %d stopped", model.name, model.version)
            version = self._registry.entry(model.name).version(model.version)
            if version.model is model:
                version.move(State.UNAVAILABLE, fault.as_reason())
                self._registry.refresh(model.name)
        finally:
            self._running.discard(model)

    async def _discard_load(
        self, entry: ModelEntry, source: ModelSource, opened: Mapping[int, ModelVersion], faults: Mapping[int, Fault]
    ) -> None:
        async with trio.open_nursery() as nursery:
            for model in opened.values():
                nursery.start_soon(model.drain, 0)
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
        source.discard()
        log.error("failed to load '%s'", entry.name)
        raise InvalidArgument(f"load failed for model '{entry.name}': {details}\n")

    def _swap(self, entry: ModelEntry, source: ModelSource, opened: Mapping[int, ModelVersion]) -> None:
        """Puts the opened versions in service and takes the others out, in one step that nothing can come between."""
        assert self._models is not None
        if not self._accepting:
            for model in opened.values():
                self._models.start_soon(model.drain, 0)
            source.discard()
            raise ShuttingDown("Server not ready")
        retired: list[ModelVersion] = []
        gone: list[ModelVersion] = []
        for number, model in opened.items():
            version = entry.version(number)
            if version.state is State.READY:
                old = version.replace(model)
                model.carried.add(old.carried)
                model.carried.add(old.statistics)
                retired.append(old)
            else:
                version.move(State.READY, model=model)
        for number, version in entry.versions.items():
            if version.model is not None and number not in opened:
                self._models.start_soon(self._retire, entry.name, version.model)
                gone.append(version.model)
                version.move(State.UNLOADING)
        replaced, entry.source = entry.source, source
        self._registry.refresh(entry.name)
        for old in retired:
            self._models.start_soon(old.drain, self._grace())
        if replaced is not None and replaced.temporary:
            self._models.start_soon(self._discard, replaced, retired + gone)

    # --- Unloading

    def _unload(self, name: str) -> None:
        entry = self._registry.models.get(name)
        if entry is None:
            return
        assert self._models is not None
        gone = []
        for version in entry.versions.values():
            if version.model is not None:
                self._models.start_soon(self._retire, name, version.model)
                gone.append(version.model)
                version.move(State.UNLOADING)
        source, entry.source = entry.source, None
        self._registry.refresh(name)
        if source is not None and source.temporary:
            self._models.start_soon(self._discard, source, gone)

    async def _retire(self, name: str, model: ModelVersion) -> None:
        """Waits for what is in flight, closes, and says so in the index unless a new load has taken the place."""
        await model.drain(self._grace())
        version = self._registry.entry(name).version(model.version)
        others = [other for other in self._running if (other.name, other.version) == (name, model.version)]
        if version.state is State.UNLOADING and others in ([], [model]):
            version.move(State.UNAVAILABLE, UNLOADED)
        log.info("successfully unloaded '%s' version %d", name, model.version)

    async def _discard(self, source: ModelSource, models: Sequence[ModelVersion]) -> None:
        """Removes uploaded files once the models that were made of them are closed."""
        try:
            for model in models:
                await model.drain(self._grace())
        finally:
            source.discard()

    def _grace(self) -> float:
        """Unloading waits for what is in flight however long it takes: nobody is waiting for the place."""
        return float("inf")

    # --- Polling

    async def _poll(self) -> None:
        if self._settings.model_control_mode != "poll":
            raise Unavailable("polling is disabled")
        found = await trio.to_thread.run_sync(storage.model_names, self._settings.model_repository)
        for name, paths in found.items():
            if len(paths) > 1:
                log.error("failed to poll model '%s': not unique across all model repositories", name)
        unique = {name for name, paths in found.items() if len(paths) == 1}

        async def load(name: str) -> None:
            try:
                await self.load(name)
            except Fault as fault:
                log.error("failed to load '%s': %s", name, fault.message.rstrip())

        async with trio.open_nursery() as nursery:
            for name in sorted(unique):
                nursery.start_soon(load, name)
            for name, entry in self._registry.models.items():
                if name not in unique and entry.ready():
                    nursery.start_soon(self.unload, name)

    async def _names(self) -> list[str]:
        return list(await trio.to_thread.run_sync(storage.model_names, self._settings.model_repository))


class _Started(trio.TaskStatus[None]):
    """Remembers whether the task has reported that it started."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self.happened = False
        self._task_status = task_status

    def started(self, value: None = None) -> None:
        self.happened = True
        self._task_status.started()
