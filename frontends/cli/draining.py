"""How a server goes: not ready first, then the doors but one, then the models, and at last metrics and health.

signal ─▶ lame duck: not ready, serving ─▶ HTTP and gRPC close, in flight is answered ─▶ models unload ─▶ metrics closes
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import trio

from ...schema.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...engine.engine import Engine
    from .stopping import Stopping

log = logging.getLogger("despina.serve")

LAST = "metrics"
"""The door that shows the others' end."""


class Server(Protocol):
    """What every door's serve function starts with."""

    def announce_end(self) -> None:
        """The server will stop: whoever can be told is told. All is served as before."""
        ...

    def reload_tls(self) -> bool:
        """New connections are shown what the files of the certificate and key hold now; open ones go on. False without
        TLS. Raises BadCertificate, and nothing has changed."""
        ...

    def stop_accepting(self) -> None: ...

    async def drain(self, deadline: float) -> None: ...


async def drain(engine: Engine, servers: Mapping[str, Server], stopping: Stopping, lame_duck_s: float) -> None:
    """Serves on for `lame_duck_s`, closes the doors, answers what is in flight, unloads the models. `servers` are by
    their door's name."""
    engine.announce_end()
    for server in servers.values():
        server.announce_end()
    if lame_duck_s:
        log.info("Not ready from now on, doors close in %g s.", lame_duck_s)
        await trio.sleep(lame_duck_s)
    log.info("Waiting for in-flight requests to complete.")
    closing = [server for door, server in servers.items() if door != LAST]
    for server in closing:
        server.stop_accepting()
    async with trio.open_nursery() as nursery:
        for server in closing:
            nursery.start_soon(server.drain, stopping.deadline)
    log.info("All doors are closed, unloading models")
    try:
        await engine.stop()
    except Fault as fault:
        stopping.fail(fault.message)
    if LAST in servers:
        await servers[LAST].drain(stopping.deadline)
