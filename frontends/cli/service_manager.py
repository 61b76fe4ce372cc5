"""What systemd, or whatever started the process, is told of its life: the notify protocol of sd_notify(3).

One datagram of `NAME=value` lines each time, to the socket that NOTIFY_SOCKET names. Nobody answers, and nothing here
fails: a manager that cannot be told is a line in the log.

| when                          | told                                                                              |
|-------------------------------|-----------------------------------------------------------------------------------|
| models load                   | STATUS: which ones; EXTEND_TIMEOUT_USEC, so that the start may take its time       |
| the doors are open            | READY                                                                              |
| every few seconds from then on| WATCHDOG, where the manager has one; STATUS, when it changed                       |
| SIGHUP                        | RELOADING, and READY when it is done                                               |
| a signal asked for the end    | STOPPING; EXTEND_TIMEOUT_USEC, as long as stopping may take                        |
| the start failed              | STATUS: why                                                                        |

All that comes again and again waits for the engine's heartbeat first (engine/observe/heartbeat.py). So a loop that is
stuck falls silent, and the manager acts: it ends the process, and starts another.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

import attrs
import trio

from ...engine.repository.registry import State

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from ...engine.engine import Engine
    from .stopping import Stopping

log = logging.getLogger("despina.serve")

REPORT_S: Final = 2.0
"""Between two looks at the engine, or a quarter of the watchdog's time if that is less."""
START_MORE_S: Final = 60.0
"""How much longer the start may take, from each time that the engine's heart beats."""
STOP_MORE_S: Final = 5.0
"""What a process needs to end, after all that it waits for."""
TELL_S: Final = 0.5
"""How long a manager may leave its socket full before it misses a message."""
NAMES_MAX: Final = 5
"""Models that a status line names."""


@attrs.define
class ServiceManager:
    """Who is told. Without a socket, nobody is."""

    address: str = ""
    """The socket's path, or `@` and its name in the kernel. Empty: there is no manager."""
    watchdog_s: float | None = None
    """After how long without WATCHDOG the manager ends the process."""
    _is_ready: bool = attrs.field(default=False, init=False)
    _status: str = attrs.field(default="", init=False)
    """What it was told last."""
    _is_deaf: bool = attrs.field(default=False, init=False)
    """The last message did not reach it; the log has said so."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The variables are removed: children of this process do not speak for it."""
        address, usec, pid = (environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        if address and not address.startswith(("/", "@")):
            log.warning("NOTIFY_SOCKET is neither a path nor a name that begins with '@': %s", address)
            address = ""
        is_ours = usec.isascii() and usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if address and is_ours else None)

    def tell(self, **fields: object) -> None:
        """Sends one message. Waits TELL_S at most for a manager that does not read."""
        if not self.address:
            return
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
        where = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(TELL_S)
                sock.sendto(text.encode(errors="replace"), where)
            self._is_deaf = False
        except OSError as problem:
            if not self._is_deaf:
                log.warning("the service manager cannot be told: %s: %s", self.address, problem.strerror or problem)
            self._is_deaf = True

    def ready(self, engine: Engine) -> None:
        """The doors are open."""
        self._is_ready = True
        self._status = serving_status(engine)
        self.tell(READY=1, STATUS=self._status)

    def failed(self, why: str) -> None:
        """The start failed."""
        self.tell(STATUS=why)

    def reloading(self, reload: Callable[[], None] | None) -> Callable[[], None] | None:
        """What a SIGHUP shall do: `reload`, with word of it. Under a manager it is a reload also where there is nothing
        to do."""
        if not self.address:
            return reload

        def told() -> None:
            self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            try:
                if reload is not None:
                    reload()
            finally:
                self.tell(READY=1)

        return told

    async def report(self, engine: Engine, stopping: Stopping) -> None:
        """Tells what goes on until cancelled."""
        if not self.address:
            return
        if self.watchdog_s is not None and not faulthandler.is_enabled():
            faulthandler.enable()  # the manager's SIGABRT then shows in the log where each thread was
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat, engine, stopping)
            await stopping.asked.wait()
            left_s = stopping.deadline - trio.current_time() + STOP_MORE_S
            self.tell(STOPPING=1, STATUS="finishing requests in flight", EXTEND_TIMEOUT_USEC=round(left_s * 1e6))

    async def _beat(self, engine: Engine, stopping: Stopping) -> None:
        interval_s = min(REPORT_S, (self.watchdog_s or REPORT_S * 4) / 4)
        while True:
            await engine.heartbeat.beat()
            fields: dict[str, object] = {}
            if not stopping.asked.is_set():
                status = serving_status(engine) if self._is_ready else loading_status(engine)
                if status != self._status:
                    self._status = fields["STATUS"] = status
                if not self._is_ready:
                    fields["EXTEND_TIMEOUT_USEC"] = round(START_MORE_S * 1e6)
            if self.watchdog_s is not None:
                fields["WATCHDOG"] = 1
            if fields:
                self.tell(**fields)
            await trio.sleep(interval_s)


def loading_status(engine: Engine) -> str:
    """`loading a, b; 3 ready, 1 failed`: models, each with its worst version."""
    loading, ready, failed = [], 0, 0
    for name, entry in sorted(engine.registry.models.items()):
        states = {version.state for version in entry.versions.values()}
        if State.LOADING in states or State.UNKNOWN in states:
            loading.append(name)
        elif states == {State.READY}:
            ready += 1
        else:
            failed += 1
    counts = ", ".join(f"{count} {word}" for count, word in ((ready, "ready"), (failed, "failed")) if count)
    return "; ".join(part for part in (f"loading {_listed(loading) or 'models'}", counts) if part)


def serving_status(engine: Engine) -> str:
    """`serving 3 models`, with what keeps the server from being well."""
    count = len({model.name for model in engine.versions()})
    problems = engine.health().problems
    return f"serving {count} model{'' if count == 1 else 's'}" + (f"; {'; '.join(problems)}" if problems else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMES_MAX]) + (f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else "")
