"""An HTTP server over an engine: listening sockets in, routes behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from ..log_settings import LogSettings
from .connection.asgi import AsgiApplication
from .connection.hypercorn_door import HypercornDoor
from .connection.listener import Listener
from .handler.handlers import routes_of
from .handler.logged import LoggedInferHandler, logged
from .handler.router import Router

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ...engine.port.caller import Caller
    from ..access_log import AccessLog
    from ..tls import TlsSettings
    from .request.request import HttpRequest
    from .settings import HttpSettings


class Routing(Protocol):
    """Who answers the requests of a server."""

    def handle(self, request: HttpRequest) -> None:
        """Answers `request`, or starts what will. Never raises and never blocks."""
        ...

    def is_probe(self, method: bytes, path: bytes) -> bool:
        """Whether a request asks for health, and nothing else."""
        ...


PROTOCOLS: Final = ("h2", "http/1.1")
"""What TLS clients may choose from."""


async def serve_http(
    engine: Caller,
    settings: HttpSettings,
    *,
    sockets: Sequence[socket.socket],
    logs: LogSettings | None = None,
    access_log: AccessLog | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `engine` on `sockets`, which are bound, listening and from now on ours to close.

    Starts with the HttpServer as its value and returns when that has drained. Cancelled, it closes every connection at
    once and cancels what their requests wait for. Raises BadCertificate before it starts. `logs` is what the logging
    extension shows and changes, `access_log` where requests are noted.
    """
    shown = logs or LogSettings()

    def routing(nursery: trio.Nursery) -> Router:
        if access_log is None:
            routes = routes_of(engine, settings, shown, nursery)
        else:
            routes = routes_of(engine, settings, shown, nursery, infer=LoggedInferHandler(engine, settings, nursery))
        return Router(engine, routes, settings, nursery)

    await serve_routing(engine, settings, routing, sockets=sockets, access_log=access_log, task_status=task_status)


async def serve_routing(
    engine: Caller,
    settings: HttpSettings,
    open_routing: Callable[[trio.Nursery], Routing],
    *,
    sockets: Sequence[socket.socket],
    access_log: AccessLog | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The same with other routes: `open_routing` makes them, over a nursery for what they start."""
    context = None if settings.tls is None else settings.tls.open_context(PROTOCOLS)
    async with trio.open_nursery() as nursery:
        routing = open_routing(nursery)
        handle = routing.handle if access_log is None else logged(access_log, routing.handle)
        hypercorn = HypercornDoor(AsgiApplication(handle, settings), settings, context)
        if settings.server == "hypercorn":
            await nursery.start(hypercorn.run, sockets)
            listener = None
        else:
            await nursery.start(hypercorn.run, ())
            listener = Listener(
                sockets,
                handle,
                settings,
                hypercorn.serve,
                engine.inline,
                context,
                routing.is_probe,
            )
            nursery.start_soon(listener.run)
        server = HttpServer(listener, hypercorn, settings.tls)
        task_status.started(server)
        await server.drained.wait()
        nursery.cancel_scope.cancel()


class HttpServer:
    """A running server, for whoever stops it."""

    def __init__(self, listener: Listener | None, hypercorn: HypercornDoor, tls: TlsSettings | None = None) -> None:
        self._listener = listener
        self._hypercorn = hypercorn
        self._tls = tls
        self.drained = trio.Event()
        """Set once nothing is left to serve."""

    def announce_end(self) -> None:
        """Each HTTP/1.1 reply says `Connection: close` from now on and is its connection's last; new connections are
        served as before. So clients that ask often have left before the door closes, and none writes in vain."""
        if self._listener is not None:
            self._listener.announce_end()
        self._hypercorn.announce_end()

    def reload_tls(self) -> bool:
        """Reads the files of TLS anew, for connections to come. False without TLS. Raises BadCertificate, and nothing
        has changed."""
        if self._tls is None:
            return False
        context = self._tls.open_context(PROTOCOLS)
        if self._listener is not None:
            self._listener.use_context(context)
        self._hypercorn.use_context(context)
        return True

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
