"""The repository actor: loads, unloads and watches models. The only writer of the registry.

| command                   | effect                                                              | answered          |
|---------------------------|---------------------------------------------------------------------|-------------------|
| Load(name, config, files) | read, open, swap in; on failure what served goes on serving         | when done         |
| Unload(name)              | stop look-ups at once; what is in flight finishes; then close       | at once           |
| Poll()                    | compare the directories with what is loaded; load and unload        | when done         |

Commands come over one bounded memory channel. Each runs in a task of its own, in its model's turn: commands about
one model are serial, about different models parallel. A command goes on when whoever sent it has left.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
import trio

from ...schema.fault import Fault, Internal, InvalidArgument, ShuttingDown, Unavailable
from .hosting import Hosts
from .index import index_of
from .loader import Loader
from .loading import Loading
from .local_store import LocalStore
from .registry import State
from .retiring import Retirement
from .turns import Turns
from .watching import follow, load_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...schema.wire.generated.inference import RepositoryIndexResponseModelIndex
    from ..execute.inline import InlineRunner
    from ..port.settings import EngineSettings
    from ..port.store import ModelStore
    from .discovery import Backends
    from .hosting import Hosted
    from .registry import Registry

log = logging.getLogger("despina.engine.repository.repository")

COMMANDS_MAX = 256
"""Commands waiting to be picked up; senders wait beyond that."""

LOOKS_MAX = 4
"""Threads that read directories for the index and for polls: a store that hangs holds no others."""

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
        self._store: ModelStore = LocalStore(settings.model_repository)
        self._hosts = Hosts(self._ended)
        self._retirement = Retirement(registry, self._hosts)
        loader = Loader(settings, backends, clock, inline)
        self._loading = Loading(settings, registry, self._store, loader, self._hosts, self._retirement)
        self._turns = Turns()
        self._looks = trio.CapacityLimiter(LOOKS_MAX)
        self._send, self._receive = trio.open_memory_channel[Command](COMMANDS_MAX)

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

    async def index(self, ready_only: bool) -> list[RepositoryIndexResponseModelIndex]:
        """What there is, read anew for each call: new models are seen at once, in every mode."""
        return index_of(await self._names(), self._registry, ready_only)

    async def start(self) -> None:
        """Loads the start-up set. Raises Internal when one of its models does not serve afterwards, ValueError for a
        repository that is no directory."""
        settings = self._settings
        await trio.to_thread.run_sync(self._store.check)
        names = list(settings.load_model)
        if settings.model_control_mode != "explicit" or names == ["*"]:
            names = list(await self._names())
        elif "*" in names:
            raise InvalidArgument("Wildcard model name '*' must be the ONLY startup model if specified at all.")
        if await load_all(names, self.load):
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
        async with self._hosts.open(), trio.open_nursery() as nursery:
            if self._settings.model_control_mode == "poll" and self._settings.repository_poll_secs:
                nursery.start_soon(self._watch)
            task_status.started()
            async for command in self._receive:
                nursery.start_soon(self._serve, command)

    async def _ask(self, command: Command) -> None:
        if not self._loading.accepting:
            raise ShuttingDown("Server not ready")
        await self._send.send(command)
        await command.done.wait()
        if command.fault is not None:
            raise command.fault

    async def _serve(self, command: Command) -> None:
        try:
            async with self._turns.of(command.model_name):
                if isinstance(command, Load):
                    await self._loading.load(command.model_name, command.config, command.files)
                elif isinstance(command, Unload):
                    self._retirement.unload(command.model_name)
                else:
                    await self._poll()
            command.fault = None
        except Fault as fault:
            command.fault = fault
        except Exception as error:
            log.exception("a command about model '%s' failed", command.model_name)
            command.fault = Internal(f"{type(error).__name__}: {error}")
        finally:
            command.done.set()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(self._settings.repository_poll_secs)
            try:
                await self.poll()
            except Fault as fault:
                log.error("%s", fault.message)

    async def _poll(self) -> None:
        if self._settings.model_control_mode != "poll":
            raise Unavailable("polling is disabled")
        await follow(await self._names(), self._registry, self.load, self.unload)

    async def _names(self) -> Mapping[str, int]:
        return await trio.to_thread.run_sync(self._store.names, abandon_on_cancel=True, limiter=self._looks)

    def _ended(self, hosted: Hosted) -> None:
        """A version has ended by itself: it is taken out of service, and nobody else is."""
        model, fault = hosted.model, hosted.fault
        version = self._registry.entry(model.name).version(model.version)
        if version.model is model and fault is not None:
            version.move(State.UNAVAILABLE, fault.as_reason())
            self._registry.refresh(model.name)
