"""One call: a stream of the connection, the gRPC messages on it, and the reply.

A call is handed to its `Method` when its first message is complete. From then on it ends in exactly one way:

    finish(...) ──unsent bytes leave──▶ sent_all ──▶ gone       the handler's way
    refuse(...) ──▶ the same                                    the client broke the call's own rules
    abandon() ──▶ gone                                          the peer reset it, or the connection is lost

`on_abandoned`, if set, is called once in the last two cases. After any, replies to it do nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import reply as block
from .constants import ErrorCode, rst_stream, window_update
from .inflate import INLINE_BYTES_MAX, BadCompression, NobodyWaits, TooLarge, inflate_at_once, inflate_in_steps
from .outlet import headers_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ...schema.tensor import Buffer
    from .connection import Connection
    from .deflate import Deflater
    from .head import Head

_RESOURCE_EXHAUSTED, _INTERNAL, _INVALID_ARGUMENT = 8, 13, 3
_WHOLE_BYTES_MAX = 65_536
_INITIAL_PREFIX = headers_frame(0, block.INITIAL, end=False)[:5]
_ENDING_PREFIX = headers_frame(0, block.TRAILERS_OK, end=True)[:5]
"""The frame heads up to the stream id."""
_FLAGS = (b"\0", b"\1")
"""Of a message's prefix: plain, compressed."""
_NONE: deque[Any] = deque(maxlen=0)
"""For what calls seldom have: nothing can be added to it."""
_PROGRESS_BYTES = 16_384
"""What counts as progress of a message that is not complete."""


class Method(Protocol):
    """What serves the calls of one path."""

    is_streaming: bool
    """Whether the client may send many messages: the call then starts with its head, else with its first message."""

    def start(self, call: Call) -> None:
        """Takes the call over. Must not raise or block."""
        ...


