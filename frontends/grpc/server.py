"""The gRPC listener: one task for all connections, one task that looks after stalls.

    nursery ─┬─ listen   accepts, reads, parses, submits; replies leave from the engine's callbacks
             ├─ flush    sends what callbacks queued on connections that still have calls, once per scheduler pass
             ├─ sweep    every `_SWEEP_S` while there are connections: handshakes, stalls, keepalive, ages
             └─ one task per management call and per ModelStreamInfer call

A connection is a state machine without a task (connection.py), so a unary inference call costs no task switch here.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Any

import trio

from ...engine.port.buffers import BufferPool, Pools
from ...engine.port.dispatch import Watch
from ..alone import Alone
from ..bulk import Bulk
from ..carrier import Carrier
from ..restricted import by_path
from ..tls import TlsDoor
from .connection.connection import Connection, State
from .connection.sweep import sweep_connection
from .request.breakdown import note
from .request.head import Meanings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ...engine.port.caller import Passes
    from ...engine.port.doors import Found
    from ..access_log import AccessLog
    from .request.port import Method
    from .settings import GrpcSettings

_logger = logging.getLogger("despina.grpc")

_SWEEP_S = 0.5
_INSPECTED_AT_ONCE = 500
"""Connections: that takes about a millisecond."""
_STOPPING_LINGER_S = 0.25
"""Time for what comes last to go around the world."""
_LEAVING_S = 0.3
"""For a peer to say that it knows."""
_STOPPING_SWEEP_S = 0.1
"""The same while the server stops: connections that linger have little time."""
_ACCEPT_PAUSE_S = 0.2
"""Out of file descriptors: how long new connections wait in the kernel before the next attempt."""
_ROOM_CONNECTIONS = 16
"""So many idle ones make room then."""
_ACCEPTS_PER_PASS = 64
_BACKLOG_ACCEPTS_MAX = 1024
"""Clients let in at the end: as many as may wait."""
_WORKERS_MAX = 4
"""Large messages that are compressed or inflated at one time: what bombs may cost, and no thread that others need."""
_HANDSHAKES_MAX = 1024
"""TLS handshakes under way at one time; further clients are turned away."""
PROTOCOLS = ("h2",)
"""What TLS clients may choose from."""
_CONNECTION_ERRORS = {errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EPERM, errno.EINTR}


class GrpcServer:
    """A running listener. Everything on the trio thread. Raises BadCertificate for TLS that cannot be."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        settings: GrpcSettings,
        inline: Passes | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        """`inline` is the engine's; `access_log` is where calls are noted."""
        self.access_log = access_log
        self.inline: Passes = inline or Alone()
        self.is_lone = False
        """This pass is for one connection."""
        self.settings = settings
        self.bulk = Bulk()
        self.carrier = Carrier()
        self.buffers = BufferPool(settings.recycled_bytes_max)
        self.pools = Pools()
        """Those that buffers came back to, and have some."""
        self.meanings = Meanings(methods, by_path(settings.restricted))
        self._clock = trio.lowlevel.current_clock()
        self.now = self._clock.current_time()
        self.linger_s = settings.linger_s
        """How long a closed connection's last bytes may take to be read by the peer."""
        self.write_stall = (settings.write_stall_s, settings.write_stall_bytes_min)
        """How long a peer may take less than so many bytes of what waits for it."""
        self._tls: TlsDoor | None = None
        if settings.tls is not None:
            self._tls = TlsDoor(
                settings.tls.open_context(PROTOCOLS),
                self._admit,
                timeout_s=settings.handshake_timeout_s,
                count_max=_HANDSHAKES_MAX,
            )
        self.connections: dict[int, Connection] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._watch = Watch()
        self._watch.register(self.carrier.bell, EPOLLIN)
        self._accept_again_at = 0.0
        self._dirty: deque[Connection] = deque()
        self._flusher: trio.lowlevel.Task | None = None
        """The flush task while it is parked."""
        self._in_pass = False
        """Flushing is up to the end of the pass."""
        self.is_verbose = False
        """Every call is logged."""
        self._trimmed_at = 0.0
        """When buffers that nobody needed were freed."""
        self._gone = trio.Event()
        """Set, and replaced, when a connection ends."""
        self._company = trio.Event()
        """Set when there is something to sweep; the sweep replaces it."""
        self._nursery: trio.Nursery | None = None
        self._workers = trio.CapacityLimiter(_WORKERS_MAX)

    async def run(
        self,
        sockets: list[socket.socket],
        *,
        task_status: trio.TaskStatus[GrpcServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until cancelled, or until `drain` is through. Owns the listening sockets from now on."""
        try:
            for listener in sockets:
                listener.setblocking(False)
                self._listeners[listener.fileno()] = listener
                self._watch.register(listener.fileno(), EPOLLIN)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._flush)
                if self._tls is not None:
                    await nursery.start(self._tls.run)
                task_status.started(self)
                await self._listen()
        finally:
            self._close_listeners()
            for connection in list(self.connections.values()):
                connection.close()
            self.carrier.close()

    def announce_end(self) -> None:
        """Nothing: who is told to leave while the door is open comes back by it at once. `drain` asks all to leave, and
        what they have begun is answered."""

    def reload_tls(self) -> bool:
        """As the HTTP door's."""
        if self._tls is None or self.settings.tls is None:
            return False
        self._tls.context = self.settings.tls.open_context(PROTOCOLS)
        return True

    def stop_accepting(self) -> None:
        """Lets in who already knocked, then closes the listening sockets; calls and connections go on. Idempotent."""
        for listener in self._listeners.values():
            # A client that shakes hands first has asked for nothing yet.
            if not self._accept_again_at and self._tls is None:
                self._accept(listener, _BACKLOG_ACCEPTS_MAX)
        self._close_listeners()

    def _close_listeners(self) -> None:
        for fd, listener in self._listeners.items():
            if not self._accept_again_at:
                self._watch.unregister(fd)
            listener.close()
        self._listeners.clear()

    async def drain(self, deadline: float = float("inf")) -> None:
        """Stops accepting, asks every peer to leave, takes the calls that cross that on their way, and returns when all
        calls are answered and all connections are closed. At `deadline` (trio's clock) the rest is cut off. Nobody
        waits for idle connections and streams, and for half-sent requests, and peers who read nothing of their answers,
        only `stop_grace`."""
        self.stop_accepting()
        self.now = self._clock.current_time()
        self.linger_s = min(self.linger_s, _STOPPING_LINGER_S)
        self.write_stall = (min(self.settings.write_stall_s, self.settings.stop_grace), 1)
        if self._tls is not None:
            self._tls.close()
        for connection in list(self.connections.values()):
            connection.announce_stop()
        with trio.CancelScope(deadline=deadline):
            with trio.move_on_after(min(_LEAVING_S, self.settings.stop_grace)):
                await self._all_gone()
            self.now = self._clock.current_time()
            for connection in list(self.connections.values()):
                connection.stop()
            with trio.move_on_after(self.settings.stop_grace):
                await self._all_gone()
            self.now = self._clock.current_time()
            for connection in list(self.connections.values()):
                connection.refuse_half_sent()
            await self._all_gone()
        for connection in list(self.connections.values()):
            connection.close()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _all_gone(self) -> None:
        """Returns when no connection is left."""
        while self.connections:
            with trio.move_on_after(_STOPPING_SWEEP_S) as scope:
                await self._gone.wait()
            if scope.cancelled_caught:
                self._inspect(list(self.connections.values()))

    # For connections.

    def watch(self, connection: Connection, *, readable: bool, writable: bool) -> None:
        events = (EPOLLIN if readable else 0) | (EPOLLOUT if writable else 0)
        self._watch.modify(connection.fd, events)

    def remove(self, connection: Connection) -> None:
        """The connection has ended; its socket is about to be closed."""
        del self.connections[connection.fd]
        self._watch.unregister(connection.fd)
        self._gone.set()
        self._gone = trio.Event()

    def flush_later(self, connection: Connection) -> None:
        self._dirty.append(connection)
        if self._flusher is not None and not self._in_pass:
            trio.lowlevel.reschedule(self._flusher)
            self._flusher = None

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        assert self._nursery is not None, "calls come while the server runs"
        self._nursery.start_soon(function, *arguments)

    async def in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True, limiter=self._workers)

    # Tasks.

    async def _listen(self) -> None:
        while True:
            try:
                await self._watch.dispatch(self._serve)
            except Exception as problem:
                note("the listener stumbled", problem)
                await trio.sleep(_ACCEPT_PAUSE_S)  # what is wrong may go on: the listener must not spin

    def _serve(self, found: Found) -> None:
        """Some connections have something."""
        connections = self.connections
        inline = self.inline
        dirty = self._dirty
        self.now = self._clock.current_time()
        self.is_verbose = _logger.isEnabledFor(logging.DEBUG)
        self.is_lone = len(found) == 1
        inline.begin_pass()
        self._in_pass = True
        try:
            for fd, events in self.bulk.begin(found):
                connection = connections.get(fd)
                if connection is None:
                    if fd in self._listeners:
                        self._accept(self._listeners[fd])
                    elif fd == self.carrier.bell:
                        self.carrier.collect()
                    continue
                if events & EPOLLOUT:
                    connection.now = self.now
                    connection.flush()
                if events & ~EPOLLOUT and connection.state is not State.CLOSED:
                    connection.on_readable()
        finally:
            self._in_pass = False
            inline.end_pass()
        # What the pass has answered leaves now, together.
        while dirty:
            dirty.popleft().flush()

    def _accept(self, listener: socket.socket, limit: int = _ACCEPTS_PER_PASS) -> None:
        for _ in range(limit):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _CONNECTION_ERRORS:
                    continue
                _logger.warning("cannot accept connections: %s; trying again in %s s", error, _ACCEPT_PAUSE_S)
                if not self._accept_again_at:  # else another listener has met it in this pass
                    for fd in self._listeners:
                        self._watch.unregister(fd)
                self._accept_again_at = self.now + _ACCEPT_PAUSE_S
                self._company.set()
                self._make_room()
                return
            try:
                sock.setblocking(False)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    self._tls.welcome(sock)
                else:
                    self._admit(sock)
            except OSError:
                sock.close()
            except Exception as problem:
                note("a new connection is turned away", problem)
                sock.close()

    def _make_room(self) -> None:
        """Asks those to leave who have been idle for longest: whoever holds many connections must not shut out all
        who come."""
        idle = [one for one in self.connections.values() if not one.calls and one.outlet.is_idle]
        idle.sort(key=lambda one: one.received_at)
        for connection in idle[:_ROOM_CONNECTIONS]:
            connection.go_away()
            connection.close()

    def _admit(self, sock: socket.socket) -> None:
        """From here on the client speaks HTTP/2. Never raises."""
        try:
            self.now = self._clock.current_time()
            connection = Connection(self, sock)
            self._watch.register(connection.fd, EPOLLIN)
            self.connections[connection.fd] = connection
            self._company.set()
        except Exception as problem:
            note("a new connection is turned away", problem)
            sock.close()
            return
        connection.corked = False
        connection.flush()

    async def _flush(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        task = trio.lowlevel.current_task()
        while True:
            try:
                self._flusher = task
                await trio.lowlevel.wait_task_rescheduled(abort)
                while self._dirty:
                    self._dirty.popleft().flush()
            except Exception as problem:
                note("a connection was not flushed", problem)
                self._flusher = None

    async def _sweep(self) -> None:
        while True:
            if not self.connections and not self._accept_again_at:
                await self._until_company()
            await trio.sleep(_ACCEPT_PAUSE_S if self._accept_again_at else _SWEEP_S)
            try:
                await self._inspect_by_parts()
                self._trim(self.now)
                if self._accept_again_at and self.now >= self._accept_again_at:
                    self._accept_again_at = 0.0
                    for fd in self._listeners:
                        self._watch.register(fd, EPOLLIN)
            except Exception as problem:
                note("an inspection of all connections stumbled", problem)

    async def _until_company(self) -> None:
        """Returns when there is somebody to look after. Buffers that nobody needs are freed also meanwhile."""
        self._company = trio.Event()
        while self.pools and not self._company.is_set():
            with trio.move_on_after(self.settings.recycled_idle):
                await self._company.wait()
            self._trim(trio.current_time())
        await self._company.wait()

    def _trim(self, now: float) -> None:
        if now - self._trimmed_at >= self.settings.recycled_idle:
            self._trimmed_at = now
            self.pools.trim(now, self.settings.recycled_idle)

    async def _inspect_by_parts(self) -> None:
        """All of them; with very many, requests get their turn in between."""
        self.now = self._clock.current_time()
        connections = list(self.connections.values())
        for start in range(0, len(connections), _INSPECTED_AT_ONCE):
            if start:
                await trio.lowlevel.checkpoint()
            self._inspect(connections[start : start + _INSPECTED_AT_ONCE])

    def _inspect(self, connections: Iterable[Connection]) -> None:
        self.now = self._clock.current_time()
        for connection in connections:
            try:
                sweep_connection(connection, self.now)
            except Exception as problem:
                note("a connection failed its inspection and is closed", problem)
                connection.close()
