"""What the floors beside this one look like from here: the connection that carries a call, and who serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ....engine.port.buffers import BufferPool
    from ....schema.tensor import Buffer
    from ..settings import GrpcSettings


class Sender(Protocol):
    """The sending side of a connection. Never blocks."""

    @property
    def peer_window_bytes(self) -> int:
        """The window that new streams start with."""
        ...

    def put(self, data: Buffer) -> None:
        """Queues bytes that flow control does not count."""
        ...

    def put_message(
        self, call: Any, head: bytes, buffers: Sequence[Buffer], size: int, trailers: bytes, flag: bytes = b"\0"
    ) -> None:
        """Queues one message of `size` bytes, after the frame `head` and before the frames `trailers`."""
        ...


class Transport(Protocol):
    """A connection, for its calls."""

    settings: GrpcSettings
    now: float
    """Seconds on trio's clock, as of this pass of the listener."""
    draining: bool
    """No new calls are taken."""
    calls: dict[int, Any]
    """By stream id, those that are not over."""

    @property
    def outlet(self) -> Sender: ...

    @property
    def peer(self) -> str:
        """The client, for the log."""
        ...

    @property
    def buffers(self) -> BufferPool:
        """Where large messages go."""
        ...

    def give_buffer(self, call: Any) -> None:
        """The buffer that the call has may be used again, once nobody has a view of it."""
        ...

    def forget(self, call: Any) -> None:
        """The call is over."""
        ...

    def flush_soon(self) -> None:
        """Something was queued."""
        ...

    def close(self) -> None:
        """Ends the connection at once and abandons its calls."""
        ...

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs an async function, which must not raise, under the server's nursery."""
        ...

    async def in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` gives in a thread."""
        ...


class Method(Protocol):
    """What serves the calls of one path."""

    is_streaming: bool
    """Whether the client may send many messages: the call then starts with its head, else with its first message."""

    @property
    def room_for(self) -> Callable[[Buffer], tuple[BufferPool, int] | None] | None:
        """Where a large message that begins so is received, and how many bytes of a buffer are left free before it;
        None for the door's own buffers."""
        ...

    def start(self, call: Any, message: Buffer) -> None:
        """Takes the call over, with its first message, empty where it starts with its head. Must not block; what it
        raises ends the call."""
        ...


class Compressor(Protocol):
    """Between the answers of one call and its connection."""

    encoding: str
    queued_bytes: int
    """Of messages that wait to be compressed."""
    is_busy: bool

    def put(self, buffers: Sequence[Buffer], size: int, *, is_only: bool) -> None:
        """Sends one message when those before it have been sent. Never blocks."""
        ...

    def end(self) -> None:
        """Ends the call well behind its last message."""
        ...

    def drop(self) -> None:
        """The call is over; nothing more is sent."""
        ...
