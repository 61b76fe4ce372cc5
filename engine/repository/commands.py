"""The repository's messages and the channel that they come over: bounded where they wait, and where they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from ...schema.fault import Fault, ShuttingDown, Unavailable
from ..observe.status import ActorStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS_MAX = 256
"""Commands waiting to be taken."""

COMMANDS_RUNNING_MAX = 32
"""Commands being carried out, or waiting for their model's turn."""


@attrs.define(eq=False)
class Command:
    """One message to the actor and, in the end, its answer."""

    model_name: str
    sent_at: float = attrs.field(factory=trio.current_time)
    done: trio.Event = attrs.field(factory=trio.Event)
    fault: Fault | None = attrs.field(factory=lambda: ShuttingDown("Server not ready"))
    """None once it has been carried out; until then, what its sender hears if the actor goes away."""

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {self.model_name}".rstrip()


@attrs.define(eq=False)
class Load(Command):
    config: str | None = None
    files: Mapping[str, bytes] = attrs.field(factory=dict)
    on_request: bool = False


@attrs.define(eq=False)
class Unload(Command):
    with_parts: bool = False
    """An ensemble's models go with it that nothing else needs."""


class Poll(Command):
    pass


class Commands:
    """Between senders and the actor. Everything is for the trio thread."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Command](COMMANDS_MAX)
        self._places = trio.Semaphore(COMMANDS_RUNNING_MAX)
        self._open: dict[Command, None] = {}
        """Those without an answer so far, in the order of sending."""

    async def ask(self, command: Command) -> None:
        """Returns when it has been carried out. Raises the Fault that it met, Unavailable when too many wait already.

        Cancelled, the command goes on unobserved.
        """
        try:
            self._send.send_nowait(command)
        except trio.WouldBlock:
            raise Unavailable(
                f"{COMMANDS_MAX} commands wait for the model repository already; try again later"
            ) from None
        self._open[command] = None
        await command.done.wait()
        if command.fault is not None:
            raise command.fault

    async def take(self) -> Command:
        """The next, as soon as there is a place for it; for the actor, who has to `answer` it."""
        await self._places.acquire()
        return await self._receive.receive()

    def answer(self, command: Command) -> None:
        """Tells the sender, if he is still there. Its place is free."""
        self._places.release()
        self._tell(command)

    def close(self) -> None:
        """Answers those that were never taken: the actor is gone."""
        for command in list(self._open):
            self._tell(command)

    def status(self, name: str) -> ActorStatus:
        """What their actor does now."""
        waiting = self._receive.statistics().current_buffer_used
        running = list(self._open)[: len(self._open) - waiting]
        return ActorStatus(
            name=name,
            doing=", ".join(map(str, running)) or "waits for commands",
            depth=len(self._open),
            bound=COMMANDS_MAX + COMMANDS_RUNNING_MAX,
            oldest_s=max((trio.current_time() - command.sent_at for command in self._open), default=0.0),
            facts={"running": len(running)},
        )

    def _tell(self, command: Command) -> None:
        self._open.pop(command, None)
        command.done.set()
