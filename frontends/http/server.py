"""An HTTP server over an engine: listening sockets in, routes behind them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ..log_settings import LogSettings
from .connection.asgi import AsgiApplication
from .connection.hypercorn_door import HypercornDoor
from .connection.listener import Listener
from .handler.handlers import routes_of
from .handler.routes import Router
from .usual import expect_alike

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ...engine.port.caller import Caller
    from .settings import HttpSettings


PROTOCOLS: Final = ("h2", "http/1.1")
"""What TLS clients may choose from."""


async def serve_http(
    engine: Caller,
    settings: HttpSettings,
    *,
    sockets: Sequence[socket.socket],
    logs: LogSettings | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `engine` on `sockets`, which are bound, listening and from now on ours to close.

    Starts with the HttpServer as its value and returns when that has drained. Cancelled, it closes every connection at
    once and cancels what their requests wait for. Raises BadCertificate before it starts. `logs` is what the logging
    extension shows and changes.
    """
    logs = logs or LogSettings()
    context = None if settings.tls is None else settings.tls.open_context(PROTOCOLS)
    async with trio.open_nursery() as nursery:
        routes = routes_of(engine, settings, logs, nursery, partial(expect_alike, engine))
        router = Router(engine, routes, settings, nursery)
        hypercorn = HypercornDoor(AsgiApplication(router.handle, settings), settings, context)
        if settings.server == "hypercorn":
            await nursery.start(hypercorn.run, sockets)
            listener = None
        else:
            await nursery.start(hypercorn.run, ())
            listener = Listener(
                sockets,
                router.handle,
                settings,
                hypercorn.serve,
                engine.inline,
                context,
                engine.generation,
                router.is_probe,
            )
            nursery.start_soon(listener.run)
        server = HttpServer(listener, hypercorn)
        task_status.started(server)
        await server.drained.wait()
        nursery.cancel_scope.cancel()


class HttpServer:
    """A running server, for whoever stops it."""

    def __init__(self, listener: Listener | None, hypercorn: HypercornDoor) -> None:
        self._listener = listener
        self._hypercorn = hypercorn
        self.drained = trio.Event()
        """Set once nothing is left to serve."""

    def stop_accepting(self) -> None:
        """Closes the listening sockets. Connections that are open are served on."""
        if self._listener is not None:
            self._listener.stop_accepting()
        self._hypercorn.stop_accepting()

    async def drain(self, deadline: float) -> None:
        """Closes the listening sockets and idle connections at once, lets requests in flight be answered (with
        `Connection: close`), and closes what is left at `deadline`, in seconds on trio's clock. The server then ends.
        """
        async with trio.open_nursery() as nursery:
            if self._listener is not None:
                nursery.start_soon(self._listener.drain, deadline)
            nursery.start_soon(self._hypercorn.drain, deadline)
        self.drained.set()
