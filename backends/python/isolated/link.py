"""The server's end of the link to one process: what is said is copied, what comes is read."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ....engine.port.concerns import concerning
from ....schema.fault import ExecutorDied, Internal
from .discarding import DISCARDER
from .frames import ANCILLARY_BYTES, PACKET_BYTES_MAX, Codec, ancillary_of, contents_of, fault_of, files_of
from .segments import QUIET_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ....engine.port.work import BackendJob
    from ....schema.tensor import Tensor
    from .frames import Message, Packet
    from .process import ModelProcess

COPY_BYTES_MAX: Final = 1 << 22
"""Of tensors that are copied on the trio thread itself; more are copied in a worker thread."""


class ProcessLink:
    """For the trio thread. `name` is the instance's, `title` the process's, `model` the model's, for texts."""

    def __init__(self, name: str, process: ModelProcess, title: str = "", model: str = "") -> None:
        self.name = name
        self._model = model
        self._title = title
        self._process = process
        self._codec = Codec(DISCARDER.discard, writes=False)
        self._buffer = bytearray(PACKET_BYTES_MAX)
        self._view = memoryview(self._buffer)
        self._sending = trio.Lock()
        self._unsent: Packet | None = None
        """Goes before all others."""
        self._heard = 0
        """Messages so far."""
        process.sock.setblocking(False)

    def close(self) -> None:
        """Lets go of the shared memory; what still refers to it keeps its part."""
        if self._unsent is not None:
            self._unsent.close()
            self._unsent = None
        self._codec.close()

    async def say(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> None:
        """Waits until it is on its way. Cancelled, it may be, or not. Raises OSError when the process is gone,
        Internal where there is no memory to share."""
        sending = self._sending
        try:
            sending.acquire_nowait()
        except trio.WouldBlock:
            await sending.acquire()
        try:
            packet = await self._packet(kind, fields, tensors)
            await self._flush()
            await self._send(packet)
        finally:
            sending.release()

    def say_now(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> bool | None:
        """The same without waiting. False where that cannot be done: nothing was said. None where it is on its way only
        once somebody calls `flush`."""
        if self._unsent is not None or self._sending.locked():
            return False
        contents = contents_of(tensors)
        if contents[2] > COPY_BYTES_MAX and self._codec.copied_bytes(contents) > COPY_BYTES_MAX:
            return False
        try:
            packet = self._codec.write(kind, fields, contents)
        except (OSError, MemoryError):
            return False
        try:
            self._put(packet)
        except BlockingIOError:
            self._unsent = packet
            return None
        except OSError:
            packet.close()
            return False
        if packet.files:
            packet.close()
        return True

    async def flush(self) -> None:
        """Sends what could not be sent at once. Raises OSError when the process is gone."""
        async with self._sending:
            await self._flush()

    async def _flush(self) -> None:
        packet, self._unsent = self._unsent, None
        if packet is not None:
            await self._send(packet)

    def _put(self, packet: Packet) -> None:
        if packet.files:
            self._process.sock.sendmsg([packet.data], ancillary_of(packet))
        else:
            self._process.sock.send(packet.data)

    async def _packet(self, kind: str, fields: tuple[Any, ...], tensors: Sequence[Tensor]) -> Packet:
        contents = contents_of(tensors)
        size = contents[2]
        try:
            if size <= COPY_BYTES_MAX or self._codec.copied_bytes(contents) <= COPY_BYTES_MAX:
                return self._codec.write(kind, fields, contents)
            return await trio.to_thread.run_sync(self._codec.write, kind, fields, contents)
        except (OSError, MemoryError) as error:
            raise Internal(f"no memory to share {size} bytes with '{self.name}': {error}") from error

    async def _send(self, packet: Packet) -> None:
        try:
            while True:
                try:
                    self._put(packet)
                    return
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._process.sock)
        finally:
            packet.close()

    async def receive(self) -> Message | None:
        """The next message; None at the end. Raises Internal for what is no message."""
        while True:
            await trio.lowlevel.wait_readable(self._process.sock)
            with suppress(BlockingIOError):
                return self.receive_nowait()

    def receive_nowait(self) -> Message | None:
        """The same of one that is there. Raises BlockingIOError where there is none."""
        sock = self._process.sock
        if sock.fileno() < 0:
            return None  # the process has been let go of meanwhile
        try:
            count, ancillary, _, _ = sock.recvmsg_into([self._buffer], ANCILLARY_BYTES)
        except ConnectionResetError:
            return None
        if not count:
            return None
        self._heard += 1
        return self._codec.read(self._view[:count], files_of(ancillary) if ancillary else ())

    def take_file(self) -> int:
        """The file that came last, which is the caller's from now on; -1 for none."""
        file, self._codec.file = self._codec.file, -1
        return file

    @property
    def holds_much(self) -> bool:
        """Whether `tidy` is worth it."""
        return self._codec.holds_much

    async def tidy(self) -> None:
        """Each time that nothing came for a while, gives back what is not needed then. Returns when that is little."""
        while self._codec.holds_much:
            heard = self._heard
            await trio.sleep(QUIET_S)
            if self._heard == heard and not self._sending.locked() and self._codec.tidy():
                with suppress(OSError):  # who watches the process notices when it is gone
                    await self.say("tidied")

    async def expect(self, kind: str, heed: Callable[[Message], None] | None = None) -> Message:
        """The next message of that kind; `heed` is given others, but for lines of a log. Raises what the process says
        went wrong."""
        while True:
            message = await self.receive()
            if message is None:
                raise ExecutorDied(f"{self._title} is not healthy: it {await self._process.ended()}")
            if message.kind == kind:
                return message
            if message.kind == "failed":
                raise fault_of(message.fields)
            if message.kind == "log":
                emit(message.fields, self._model)
            elif heed is not None:
                heed(message)
            else:
                raise Internal(f"the process of '{self.name}' says '{message.kind}', expected '{kind}'")


def emit(fields: tuple[Any, ...], model: str, jobs: Collection[BackendJob] = ()) -> None:
    """A line that the model has logged, while these requests were with it."""
    name, level, text, path, line = fields
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        extra = concerning(jobs, model)
        logger.handle(logger.makeRecord(name, level, path, line, "%s", (text,), None, extra=extra))