class Call:
    """What most calls have at these values is stored with those only that differ."""

    deadline = 0.0
    """On trio's clock; 0 for none."""
    started = False
    done = False
    """Finished or abandoned: nothing more may be replied."""
    ended = False
    """The peer sends no more messages."""
    on_input: Callable[[], None] | None = None
    """Called when a message arrived or `ended` was set."""
    on_output: Callable[[], None] | None = None
    """Called when all that was replied has left the call."""
    on_abandoned: Callable[[], None] | None = None
    on_whole: Callable[[Call, bytes], None] | None = None
    """Set by a handler that wants to see the call's frames if they came together."""
    deflater: Deflater | None = None
    """Compresses the replies; None sends them as they are."""
    messages: deque[Buffer] = _NONE
    """Arrived and not taken. Not to be added to from outside; so is the next."""
    unsent: deque[memoryview] = _NONE
    unsent_bytes = 0
    trailers = b""
    is_waiting = False
    head_sent = False
    received_bytes = 0
    """Since the last progress."""
    uncredited = 0
    """Received bytes for which the window was not reopened yet: those of messages not taken."""
    _prefix = b""
    """The start of a message prefix that was cut by a frame's end."""
    _assembly: memoryview | None = None
    _assembled = 0
    _compressed = False
    _credit = 0
    _inflating: deque[tuple[Buffer, bool]] | None = None
    """Messages behind one that is being decompressed in a worker, with their flags."""

    def __init__(self, connection: Connection, stream_id: int, head: Head) -> None:
        self.connection = connection
        self.id = stream_id
        self.head = head
        self.window = connection.outlet.peer_window_bytes
        self.received_at = connection.now
        """When the last progress was made."""
        self.receive_window = connection.settings.stream_window_bytes

    # Receiving.

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
        if (
            not self.started
            and stop - at > 5
            and data[at] == 0
            and self._assembly is None
            and not self._prefix
            and self._inflating is None
            and int.from_bytes(data[at + 1 : at + 5], "big") == stop - at - 5 <= _WHOLE_BYTES_MAX
        ):
            self.ended = end
            self._push(data[at + 5 : stop], 0)
        else:
            self.feed(memoryview(data)[at:stop], end)

    def feed(self, data: bytes | memoryview, end: bool) -> None:
        """Takes DATA bytes, which it copies; then, if `end`, notes that they were the last."""
        if end:
            self.ended = True
        at, size = 0, len(data)
        while at < size and not self.done:
            assembly = self._assembly
            if assembly is not None:
                count = min(size - at, len(assembly) - self._assembled)
                assembly[self._assembled : self._assembled + count] = data[at : at + count]
                at += count
                self.advance(count)
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
                self._begin(length, flag)
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
    def free_space(self) -> memoryview | None:
        """Where the rest of a large message goes, so that the socket can be read straight into it."""
        assembly = self._assembly
        return None if assembly is None or self.done else assembly[self._assembled :]

    def advance(self, count: int) -> None:
        """`count` more bytes are in place in `free_space`."""
        assembly = self._assembly
        assert assembly is not None, "bytes came for a message being assembled"
        self._assembled += count
        if not self.messages and self._inflating is None:  # else there is one to be taken first
            self.uncredited -= count
            self.credit(count)
        if self._assembled == len(assembly):
            self._assembly = None
            self._push(assembly, int(self._compressed))

    def _begin(self, length: int, flag: int) -> None:
        if self._is_too_large(length):
            return
        self._compressed = flag == 1
        self._assembled = 0
        try:
            # Pages of an empty array are not touched, so a lying length costs address space only.
            self._assembly = np.empty(length, np.uint8).data
        except MemoryError:
            self.refuse(_RESOURCE_EXHAUSTED, f"No memory for a message of {length} bytes")

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
        if self.messages is _NONE:
            self.messages = deque()
        self.messages.append(message)

    def _arrived(self) -> None:
        if not self.started:
            self.start()
        elif self.on_input is not None:
            self.on_input()

    def start(self) -> None:
        self.started = True
        method = self.head.method
        assert method is not None, "a head without a method is refused before"
        method.start(self)

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
            self.connection.start_task(self._inflate_elsewhere, memoryview(message), encoding, limit)
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
        except MemoryError:
            self.refuse(_RESOURCE_EXHAUSTED, f"No memory for a message of {len(message)} compressed bytes")
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

    def _is_wanted(self) -> bool:
        """Whether what is made for the call is of use still. From any thread."""
        return not self.done

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

    # Replying.

    @property
    def metadata(self) -> Any:
        return self.head.metadata

    def send(self, buffers: Sequence[Buffer], size: int) -> None:
        """Replies one of several messages. Never blocks: what cannot leave waits in `unsent`."""
        if self.done or self._is_unsendable(size):
            return
        if self.deflater is not None:
            self.deflater.put(buffers, size, is_only=False)
            return
        self.send_encoded(buffers, size)

    def send_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        """The same for a message that is ready to go out."""
        head = b"" if self.head_sent else self._initial(compressed)
        self.head_sent = True
        self.connection.outlet.put_message(self, head, buffers, size, b"", _FLAGS[compressed])
        self.connection.flush_soon()

    def reply(self, buffers: Sequence[Buffer], size: int) -> None:
        """Replies the only message and ends the call well."""
        if self.done or self._is_unsendable(size):
            return
        if self.deflater is not None:
            self.deflater.put(buffers, size, is_only=True)
            return
        self.reply_encoded(buffers, size)

    def reply_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        """The same for a message that is ready to go out."""
        self.trailers = self._ending(_ENDING_PREFIX + self.id.to_bytes(4, "big") + block.TRAILERS_OK)
        self.head_sent = True
        head = self._initial(compressed)
        self.connection.outlet.put_message(self, head, buffers, size, self.trailers, _FLAGS[compressed])
        self.connection.flush_soon()

    def _initial(self, compressed: bool) -> bytes:
        """The frame that begins a reply with messages."""
        if compressed and self.deflater is not None:
            return headers_frame(self.id, block.INITIAL_ENCODED[self.deflater.encoding], end=False)
        return _INITIAL_PREFIX + self.id.to_bytes(4, "big") + block.INITIAL

    @property
    def waiting_bytes(self) -> int:
        """Of replies that have not left the call, compressed yet or not."""
        return self.unsent_bytes + (self.deflater.queued_bytes if self.deflater is not None else 0)

    def finish(self, status: int = block.OK, text: str = "") -> None:
        """Ends the call. Messages already sent leave first, unless the status is an error."""
        if self.done or self.trailers:
            return
        if self.deflater is not None and self.deflater.is_busy:
            if not status:
                self.deflater.end()
                return
            self.deflater.drop()
        ending = block.trailers(status, text) if status else block.TRAILERS_OK
        if not self.head_sent:
            ending = block.INITIAL + ending
        self.trailers = self._ending(headers_frame(self.id, ending, end=True))
        if status:
            self.unsent.clear()
            self.unsent_bytes = 0
        if not self.unsent:
            self.connection.outlet.put(self.trailers)
            self.sent_all()
        self.connection.flush_soon()

    def refuse(self, status: int, text: str) -> None:
        """Ends the call because of what the client sent or did not send; its handler is told to stop."""
        if self.done:
            return
        on_abandoned, self.on_abandoned = self.on_abandoned, None
        self._let_go()
        self.finish(status, text)
        if on_abandoned is not None:
            on_abandoned()

    def _let_go(self) -> None:
        """Of what was received, which may be much more than who still knows the call should hold."""
        self._assembly = self._inflating = None
        self._prefix = b""
        self.messages.clear()

    def _ending(self, trailers: bytes) -> bytes:
        """The peer is told to stop sending if it has not."""
        return trailers if self.ended else trailers + rst_stream(self.id, ErrorCode.NO_ERROR)

    def _is_unsendable(self, size: int) -> bool:
        limit = self.connection.settings.send_bytes_max
        if size > limit:
            self.finish(
                _INVALID_ARGUMENT, f"Response has byte size {size} which exceeds gRPC's byte size limit {limit}."
            )
        return size > limit

    def keep(self, buffers: Iterable[Buffer]) -> None:
        """For the outlet: these wait for a window or for other calls."""
        if self.unsent is _NONE:
            self.unsent = deque()
        self.unsent.extend(memoryview(buffer) for buffer in buffers if len(buffer))

    def sent_whole(self) -> None:
        """The reply, head and trailers included, is with the outlet."""
        self.done = True
        self.connection.forget(self)

    def sent_all(self) -> None:
        """For the outlet: nothing is unsent any more."""
        if self.trailers:
            self.sent_whole()
        elif self.on_output is not None:
            self.on_output()

    def abandon(self) -> None:
        """The peer is not interested any more, or gone."""
        if self.done:
            return
        self.done = True
        if self.deflater is not None:
            self.deflater.drop()
        self.unsent.clear()
        self.unsent_bytes = 0
        self._let_go()
        self.connection.forget(self)
        if self.on_abandoned is not None:
            on_abandoned, self.on_abandoned = self.on_abandoned, None
            on_abandoned()
