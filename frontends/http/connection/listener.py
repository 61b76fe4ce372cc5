"""The listener: one task for all connections of a server.

A task per connection costs two switches per request, more than everything else that the door does, so connections are
plain state machines (receiver.py) and this loop feeds them. Each pass is bounded: so many events, accepts and
requests received ahead, and then other tasks have their turn.

    task        what it does
    run         accepts, reads, writes, whenever epoll has something, while trio waits (engine/port/dispatch.py)
    tick        while there are connections, once a second, and more often for short timeouts: ends waits that took too
                long, reopens a paused door
"""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ....engine.port.buffers import BufferPool, Pools
from ....engine.port.dispatch import Watch
from ...alone import Alone
from ...bulk import Bulk
from ...carrier import Carrier
from ...heap import HEAP
from ...tls import TlsDoor
from ..request.breakdown import note
from ..request.verbose import VERBOSITY
from .connection import Connection
from .head import HeadReader
from .room import ProbeConnection, Room
from .sender import READ

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from ....engine.port.caller import Passes
    from ....engine.port.doors import Found
    from ..request.request import HttpRequest
    from ..settings import HttpSettings
    from .sender import Sender

logger = logging.getLogger("despina.http")

_ACCEPTS_MAX: Final = 64
_RESUMES_MAX: Final = 64
_OUT_OF_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_DRAIN_LOOK_SECONDS: Final = 0.05
_WARN_SECONDS: Final = 10.0
_BREATHER_SECONDS: Final = 0.05
"""After a pass that failed, which the next one may too: nothing is lost, for epoll tells again what is there."""


