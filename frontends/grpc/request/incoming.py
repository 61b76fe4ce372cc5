"""The receiving half of a call: from DATA bytes, cut anywhere, to whole messages, plain again if they were compressed.

What the connection calls never raises: whatever breaks, breaks off the call.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ....engine.port.buffers import RECYCLED_FROM
from ...carrier import CARRIED_FROM
from ..wire.constants import window_update
from .inflate import INLINE_BYTES_MAX, BadCompression, NobodyWaits, TooLarge, inflate_at_once, inflate_in_steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy as np

    from ....engine.port.buffers import BufferPool
    from ....schema.tensor import Buffer
    from .head import Head
    from .port import Transport

_RESOURCE_EXHAUSTED, _INTERNAL = 8, 13
PREFIX_BYTES: Final = 5
"""Before each message: a flag and its length."""
WHOLE_BYTES_MAX: Final = 65_536 + 4_096
"""Of messages that are taken out of their frame at once: a tensor of 64 KiB with what describes it."""
_PROGRESS_BYTES: Final = 16_384
"""What counts as progress of a message that is not complete."""
_BEGINNING_BYTES: Final = 4096
"""Of a large message that are looked at before it is received."""
NONE: Final[deque[Any]] = deque(maxlen=0)
"""For what calls seldom have: nothing can be added to it."""


class Incoming:
    """What most calls have at these values is stored with those only that differ."""

    connection: Transport
    id: int
    head: Head
    receive_window: int
    """What the peer may still send."""
    received_at: float
    """When the last progress was made."""
    started = False
    done = False
    """Finished or abandoned: nothing more may be replied."""
    ended = False
    """The peer sends no more messages."""
    on_input: Callable[[], None] | None = None
    """Called when a message arrived or `ended` was set."""
    messages: deque[Buffer] = NONE
    """Arrived and not taken. Not to be added to from outside."""
    received_bytes = 0
    """Since the last progress."""
    uncredited = 0
    """Received bytes for which the window was not reopened yet: those of messages not taken."""
    _prefix = b""
    """The start of a message prefix that was cut by a frame's end."""
    buffer: np.ndarray | None = None
    """Below the large message that came last: the connection gives it back when the call is over,"""
    pool: BufferPool | None = None
    """to the pool that it is from."""
    _assembly: memoryview | None = None
    _assembled = 0
    _compressed = False
    _credit = 0
    _inflating: deque[tuple[Buffer, bool]] | None = None
    """Messages behind one that is being decompressed in a worker, with their flags."""

    # The call's.

    def start(self) -> None:
        """The first message is there."""
        raise NotImplementedError

    def start_task(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Runs an async function of the call; what it raises ends the call."""
        raise NotImplementedError

    def refuse(self, status: int, text: str) -> None:
        """Ends the call because of what the client sent or did not send; its handler is told to stop."""
        raise NotImplementedError

    def break_off(self, what: str, problem: Exception) -> None:
        """Ends the call because something of ours broke."""
        raise NotImplementedError

    # For the connection.

    def count(self, size: int) -> bool:
        """`size` DATA bytes came. False when they are more than the stream's window."""
        self.receive_window -= size
        self.uncredited += size
        self.received_bytes += size
        if self.received_bytes >= _PROGRESS_BYTES or self.started:
            self.received_bytes = 0
            self.received_at = self.connection.now
        return self.receive_window >= 0

    def feed_frame(self, data: bytes, at: int, stop: int, end: bool) -> None:
        """Takes the DATA bytes data[at:stop]. Quick where they are the call's one message, as they mostly are."""
        try:
            if (
                not self.started
                and stop - at > 5
                and data[at] == 0
                and self._assembly is None
                and not self._prefix
                and self._inflating is None
                and int.from_bytes(data[at + 1 : at + 5], "big") == stop - at - 5 <= WHOLE_BYTES_MAX
            ):
                self.ended = end
                self._push(data[at + 5 : stop], 0)
            else:
                self._feed(memoryview(data)[at:stop], end)
        except Exception as problem:
            self.break_off("a request cannot be taken", problem)

    def feed(self, data: bytes | memoryview, end: bool) -> None:
        """Takes DATA bytes, which it copies; then, if `end`, notes that they were the last."""
        try:
            self._feed(data, end)
        except Exception as problem:
            self.break_off("a request cannot be taken", problem)

    def _feed(self, data: bytes | memoryview, end: bool) -> None:
        if end:
            self.ended = True
        at, size = 0, len(data)
        while at < size and not self.done:
            assembly = self._assembly
            if assembly is not None:
                count = min(size - at, len(assembly) - self._assembled)
                assembly[self._assembled : self._assembled + count] = data[at : at + count]
                at += count
                self._advance(count)
                continue
            if self._prefix or size - at < 5:
                count = min(5 - len(self._prefix), size - at)
                self._prefix += data[at : at + count]
                at += count
                if len(self._prefix) < 5:
                    break
                flag, length = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
                self._prefix = b""
            else:
                flag, length = data[at], int.from_bytes(data[at + 1 : at + 5], "big")
                at += 5
            if size - at >= length:
                self._push(bytes(data[at : at + length]), flag)
                at += length
            else:
                self._begin(length, flag, data[at : at + _BEGINNING_BYTES])
        if end and not self.done:
            if self._assembly is not None or self._prefix:
                self.refuse(_INTERNAL, "Incomplete message")
            elif self.on_input is not None:
                self.on_input()
            elif not self.started and self._inflating is None:
                self.refuse(_INTERNAL, "Unable to parse request")

    @property
    def is_mid_message(self) -> bool:
        return self._assembly is not None or bool(self._prefix)

    @property
    def is_large(self) -> bool:
        """The message that is being assembled is one for the carrier."""
        return self._assembly is not None and len(self._assembly) >= CARRIED_FROM

    @property
    def free_space(self) -> memoryview | None:
        """Where the rest of a large message goes, so that the socket can be read straight into it."""
        assembly = self._assembly
        return None if assembly is None or self.done else assembly[self._assembled :]

    def advance(self, count: int) -> None:
        """`count` more bytes are in place in `free_space`."""
        try:
            self._advance(count)
        except Exception as problem:
            self.break_off("a request cannot be taken", problem)

    def _advance(self, count: int) -> None:
        assembly = self._assembly
        assert assembly is not None, "bytes came for a message being assembled"
        self._assembled += count
        if not self.messages and self._inflating is None:  # else there is one to be taken first
            self.uncredited -= count
            self.credit(count)
        if self._assembled == len(assembly):
            self._assembly = None
            self._push(assembly, int(self._compressed))

    def _begin(self, length: int, flag: int, beginning: Buffer) -> None:
        if self._is_too_large(length):
            return
        self._compressed = flag == 1
        self._assembled = 0
        if self.buffer is not None:
            self.connection.give_buffer(self)
        pool, start = self.connection.buffers, 0
        method = self.head.method
        if method is not None and method.room_for is not None and not flag and length >= RECYCLED_FROM:
            pool, start = method.room_for(beginning) or (pool, start)
        self.pool = pool
        self.buffer = array = pool.take(start + length)
        self._assembly = array.data[start : start + length]

    def _is_too_large(self, length: int) -> bool:
        limit = self.connection.settings.receive_bytes_max
        if length > limit:
            self.refuse(_RESOURCE_EXHAUSTED, f"Received message larger than max ({length} vs. {limit})")
            return True
        return False

    def _push(self, message: Buffer, flag: int) -> None:
        """A whole message arrived."""
        if self._inflating is not None:
            self._inflating.append((message, flag == 1))
            return
        if flag and not self._inflate(message, flag):
            return
        if flag == 0:
            if self._is_too_large(len(message)):
                return
            self._arrive(message)
        self._arrived()

    def _arrive(self, message: Buffer) -> None:
        if self.messages is NONE:
            self.messages = deque()
        self.messages.append(message)

    def _arrived(self) -> None:
        if not self.started:
            self.start()
        elif self.on_input is not None:
            self.on_input()

    def _inflate(self, message: Buffer, flag: int) -> bool:
        """Decompresses a small message at once, a large one in a worker. True when it is among `messages` now."""
        encoding = self.head.encoding
        if flag != 1 or encoding == "identity":
            self.refuse(_INTERNAL, f"Compressed flag {flag} with message encoding '{encoding}'")
            return False
        limit = self.connection.settings.receive_bytes_max
        try:
            if len(message) > INLINE_BYTES_MAX:
                raise TooLarge
            self._arrive(inflate_at_once(message, encoding, min(limit, INLINE_BYTES_MAX)))
        except TooLarge:
            self._inflating = deque()
            self.start_task(self._inflate_elsewhere, memoryview(message), encoding, limit)
            return False
        except BadCompression as error:
            self.refuse(_INTERNAL, str(error))
            return False
        return True

    async def _inflate_elsewhere(self, message: memoryview, encoding: str, limit: int) -> None:
        try:
            inflated = await self.connection.in_worker(inflate_in_steps, message, encoding, limit, self._is_wanted)
        except TooLarge:
            self.refuse(_RESOURCE_EXHAUSTED, f"Received message larger than max ({limit} bytes after decompression)")
        except BadCompression as error:
            self.refuse(_INTERNAL, str(error))
        except NobodyWaits:
            pass
        if self.done:
            return
        behind, self._inflating = self._inflating, None
        self._arrive(inflated)
        self._arrived()
        for later, compressed in behind or ():
            if not self.done:
                self._push(later, int(compressed))

    def _let_go(self) -> None:
        """Of what was received, which may be much more than who still knows the call should hold."""
        self._assembly = self._inflating = None
        self._prefix = b""
        self.messages.clear()

    def _is_wanted(self) -> bool:
        """Whether what is made for the call is of use still. From any thread."""
        return not self.done

    # For handlers.

    def take(self) -> Buffer:
        """The oldest message. Taking the last one reopens the stream's window."""
        message = self.messages.popleft()
        if not self.messages and not self.ended:
            count, self.uncredited = self.uncredited, 0
            self.credit(count)
        return message

    def credit(self, count: int) -> None:
        """`count` received bytes were consumed: lets the peer send as many again, in steps that are worth a frame."""
        self._credit += count
        if self._credit * 4 >= self.connection.settings.stream_window_bytes and not self.ended and not self.done:
            self.receive_window += self._credit
            self.connection.outlet.put(window_update(self.id, self._credit))
            self.connection.flush_soon()
            self._credit = 0
