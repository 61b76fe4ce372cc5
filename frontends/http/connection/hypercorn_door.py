"""hypercorn as the program that speaks HTTP, for connections that open with the HTTP/2 preface or for all of them.

Its defaults are for web sites; what is set below is for long-lived clients with long requests. `read_timeout` stays
unset: it would report a disconnect while a model computes.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from ...tls import TlsSocket, TlsStream
from ..request.breakdown import note
from .frame_budget import FrameBudget

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    from ..settings import HttpSettings
    from .asgi import AsgiApplication

Stream: TypeAlias = trio.SocketStream | TlsStream

_REQUESTS_MAX = 2**31
_STREAMS_MAX = 256
_LAST_FRAME_SECONDS = 0.05
_SPARE_AFTER_SECONDS = 1.0
"""A connection that has been idle for so long is ended where another needs its place."""
_PIECE_BYTES = 64 * 1024
"""A client must take so much within the write stall."""


class HypercornDoor:
    """Serves connections with hypercorn. `run` is its life; `serve` may be called while it runs."""

    def __init__(
        self, application: AsgiApplication, settings: HttpSettings, context: ssl.SSLContext | None = None
    ) -> None:
        """With a `context`, the clients of the listening sockets must speak TLS."""
        self._application = application
        self._settings = settings
        self._context = context
        self._nursery: trio.Nursery | None = None
        self._accepting = trio.CancelScope()
        self._count = 0
        self._served: dict[_Watched, Any] = {}
        """hypercorn's object for each connection."""
        self._emptied = trio.Event()
        self._is_draining = False
        self._parts: tuple[Any, Any, Any, Any] | None = None
        self._preparing = trio.Lock()

    async def run(
        self, sockets: Sequence[socket.socket], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves the listening `sockets`, of which there may be none, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if sockets:
                await self._prepare()
                nursery.start_soon(self._accept, [_listener_of(sock) for sock in sockets], nursery)
            task_status.started()
            await trio.sleep_forever()

    async def _accept(self, listeners: list[trio.SocketListener], nursery: trio.Nursery) -> None:
        with self._accepting:
            await trio.serve_listeners(self._serve_accepted, listeners, handler_nursery=nursery)

    async def _serve_accepted(self, stream: trio.SocketStream) -> None:
        if self._context is None:
            await self._serve_stream(stream, data=b"")
        else:
            await self._serve_stream(stream, data=b"", context=self._context)

    def use_context(self, context: ssl.SSLContext) -> None:
        """For handshakes from now on, where clients must speak TLS."""
        if self._context is not None:
            self._context = context

    def serve(self, sock: socket.socket, data: bytes) -> None:
        """Takes over a connection of which `data` has been read already, and its TLS if it has any."""
        stream: Stream
        if isinstance(sock, TlsSocket):
            stream = TlsStream(sock)
        else:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        assert self._nursery is not None, "runs"
        self._nursery.start_soon(partial(self._serve_stream, stream, data=data))

    async def _serve_stream(self, stream: Stream, *, data: bytes, context: ssl.SSLContext | None = None) -> None:
        if self._is_draining or (self._count >= self._settings.connection_count_max and not self._make_room()):
            await stream.aclose()
            return
        self._count += 1
        watched = _Watched(stream, data, self._settings.write_stall_timeout)
        try:
            server, wrapper, config, worker = await self._prepare()
            carrier: Any = watched
            if context is not None and isinstance(stream, trio.SocketStream):
                carrier = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            self._served[watched] = served = server(wrapper, config, worker, {}, carrier)
            await served
        except Exception as problem:
            note("hypercorn failed to serve a connection", problem)
        finally:
            self._served.pop(watched, None)
            self._count -= 1
            if not self._count:
                self._emptied.set()
                self._emptied = trio.Event()
            stream.socket.close()

    def _make_room(self) -> bool:
        """Ends the connection that has been idle for longest. False if all are at work."""
        now = trio.current_time()
        spare = [
            watched
            for watched, served in self._served.items()
            if now - watched.active_at > _SPARE_AFTER_SECONDS and served.is_idle()
        ]
        if not spare:
            return False
        self._served.pop(min(spare, key=lambda watched: watched.active_at)).served.cancel()
        return True

    async def _prepare(self) -> tuple[Any, Any, Any, Any]:
        """hypercorn's own objects, the same for every connection. Imported when first needed, off the trio thread."""
        async with self._preparing:
            if self._parts is None:
                self._parts = await trio.to_thread.run_sync(_load_hypercorn, self._application, self._settings)
            return self._parts

    def stop_accepting(self) -> None:
        self._accepting.cancel()

    def announce_end(self) -> None:
        """Over HTTP/1.1, replies say `Connection: close` from now on."""
        self._application.parting = True

    async def drain(self, deadline: float) -> None:
        """Waits for the requests in flight until `deadline`, in seconds on trio's clock, and then ends the connections.

        In this order, because hypercorn, once told to terminate, closes an HTTP/2 connection after its last reply's
        last byte and before the frame that says so; the pause lets that frame out.
        """
        self.stop_accepting()
        self._is_draining = True
        self._application.stop_soon()
        with trio.move_on_at(deadline):
            await self._application.wait_rested()
            if self._count:
                await trio.sleep(_LAST_FRAME_SECONDS)
            if self._parts is not None:
                await self._parts[3].terminated.set()
            if self._count:
                await self._emptied.wait()


def _load_hypercorn(application: AsgiApplication, settings: HttpSettings) -> tuple[Any, Any, Any, Any]:
    """The class whose objects serve a connection each, and the first three arguments that all of them get."""
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.config import Config
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext

    class Connection(TCPServer):
        """Ends with its client, and does without one that takes nothing. hypercorn alone would wait for its timer of
        idle connections, and for ever for a reply that nobody takes any more."""

        def is_idle(self) -> bool:
            """Whether no request is under way."""
            protocol = getattr(getattr(self, "protocol", None), "protocol", None)
            has_request = getattr(protocol, "streams", None) or getattr(protocol, "stream", None) is not None
            return protocol is not None and not has_request

        async def run(self) -> None:
            with trio.CancelScope() as self.served:
                await super().run()

        async def _read_data(self) -> None:
            self._task_group.spawn(self._end_stalled)
            await super()._read_data()
            self.served.cancel()

        async def _end_stalled(self) -> None:
            """Ends a connection of which nothing has left for a period, though replies wait: its windows are shut."""
            while True:
                sent = getattr(self.stream, "sent_bytes", 0)  # hypercorn's own TLS does not tell
                buffers = getattr(self.protocol.protocol, "stream_buffers", {})
                is_owed = any(buffer.buffer for buffer in buffers.values())
                await trio.sleep(settings.write_stall_timeout)
                if is_owed and getattr(self.stream, "sent_bytes", 1) == sent:
                    self.served.cancel()

    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("despina.http")
    config.include_date_header = False
    config.include_server_header = False
    config.keep_alive_max_requests = _REQUESTS_MAX
    config.ssl_handshake_timeout = settings.head_timeout
    config.keep_alive_timeout = settings.idle_timeout
    config.h11_max_incomplete_size = settings.head_bytes_max
    config.h2_max_header_list_size = settings.head_bytes_max
    config.h2_max_concurrent_streams = _STREAMS_MAX
    return Connection, ASGIWrapper(application), config, WorkerContext(None)  # type: ignore[arg-type]  # hypercorn's own types


def _listener_of(sock: socket.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


class _Watched:
    """A stream of which the beginning has been read already: as much of a stream as hypercorn uses. It breaks when the
    client takes nothing for `stall_s`, or sends too many HTTP/2 frames that carry nothing."""

    def __init__(self, stream: Stream, data: bytes, stall_s: float) -> None:
        self._stream = stream
        self._data = data
        self._stall_s = stall_s
        self._budget = FrameBudget(trio.current_time())
        self.socket = stream.socket
        self.sent_bytes = 0
        self.active_at = trio.current_time()
        """When something was last received or sent."""

    async def receive_some(self, count: int) -> bytes:
        if self._data:
            await trio.lowlevel.checkpoint()
            data = self._data
            self._data = b""
        else:
            data = bytes(await self._stream.receive_some(count))
        self.active_at = trio.current_time()
        if not self._budget.allows(data, trio.current_time()):
            raise trio.BrokenResourceError("too many frames that carry nothing")
        return data

    async def send_all(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE_BYTES):
            with trio.move_on_after(self._stall_s) as stall:
                await self._stream.send_all(view[start : start + _PIECE_BYTES])
            if stall.cancelled_caught:
                with trio.CancelScope() as forcefully:
                    forcefully.cancel()
                    await self._stream.aclose()  # which ends whoever reads, too
                raise trio.BrokenResourceError("the client takes nothing")
            self.sent_bytes += min(_PIECE_BYTES, len(view) - start)
            self.active_at = trio.current_time()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
