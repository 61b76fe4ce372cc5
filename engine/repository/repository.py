"""The repository actor: loads, unloads and watches models. The only writer of the registry.

| command                   | effect                                                                   | answered  |
|---------------------------|--------------------------------------------------------------------------|-----------|
| Load(name, config, files) | read; open and swap in, or change instances; on failure all stays        | when done |
| Unload(name, with_parts)  | stop look-ups at once; what is in flight finishes; then close            | at once   |
| Poll()                    | compare the directories with what is loaded; load and unload             | when done |

Commands come over one bounded memory channel; senders beyond its bound are refused. Each runs in a task of its own, in
its model's turn: commands about one model are serial, about different models parallel. While COMMANDS_RUNNING_MAX run,
no further one is taken. A command goes on when whoever sent it has left.
"""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault, Internal, InvalidArgument, ShuttingDown, Unavailable, Unsupported
from .closure import Closure
from .cloud_repository import temporary_parents
from .commands import Command, Commands, Load, Poll, Unload
from .ensembles import Ensembles
from .hosting import Hosts
from .index import index_of
from .leases import Leases
from .loader import Loader
from .loading import Loading
from .naming import identifier_of
from .on_request import OnRequest
from .registry import State
from .repositories import Repositories
from .retiring import Retirement
from .temporary import sweep
from .turns import Turns
from .watching import follow, load_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from ...schema.wire.generated.inference import RepositoryIndexResponseModelIndex
    from ..execute.inline import InlineRunner
    from ..model.cache.keeper import Keeper
    from ..observe.status import ActorStatus
    from ..port.nested import NestedCaller
    from ..port.settings import EngineSettings
    from ..port.store import ModelStore
    from .agents import Agents
    from .discovery import Backends
    from .hosting import Hosted
    from .registry import Registry

log = logging.getLogger("despina.engine.repository.repository")

LOOKS_MAX = 4
"""Threads that read directories for the index and for polls: a store that hangs holds no others."""

NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"


