"""The server's end of the link to one process: what is said is copied, what comes is read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import trio

from ....schema.fault import ExecutorDied, Internal
from .frames import ANCILLARY_BYTES, PACKET_BYTES_MAX, Codec, ancillary_of, fault_of, files_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.tensor import Tensor
    from .frames import Message
    from .process import ModelProcess

COPY_BYTES_MAX: Final = 1 << 18
"""Of tensors that are copied on the trio thread itself; more are copied in a worker thread."""


class ProcessLink:
    """For the trio thread. `name` is the instance's, for texts."""

    def __init__(self, name: str, process: ModelProcess) -> None:
        self.name = name
        self._process = process
        self._codec = Codec()
        self._buffer = bytearray(PACKET_BYTES_MAX)
        self._sending = trio.Lock()
        process.sock.setblocking(False)

    def close(self) -> None:
        """Lets go of the shared memory; what still refers to it keeps its part."""
        self._codec.close()

    async def say(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> None:
        """Waits until it is on its way. Cancelled, it may be, or not. Raises OSError when the process is gone,
        Internal where there is no memory to share."""
        async with self._sending:
            size = sum(len(tensor.memory()) for tensor in tensors)
            try:
                if size <= COPY_BYTES_MAX:
                    packet = self._codec.write(kind, fields, tensors)
                else:
                    packet = await trio.to_thread.run_sync(self._codec.write, kind, fields, tensors)
            except (OSError, MemoryError) as error:
                raise Internal(f"no memory to share {size} bytes with '{self.name}': {error}") from error
            try:
                sock, ancillary = self._process.sock, ancillary_of(packet)
                while True:
                    try:
                        sock.sendmsg([packet.data], ancillary)
                        return
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(sock)
            finally:
                packet.close()

    async def receive(self) -> Message | None:
        """The next message; None at the end. Raises Internal for what is no message."""
        sock = self._process.sock
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                count, ancillary, _, _ = sock.recvmsg_into([self._buffer], ANCILLARY_BYTES)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return None
            if not count:
                return None
            return self._codec.read(memoryview(self._buffer)[:count], files_of(ancillary))

    async def expect(self, kind: str) -> Message:
        """The next message that is no line of a log. Raises what the process says went wrong."""
        while True:
            message = await self.receive()
            if message is None:
                raise ExecutorDied(f"Stub process '{self.name}' is not healthy: it {await self._process.ended()}")
            if message.kind == kind:
                return message
            if message.kind == "failed":
                raise fault_of(message.fields)
            if message.kind != "log":
                raise Internal(f"the process of '{self.name}' says '{message.kind}', expected '{kind}'")
            emit(message.fields)


def emit(fields: tuple[Any, ...]) -> None:
    """A line that the model has logged."""
    name, level, text, path, line = fields
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        logger.handle(logger.makeRecord(name, level, path, line, "%s", (text,), None))
