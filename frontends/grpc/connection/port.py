"""What the parts of a connection see of it, and it of the listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....engine.port.buffers import BufferPool, Pools
    from ....engine.port.caller import Passes
    from ...access_log import AccessLog
    from ...bulk import Bulk
    from ...carrier import Carrier
    from ...tls import TlsSocket
    from ..request.call import Call
    from ..request.head import Meanings
    from ..settings import GrpcSettings
    from .limits import TokenBucket
    from .outlet import Outlet


class Framed(Protocol):
    """A connection, for who reads its frames."""

    settings: GrpcSettings
    now: float
    sock: Any
    fd: int
    bulk: Bulk
    tls: TlsSocket | None
    calls: dict[int, Call]
    outlet: Outlet
    draining: bool
    last_id: int
    """The highest stream id the peer has used."""
    idle_frames: TokenBucket

    @property
    def is_open(self) -> bool: ...

    @property
    def control(self) -> Steering: ...

    def stop(self) -> None:
        """The server stops, and the peer knows."""
        ...

    def call_for_data(self, stream_id: int) -> Call | None:
        """The call that the bytes belong to, or None when it has ended lately."""
        ...

    def count_data(self, count: int, call: Call | None) -> None:
        """Flow control of received bytes."""
        ...

    def on_block(self, block: bytes, flags: int, stream_id: int) -> None:
        """A header block is complete."""
        ...

    def take_call(self, block: bytes, stream_id: int, message: bytes, grown: int, is_only: bool) -> bool:
        """A call with one plain message that is all there; no other is if `is_only`. Its window has `grown` already.
        False, and only its header block is taken, where that needs the way of all others."""
        ...

    def carry(self, place: memoryview) -> None:
        """Has the carrier receive into that place; nothing else is read until the reader is told of it."""
        ...

    def on_reset(self, length: int, stream_id: int) -> None:
        """RST_STREAM came."""
        ...


class Steering(Protocol):
    """What acts on frames that steer a connection."""

    def receive(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bool:
        """Acts on one frame. True for one that a peer should not send often."""
        ...


class Listener(Protocol):
    """The listener, for its connections."""

    settings: GrpcSettings
    access_log: AccessLog | None
    """Where calls are noted."""
    meanings: Meanings
    bulk: Bulk
    carrier: Carrier
    buffers: BufferPool
    """Where large messages go whose models have no buffers."""
    pools: Pools
    """Where they went lately."""
    is_verbose: bool
    """Every call is logged."""
    is_lone: bool
    """This pass is for one connection."""
    inline: Passes
    """The engine's."""
    now: float
    linger_s: float
    """How long a closed connection's last bytes may take to be read by the peer."""
    write_stall: tuple[float, int]
    """How long a peer may take less than so many bytes of what waits for it."""

    def watch(self, connection: Any, *, readable: bool, writable: bool) -> None:
        """From now on the connection is told of these."""
        ...

    def remove(self, connection: Any) -> None:
        """The connection has ended; its socket is about to be closed."""
        ...

    def flush_later(self, connection: Any) -> None:
        """Calls its `flush` at the end of the pass, or of the scheduler's."""
        ...

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs an async function under the server's nursery."""
        ...

    async def in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` gives in a thread."""
        ...