class Repository:
    """See the module's table. `run` is the actor; `load`, `unload` and `poll` send it commands and await the answer."""

    def __init__(
        self,
        settings: EngineSettings,
        registry: Registry,
        backends: Backends,
        agents: Agents,
        clock: Callable[[], float],
        inline: InlineRunner,
        nested: NestedCaller,
        keeper: Keeper | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._repositories = Repositories(settings.model_repository, namespacing=settings.model_namespacing)
        self._store: ModelStore = self._repositories
        self._hosts = Hosts(self._ended)
        self._retirement = Retirement(registry, self._hosts)
        ensembles = Ensembles(registry, self._retirement)
        loader = Loader(settings, backends, clock, inline, registry.find_near, nested, keeper)
        self.resources = loader.resources
        """What instances share where rates are limited."""
        self._turns = Turns()
        self.on_request = OnRequest(
            settings, registry, self._names, self._load_on_request, self._hosts.start_soon, self._why
        )
        self.leases = Leases(settings, registry, self._hosts, self._retirement, self._is_held)
        self._loading = Loading(
            settings, registry, self._store, agents, loader, self._hosts, self._retirement, ensembles, self.leases
        )
        self._closure = Closure(registry, self._loading, self._retirement, ensembles, self._turn)
        self._looks = trio.CapacityLimiter(LOOKS_MAX)
        self._commands = Commands()

    # --- For the engine and its callers

    async def load(self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads or reloads one model. Raises InvalidArgument, Internal, ShuttingDown in the protocol's words, and
        Unavailable when too many commands wait already."""
        await self._ask(Load(_checked(name), config=config, files=files or {}))

    async def unload(self, name: str, *, with_parts: bool = False) -> None:
        """Takes one model out of service; `with_parts` also what nothing else needs of an ensemble's. Returns when no
        look-up finds them any more; an unknown name is no error."""
        await self._ask(Unload(name, with_parts=with_parts))

    async def poll(self) -> None:
        """Looks at the directories once."""
        await self._ask(Poll(""))

    async def register(self, location: str, mapping: Mapping[str, str]) -> None:
        """One more repository; `mapping` gives other names to some of its directories. Loads nothing. Raises
        InvalidArgument, AlreadyExists, Unavailable, and Unsupported unless models are loaded by command."""
        self._check_explicit("registration")
        await trio.to_thread.run_sync(
            self._repositories.register, location, mapping, abandon_on_cancel=True, limiter=self._looks
        )

    def unregister(self, location: str) -> None:
        """What is loaded of it goes on serving. Raises InvalidArgument, Unsupported as `register`."""
        self._check_explicit("unregistration")
        self._repositories.unregister(location)

    def _check_explicit(self, what: str) -> None:
        if self._settings.model_control_mode != "explicit":
            raise Unsupported(f"repository {what} is not allowed if model control mode is not EXPLICIT")

    async def index(self, ready_only: bool) -> list[RepositoryIndexResponseModelIndex]:
        """What there is, read anew for each call: new models are seen at once, in every mode."""
        return index_of(await self._names(), self._registry, ready_only)

    async def start(self) -> None:
        """Loads the start-up set. Raises Internal when one of its models does not serve afterwards, ValueError for a
        repository that is no directory."""
        settings = self._settings
        await trio.to_thread.run_sync(sweep, temporary_parents(os.environ))
        await trio.to_thread.run_sync(self._store.check, abandon_on_cancel=True)
        names = [_checked(name) for name in settings.load_model]
        if settings.model_control_mode != "explicit" or names == ["*"]:
            names = list(await self._names())
        elif "*" in names:
            raise InvalidArgument("Wildcard model name '*' must be the ONLY startup model if specified at all.")
        else:
            names = [model for name in names for model in await self._named(name)]
        if await load_all(names, self._load_at_start):
            raise Internal("failed to load all models")

    async def stop(self) -> None:
        """Takes every model out of service and waits for what is in flight, as long as the settings allow.

        Raises Internal when that was not long enough.
        """
        self._loading.accepting = False
        await self._retirement.all(self._settings.exit_timeout_secs)

    # --- The actor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves commands, and hosts the models that they start, until cancelled."""
        try:
            async with self._hosts.open(), trio.open_nursery() as nursery:
                if self._settings.model_control_mode == "poll" and self._settings.repository_poll_secs:
                    nursery.start_soon(self._watch)
                task_status.started()
                while True:
                    nursery.start_soon(self._serve, await self._commands.take())
        finally:
            self._loading.accepting = False
            self._commands.close()

    def status(self) -> list[ActorStatus]:
        """What it does now, what instances share, and how full it is where that is bounded."""
        found = [self._commands.status("repository")]
        if self.resources is not None:
            found.append(self.resources.status())
        if self.leases.budget.is_bounded:
            found.append(self.leases.status())
        return found

    async def _ask(self, command: Command) -> None:
        if not self._loading.accepting:
            raise ShuttingDown("Server not ready")
        await self._commands.ask(command)

    async def _serve(self, command: Command) -> None:
        try:
            if isinstance(command, Load):
                for model in await self._named(command.model_name):
                    await self._closure.load(model, command.config, command.files, on_request=command.on_request)
            elif isinstance(command, Unload):
                loaded = [entry.name for entry in self._registry.sharing(command.model_name)]
                for model in dict.fromkeys([*loaded, *await self._named(command.model_name)]):
                    await self._closure.unload(model, with_parts=command.with_parts)
            else:
                await self._poll()
            command.fault = None
        except Fault as fault:
            command.fault = fault
        finally:
            self._commands.answer(command)

    # --- What commands do. Those that a poll or the start brings about do not come over the channel: a full one would
    # wait for itself.

    async def _load_at_start(self, name: str) -> None:
        await self._closure.load(name, parts_again=False)

    async def _load_on_request(self, name: str) -> None:
        await self._ask(Load(_checked(name), on_request=True))

    def _why(self, name: str) -> str:
        return self.leases.why(name)

    def _is_held(self, name: str) -> bool:
        return self.on_request.is_held(name) or self._turns.is_taken(name)

    async def _poll(self) -> None:
        if self._settings.model_control_mode != "poll":
            raise Unavailable("polling is disabled")
        async with self._turn(""):
            await follow(await self._names(), self._registry, self._closure.load_if_changed, self._closure.unload)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Around what is done about one model. Raises nothing but Faults."""
        try:
            async with self._turns.of(name):
                yield
        except Fault:
            raise
        except Exception as error:
            log.exception("a command about model '%s' failed", name)
            raise Internal(f"{type(error).__name__}: {error}") from error

    async def _watch(self) -> None:
        while True:
            await trio.sleep(self._settings.repository_poll_secs)
            try:
                await self.poll()
            except Fault as fault:
                log.error("%s", fault.message)

    async def _names(self) -> Mapping[str, int]:
        return await trio.to_thread.run_sync(self._store.names, abandon_on_cancel=True, limiter=self._looks)

    async def _named(self, name: str) -> list[str]:
        """The models that a client means by a name."""
        if not self._settings.model_namespacing:
            return [name]
        return await trio.to_thread.run_sync(self._store.named, name, abandon_on_cancel=True, limiter=self._looks)

    def _ended(self, hosted: Hosted) -> None:
        """A version has ended by itself: it is taken out of service, and nobody else is."""
        model, fault = hosted.model, hosted.fault
        entry = self._registry.entry(identifier_of(model))
        version = entry.version(model.version)
        if version.model is model and fault is not None:
            version.move(State.UNAVAILABLE, fault.as_reason())
            if not entry.ready() and entry.loaded is not None:
                entry.failed_ns = entry.loaded.times_ns
            self._registry.refresh(entry.name)


def _checked(name: str) -> str:
    """The name without blanks around it. Raises InvalidArgument for one that no model can have."""
    name = name.strip()
    if not name:
        raise InvalidArgument("Model name cannot be empty. Please enter a valid name to deploy.")
    if name == ".." or "/" in name:
        raise InvalidArgument(f"invalid model name '{name}', model name must not contain path traversal characters")
    return name
