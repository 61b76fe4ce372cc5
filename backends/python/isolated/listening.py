"""The model's end of the link, and who listens there: as few wake-ups as it can be done with.

idle, and whatever the main thread asks    the main thread reads for itself: a batch wakes one thread
the model waits for something else         a reader thread reads from then on: streams' credit, answers of other
                                           models, what a thread of the model's asks
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import select
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .frames import ANCILLARY_BYTES, PACKET_BYTES_MAX, Codec, ancillary_of, contents_of, fault_of, files_of
from .saying import Turns
from .segments import QUIET_S

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    import numpy as np

    from ....schema.tensor import Tensor
    from .answering import ChildStream
    from .asking import ChildEngine
    from .frames import Message, Packet, Placed


class Link:
    """The way to the server. For any thread, but `receive`."""

    def __init__(self, sock: socket.socket) -> None:
        self.listening: Listening | None = None
        """Who hears answers; nobody before a model is opened."""
        self._socket = sock
        self._codec = Codec()
        self._turns = Turns(self._say_now)
        self._buffer = bytearray(PACKET_BYTES_MAX)
        self._view = memoryview(self._buffer)
        self._asked: dict[int, queue.SimpleQueue[Message]] = {}
        self._numbers = itertools.count(1)

    def say(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> None:
        """See `Server`."""
        with self._turns:
            self._send(self._codec.write(kind, fields, contents_of(tensors)))

    def say_soon(self, kind: str, fields: tuple[Any, ...] = ()) -> None:
        """See `Server`."""
        self._turns.soon(kind, fields)

    def log(self, fields: tuple[Any, ...]) -> None:
        """Says a line of a log. Also from within garbage collection; a line for which there is no memory is lost."""
        self._turns.say("log", fields)

    def flush(self) -> None:
        """Returns once everything is on its way that was to be said soon."""
        with self._turns:
            pass

    def _say_now(self, kind: str, fields: tuple[Any, ...]) -> None:
        try:
            self._send(self._codec.write(kind, fields))
        except (OSError, MemoryError):
            if kind != "log":
                raise

    def say_file(self, kind: str, fields: tuple[Any, ...], file: int) -> None:
        """The same with a file, which stays open here."""
        with self._turns:
            self._send(self._codec.write_file(kind, fields, os.dup(file)))

    def place(self, tensors: Sequence[Tensor]) -> Placed:
        """The first half of `say`: then the tensors are not needed any more. The second is to follow at once."""
        with self._turns:
            return self._codec.place(contents_of(tensors))

    def array_like(self, other: np.ndarray) -> np.ndarray | None:
        """One that goes to the server without a copy, if that can be had. Raises OSError or MemoryError."""
        with self._turns:
            return self._codec.pool.array_like(other)

    def say_placed(self, kind: str, fields: tuple[Any, ...], placed: Placed) -> None:
        """The second half: says also which segments were let go of meanwhile."""
        with self._turns:
            self._send(self._codec.write_placed(kind, fields, placed))

    def _send(self, packet: Packet) -> None:
        if not packet.files:
            self._socket.send(packet.data)
            return
        try:
            self._socket.sendmsg([packet.data], ancillary_of(packet))
        finally:
            packet.close()

    def ask(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> Any:
        """See `Server`."""
        answer: queue.SimpleQueue[Message] = queue.SimpleQueue()
        number = next(self._numbers)
        self._asked[number] = answer
        self.say("ask", (number, kind, *fields), tensors)
        assert self.listening is not None, "there is a model to ask"
        self.listening.until(answer)
        _, fault, value = answer.get().fields
        if fault is not None:
            raise fault_of(fault)
        return value

    def listen(self) -> None:
        """See `Server`."""
        assert self.listening is not None, "there is a model to listen"
        self.listening.begin()

    def receive(self) -> Message | None:
        """The next message; None when the server is gone. On one thread at a time."""
        if self._codec.holds_much and not select.select([self._socket], (), (), QUIET_S)[0]:
            self._tidy()
        count, ancillary, _, _ = self._socket.recvmsg_into([self._buffer], ANCILLARY_BYTES)
        if not count:
            return None
        return self._codec.read(self._view[:count], files_of(ancillary) if ancillary else ())

    def _tidy(self) -> None:
        with self._turns:
            if self._codec.tidy():
                self._say_now("tidied", ())

    def told(self, message: Message) -> None:
        """An answer, for whoever asked."""
        waiting = self._asked.pop(message.fields[0], None)
        if waiting is not None:
            waiting.put(message)


class Listening:
    """Of a process that serves: takes what comes, on one thread at a time."""

    def __init__(self, link: Link, engine: ChildEngine, streams: dict[int, ChildStream]) -> None:
        self._link = link
        self._engine = engine
        self._streams = streams
        self._batches: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.questions: queue.SimpleQueue[None] | None = None
        """Whether the model is ready, of one that can say so."""
        self._reads = threading.Lock()
        """Whoever has it reads."""
        self._beginning = threading.Lock()
        self._has_reader = False

    def batch(self) -> Message | None:
        """The next batch; None when there will be no more. For the main thread."""
        batches = self._batches
        if not self._has_reader and batches.empty():
            with self._reads:
                while not self._has_reader and batches.empty():
                    batch = self._take()
                    if batch is not None:
                        return batch
        return batches.get()

    def until(self, queue: queue.SimpleQueue[Any]) -> None:
        """Reads until something is in the queue. Where that is not the main thread's to do, a thread does it, and this
        returns at once."""
        if not self._has_reader and threading.current_thread() is not threading.main_thread():
            self.begin()
        if not self._has_reader:
            self._read_until(queue)

    def _read_until(self, queue: queue.SimpleQueue[Any]) -> None:
        """For the main thread."""
        with self._reads:
            while not self._has_reader and queue.empty():
                self._heed_next()

    def begin(self) -> None:
        """From now on a thread reads, so that the main thread may wait for something else."""
        with self._beginning:
            if self._has_reader:
                return
            self._has_reader = True
        threading.Thread(target=self._read, name="despina/reader", daemon=True).start()

    def _read(self) -> None:
        with self._reads:
            while True:
                self._heed_next()

    def _heed_next(self) -> None:
        batch = self._take()
        if batch is not None:
            self._batches.put(batch)

    def _take(self) -> Message | None:
        """Heeds what comes next, but for a batch, which it returns."""
        try:
            message = self._link.receive()
            if message is None:  # the server is gone: nobody is there to answer
                os.killpg(0, signal.SIGKILL)
            elif message.kind in ("execute", "ahead"):
                return message
            else:
                self._heed(message)
        except BaseException:
            logging.getLogger("despina.backends.python").exception("the link to the server broke")
            with suppress(Exception):
                self._link.flush()
            os._exit(1)
        return None

    def _heed(self, message: Message) -> None:
        kind = message.kind
        if kind == "told":
            self._link.told(message)
        elif kind == "answer":
            self._engine.answered(message)
        elif kind == "consumed":
            number, count, gone, over = message.fields
            stream = self._streams.get(number)
            if stream is not None:
                stream.consumed(count, gone)
            if over:
                self._streams.pop(number, None)
        elif kind == "ready?":
            assert self.questions is not None, "it can say so"
            self.questions.put(None)
        elif kind == "close":
            self._batches.put(None)