class Listener:
    """Serves `handle` on listening sockets. Lives on the trio thread; `run` is its life.

    `handle(request)` never raises and never blocks. `hand_over_http2(socket, bytes)` takes a connection that opened
    with the HTTP/2 preface; None means that there is nobody who could. `inline` is the engine's, which shares batches
    between the requests of a pass. With a `context`, clients must speak TLS. `is_probe(method, path)` says which
    requests are served even when no connection is left.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        handle: Callable[[HttpRequest], None],
        settings: HttpSettings,
        hand_over_http2: Callable[[socket.socket, bytes], None] | None = None,
        inline: Passes | None = None,
        context: ssl.SSLContext | None = None,
        is_probe: Callable[[bytes, bytes], bool] | None = None,
    ) -> None:
        self.handle = handle
        self.is_probe = is_probe or (lambda method, path: False)
        self._passes: Passes = inline or Alone()
        self.settings = settings
        self._clock = trio.lowlevel.current_clock()
        self.now = self._clock.current_time()
        """Seconds on trio's clock at the start of this pass."""
        self.parting = False
        """True once replies say `Connection: close`: before the door closes, so that clients need not find out."""
        self.draining = False
        """True once connections end as soon as nothing is owed."""
        self.draining_since = math.inf
        self.takes_http2 = hand_over_http2 is not None
        self.heads = HeadReader(settings)
        self.bulk = Bulk()
        self.buffers = BufferPool(settings.recycled_bytes_max)
        """Where large bodies go whose models have no buffers."""
        self.pools = Pools()
        """Where they went lately."""
        self.connections: dict[int, Connection] = {}
        self._room = Room(self.connections)
        self._probes: dict[int, ProbeConnection] = {}
        """Of the connections those beyond the limit, oldest first."""
        self._probe_count_max = settings.probe_count_max if is_probe is not None else 0
        self._warned_at = -math.inf
        self._hand_over_http2 = hand_over_http2
        self._tls: TlsDoor | None = None
        if context is not None:
            self._tls = TlsDoor(
                context, self._admit, timeout_s=settings.head_timeout, count_max=settings.connection_count_max
            )
        self._doors = {sock.fileno(): sock for sock in sockets}
        self._is_paused = False
        self._resumes: deque[Sender] = deque()
        self._is_awake = False
        """True during a pass of the loop."""
        self._emptied = trio.Event()
        self._company = trio.Event()
        """Set when there is something to watch; the tick replaces it."""
        self._trimmed_at = self.now
        self._watch = Watch()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Wakes the loop for what replies leave to do between two passes."""
        self._watch.register(self._bell, READ)
        self.carrier = Carrier()
        self._watch.register(self.carrier.bell, READ)
        for fd, sock in self._doors.items():
            sock.setblocking(False)
            self._watch.register(fd, READ)

    async def run(self) -> None:
        """Serves until cancelled; then every connection is closed and what it waited for is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tick, nursery)
                if self._tls is not None:
                    await nursery.start(self._tls.run)
                await self._serve()
        finally:
            self.stop_accepting()
            for connection in list(self.connections.values()):
                connection.close()
            self.carrier.close()
            os.close(self._bell)

    async def _serve(self) -> None:
        while True:
            try:
                await self._watch.dispatch(self._pass)
            except Exception as problem:
                note("a pass over the connections failed", problem)
                await trio.sleep(_BREATHER_SECONDS)

    def _pass(self, found: Found) -> None:
        """Some connections have something, or requests received ahead wait."""
        connections = self.connections
        resumes = self._resumes
        passes = self._passes
        self.now = self._clock.current_time()
        VERBOSITY.look()
        self._is_awake = True
        try:
            passes.begin_pass(is_alone=len(found) == 1 and not resumes)
            try:
                for fd, events in self.bulk.begin(found):
                    connection = connections.get(fd)
                    if connection is not None:
                        try:
                            connection.on_event(events)
                        except Exception as problem:
                            connection.fail(problem)
                    elif fd in self._doors:
                        self._accept(self._doors[fd])
                    elif fd == self._bell:
                        os.eventfd_read(fd)
                    elif fd == self.carrier.bell:
                        self.carrier.collect()
                for _ in range(min(len(resumes), _RESUMES_MAX)):
                    sender = resumes.popleft()
                    try:
                        sender.resume()
                    except Exception as problem:
                        sender.fail(problem)
            finally:
                passes.end_pass()
        finally:
            self._is_awake = False
            if resumes:
                os.eventfd_write(self._bell, 1)

    async def _tick(self, nursery: trio.Nursery) -> None:
        settings = self.settings
        shortest = min(
            settings.head_timeout,
            settings.body_stall_timeout,
            settings.idle_timeout,
            settings.write_stall_timeout,
            settings.linger_timeout,
        )
        while True:
            if not self.connections and not self._is_paused:
                self._company = trio.Event()
                with trio.move_on_after(settings.recycled_idle):  # memory is given back also when nobody comes
                    await self._company.wait()
            await trio.sleep(max(0.02, min(1.0, shortest / 4)))
            self.now = now = self._clock.current_time()
            for connection in list(self.connections.values()):
                try:
                    connection.on_tick(now)
                except Exception as problem:
                    connection.fail(problem)
            self._resume_accepting()
            if now - self._trimmed_at > settings.recycled_idle:
                self._trimmed_at = now
                if self.pools.trim(now, settings.recycled_idle) and HEAP.is_swollen():
                    nursery.start_soon(partial(trio.to_thread.run_sync, HEAP.trim, abandon_on_cancel=True))

    # The doors.

    def _accept(self, door: socket.socket, limit: int = _ACCEPTS_MAX) -> None:
        for _ in range(limit):
            if self._count() >= self.settings.connection_count_max:
                if not _is_knocked_at(door):
                    return
                if not self._make_room():
                    self._pause_accepting(f"{self._count()} connections are open")
                    return
            try:
                sock, _ = door.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno in _OUT_OF_ROOM:
                    if _is_knocked_at(door) and self._room.make(self.now):
                        continue
                    self._pause_accepting(str(problem))
                    return
                continue  # that client left before it was let in
            except MemoryError as problem:
                self._pause_accepting(repr(problem))
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, self.settings.keepalive_probe_after)
            if self._tls is not None:
                self._tls.welcome(sock)
            else:
                self._admit(sock)

    def _count(self) -> int:
        """Places taken, probes' left out."""
        return len(self.connections) - len(self._probes) + (self._tls.count if self._tls is not None else 0)

    def _make_room(self) -> bool:
        """For one beyond the limit: another goes, or it may come in for health only. False if neither is possible."""
        taken = self._count()
        if self._room.make(self.now) or (self._tls is not None and self._tls.make_room(self.now)):
            self._warn("%d connections are open: idle ones make room for new ones", taken)
            return True
        self._warn("%d connections are open, all at work: only health probes are let in", taken)
        if taken + len(self._probes) < self.settings.connection_count_max + self._probe_count_max:
            return True
        probe = next((probe for probe in self._probes.values() if probe.may_go()), None)
        if probe is not None:
            probe.close()
        return probe is not None

    def _warn(self, text: str, *details: object) -> None:
        """Into the log, but not again and again."""
        if self.now - self._warned_at > _WARN_SECONDS:
            self._warned_at = self.now
            logger.warning("HTTP: " + text, *details)

    def _admit(self, sock: socket.socket) -> None:
        """From here on the client speaks HTTP. Never raises: whom it cannot take it sends away."""
        self.now = self._clock.current_time()
        try:
            if self._count() < self.settings.connection_count_max:
                connection = Connection(self, sock)
            else:
                self._probes[sock.fileno()] = connection = ProbeConnection(self, sock)
            self._watch.register(connection.fd, READ)
            self.connections[connection.fd] = connection
            self._company.set()
        except Exception as problem:
            note("a client cannot be let in", problem)
            self._probes.pop(sock.fileno(), None)
            sock.close()

    def _pause_accepting(self, reason: str) -> None:
        """Leaves new clients in the backlog: a door that is readable and not accepted from would spin the loop."""
        if not self._is_paused:
            self._is_paused = True
            self._company.set()
            self._warn("not accepting connections for now: %s", reason)
            for fd in self._doors:
                self._watch.unregister(fd)

    def _resume_accepting(self) -> None:
        """Somebody has left, or a little time has passed: who knocks may find room now."""
        if self._is_paused:
            self._is_paused = False
            for fd in self._doors:
                self._watch.register(fd, READ)

    def announce_end(self) -> None:
        """Replies say `Connection: close` from now on; new connections are let in as before. Idempotent."""
        self.parting = True

    def use_context(self, context: ssl.SSLContext) -> None:
        """For handshakes from now on, where clients must speak TLS."""
        if self._tls is not None:
            self._tls.context = context

    def stop_accepting(self) -> None:
        """Lets in who already knocked, then closes the listening sockets. Idempotent."""
        doors = self._doors
        for fd, door in doors.items():
            if not self._is_paused:
                self._accept(door, limit=self.settings.connection_count_max)
            if not self._is_paused:
                self._watch.unregister(fd)
            door.close()
        self._doors = {}

    async def drain(self, deadline: float) -> None:
        """Closes the doors and idle connections at once, lets requests in flight be answered, gives half-sent ones
        `stop_grace`, and closes what is left at `deadline`, in seconds on trio's clock. Cancelled, it closes nothing
        more."""
        self.stop_accepting()
        self.draining = True
        self.announce_end()
        self.draining_since = self._clock.current_time()
        if self._tls is not None:
            self._tls.close()
        with trio.move_on_at(deadline):
            while self.connections:
                self.now = self._clock.current_time()
                for connection in list(self.connections.values()):
                    try:
                        connection.on_drain()
                    except Exception as problem:
                        connection.fail(problem)
                with trio.move_on_after(_DRAIN_LOOK_SECONDS):
                    await self._emptied.wait()
        if self.connections:
            logger.warning("HTTP: closing %d connections that did not end in time", len(self.connections))
        for connection in list(self.connections.values()):
            connection.close()

    # For connections.

    def watch(self, fd: int, events: int) -> None:
        self._watch.modify(fd, events)

    def forget(self, connection: Sender) -> None:
        """The connection's socket is about to close or to change hands."""
        del self.connections[connection.fd]
        if self._probes:
            self._probes.pop(connection.fd, None)
        self._watch.unregister(connection.fd)
        self._resume_accepting()
        if self.draining and not self.connections:
            self._emptied.set()

    def resume_soon(self, connection: Sender) -> None:
        """Before the next wait, takes the connection's next request from what it has received."""
        if not self._is_awake and not self._resumes:
            os.eventfd_write(self._bell, 1)
        self._resumes.append(connection)

    def hand_over(self, connection: Sender, data: bytes) -> None:
        assert self._hand_over_http2 is not None, "asked only where takes_http2"
        self._hand_over_http2(connection.release(), data)


def _is_knocked_at(door: socket.socket) -> bool:
    """Whether a client waits: `accept` cannot tell where there is no descriptor for one."""
    poll = select.poll()
    poll.register(door, select.POLLIN)
    return bool(poll.poll(0))
