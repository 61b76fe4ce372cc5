"""TLS for the doors: what is configured, and connections as non-blocking sockets whose readiness epoll can tell.

    accepted socket ──TlsDoor.welcome──▶ handshake (a task, under a deadline) ──▶ TlsSocket ──▶ the door's connection
                                              └─ refused, not TLS, too slow: closed

A door's connections are state machines over sockets that it watches with epoll, and OpenSSL keeps decrypted bytes where
epoll cannot see them. So a TlsSocket never leaves any behind: `recv` gives all of the record that it had to decrypt,
even if that is more than was asked for, and `recv_into` keeps the surplus for `surplus`. Both directions raise
BlockingIOError when the kernel has nothing or takes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Final

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from _typeshed import ReadableBuffer, WriteableBuffer

logger = logging.getLogger("despina.tls")

_RECORD_BYTES: Final = 16_384
"""The most that one record holds."""
_TURN_BYTES: Final = 262_144
"""Encrypted in one call before others have their turn."""
_MOMENT_S: Final = 1.0
_WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


@attrs.frozen(kw_only=True)
class TlsSettings:
    """Files are PEM. A server without a client's certificate asks for none."""

    server_cert: str
    """The server's certificate, and behind it those that lead to its authority."""
    server_key: str
    root_cert: str = ""
    """Authorities of clients' certificates."""
    mutual: bool = False
    """Only clients with a certificate of `root_cert` get in."""

    def open_context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        """The context for a door that speaks `protocols` (names of ALPN, the favourite first).

        Raises BadCertificate for files that cannot be read or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        if protocols:
            context.set_alpn_protocols(list(protocols))
        context.sslsocket_class = TlsSocket
        try:
            context.load_cert_chain(self.server_cert, self.server_key, password=_no_password)
        except (OSError, ValueError) as problem:
            raise BadCertificate(
                f"cannot use the certificate '{self.server_cert}' with the key '{self.server_key}': {_told(problem)}"
            ) from problem
        if self.mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.root_cert)
            except (OSError, ValueError) as problem:
                raise BadCertificate(
                    f"cannot use the root certificate '{self.root_cert}': {_told(problem)}"
                ) from problem
        return context


class BadCertificate(Exception):
    """A configured file is missing, no PEM, or does not fit the others."""


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a passphrase")


def _told(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem)


class TlsSocket(ssl.SSLSocket):
    """A connection after its handshake, non-blocking. See the module's docstring for what differs from a socket."""

    _surplus = b""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """One record's bytes, b"" at the end of the peer's stream. May be up to 16 KiB more than `buflen`."""
        try:
            data = super().recv(buflen)
        except _WANTS:
            raise _blocked() from None
        while left := self.pending():
            data += super().recv(left)
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Fills `buffer` as far as the records at hand go; what they hold beyond it waits in `surplus`."""
        view = memoryview(buffer)
        try:
            got = super().recv_into(view)
        except _WANTS:
            raise _blocked() from None
        while left := self.pending():
            if got == len(view):
                self._surplus += super().recv(left)
            else:
                got += super().recv_into(view[got:])
        return got

    def surplus(self) -> bytes:
        """Takes what came behind the bytes for which `recv_into` had room."""
        data, self._surplus = self._surplus, b""
        return data

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """As `sendmsg`."""
        if not isinstance(data, bytes) or len(data) > _RECORD_BYTES:
            return self.sendmsg([data])
        try:
            return super().send(data)
        except _WANTS:
            raise _blocked() from None

    def sendmsg(self, buffers: Iterable[ReadableBuffer]) -> int:  # type: ignore[override]  # ssl refuses it; we can
        """How many bytes the kernel took, encrypted. After BlockingIOError the next call must offer the same bytes
        again, and may offer more behind them: OpenSSL has encrypted the first record of them already."""
        total = 0
        for record in _records(buffers):
            try:
                sent = super().send(record)
            except _WANTS:
                if total:
                    break
                raise _blocked() from None
            total += sent
            if sent < len(record) or total >= _TURN_BYTES:
                break
        return total

    def shutdown(self, how: int) -> None:
        """Tells the peer that nothing follows, in TLS and in TCP. What it still sends is read as it comes, encrypted:
        this is for connections that throw it away."""
        with contextlib.suppress(OSError, ValueError):
            self.unwrap()
        super().shutdown(how)

    def close(self) -> None:
        """Tells the peer that this is the end, if it can still be told, and closes. Idempotent."""
        with contextlib.suppress(OSError, ValueError):
            self.unwrap()
        super().close()


def _blocked() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "the connection is not ready")


def _records(buffers: Iterable[ReadableBuffer]) -> Iterable[memoryview]:
    """The bytes of `buffers`, cut into records as large as can be. The first record holds 16 KiB or all there is, so a
    repeated call offers at least as much in it as the call before."""
    parts: list[memoryview] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        at = 0
        while at < len(view):
            piece = view[at : at + _RECORD_BYTES - size]
            at += len(piece)
            size += len(piece)
            parts.append(piece)
            if size == _RECORD_BYTES:
                yield parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
                parts, size = [], 0
    if parts:
        yield parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


class TlsDoor:
    """Shakes hands with accepted clients, each in a task of its own, for one listener."""

    def __init__(
        self, context: ssl.SSLContext, admit: Callable[[socket.socket], None], *, timeout_s: float, count_max: int
    ) -> None:
        """`admit` takes each connection that is ready for the door's protocol, on the trio thread."""
        self.context = context
        """Of handshakes that begin; may be replaced at any time."""
        self._admit = admit
        self._timeout_s = timeout_s
        self._count_max = count_max
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[trio.CancelScope, float] = {}
        """Of the handshakes under way, and when they began, the oldest first."""
        self._rested = trio.Event()
        self._rested.set()

    @property
    def count(self) -> int:
        """Handshakes under way."""
        return len(self._scopes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The door's life: until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def welcome(self, sock: socket.socket) -> None:
        """Takes an accepted, non-blocking socket. Never blocks and never raises."""
        if self._nursery is None or self.count >= self._count_max:
            sock.close()
            return
        self._nursery.start_soon(self._shake_hands, sock)

    def make_room(self, now: float) -> bool:
        """Gives up the handshake that has taken longest. False if none has taken more than a moment."""
        scope, began = next(iter(self._scopes.items()), (None, now))
        if scope is None or now - began < _MOMENT_S:
            return False
        del self._scopes[scope]
        scope.cancel()
        return True

    def close(self) -> None:
        """Gives up the handshakes under way."""
        for scope in list(self._scopes):
            scope.cancel()

    async def _shake_hands(self, sock: socket.socket) -> None:
        with trio.move_on_after(self._timeout_s) as scope, contextlib.ExitStack() as undo:
            self._scopes[scope] = trio.current_time()
            undo.callback(self._scopes.pop, scope, None)
            undo.callback(sock.close)
            try:
                secured = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                undo.callback(secured.close)
                await _handshake(secured)
            except OSError as problem:
                logger.debug("TLS: a handshake failed: %s", problem)
                return
            except Exception:
                logger.exception("TLS: a handshake failed")
                return
            undo.pop_all()
            self._scopes.pop(scope, None)
            self._admit(secured)


async def _handshake(sock: ssl.SSLSocket) -> None:
    """Raises OSError when the peer is gone or what it says is no handshake that ends well."""
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        else:
            await trio.lowlevel.checkpoint()
            return


class TlsStream:
    """A TlsSocket as the stream that a task reads and writes: as much of trio's stream as hypercorn uses."""

    def __init__(self, sock: TlsSocket) -> None:
        self.socket = sock

    async def receive_some(self, count: int) -> bytes:
        """Some bytes, b"" at the end; maybe more than `count`. Raises trio.BrokenResourceError for a lost peer."""
        while True:
            try:
                data = self.socket.recv(count)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as problem:
                raise trio.BrokenResourceError from problem
            else:
                await trio.lowlevel.checkpoint()
                return data

    async def send_all(self, data: ReadableBuffer) -> None:
        """Waits while the peer does not read. Raises trio.BrokenResourceError for a lost one."""
        left = memoryview(data)
        while left:
            try:
                left = left[self.socket.send(left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as problem:
                raise trio.BrokenResourceError from problem
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self.socket.close()
        await trio.lowlevel.checkpoint()
