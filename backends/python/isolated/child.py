"""The program of a model's own process: `main` serves one instance, or completes one configuration, then ends.

    reader thread   packets ──▶ batches for the main thread; credit, answers to what was asked
    main thread     initialize, execute, finalize, as a model's author expects of a main thread
    any thread      answers of streams, questions to the server

Nothing here imports the server: a model's process is as small as it can be, and may run in another environment, of
which only numpy and attrs are needed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from ....schema.fault import Fault, Internal
from ....schema.inference import InferenceRequest
from ..failure import failure_text
from ..instance import PythonInstance, UserModel
from ..model_config import ModelConfig
from .answering import ChildJob, ChildStream, ChildTrace, Source
from .asking import ChildEngine
from .frames import ANCILLARY_BYTES, PACKET_BYTES_MAX, Codec, ancillary_of, fault_fields, fault_of, files_of
from .own_imports import OwnImports
from .setup import Setup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.tensor import Tensor
    from .frames import Message

PR_SET_PDEATHSIG: Final = 1
UTILS_PATH: Final = str(Path(__file__).with_name("path"))


class Link:
    """The way to the server. For any thread, but `receive`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._codec = Codec()
        self._sending = threading.RLock()
        """Entered again where garbage collection ends a stream."""
        self._buffer = bytearray(PACKET_BYTES_MAX)
        self._asked: dict[int, queue.SimpleQueue[Message]] = {}
        self._last = 0

    def say(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> None:
        """See `Server`."""
        with self._sending:
            packet = self._codec.write(kind, fields, tensors)
            try:
                self._socket.sendmsg([packet.data], ancillary_of(packet))
            finally:
                packet.close()

    def ask(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> Any:
        """See `Server`."""
        answer: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with self._sending:
            self._last += 1
            number = self._last
            self._asked[number] = answer
        self.say("ask", (number, kind, *fields), tensors)
        fault, value = answer.get().fields
        if fault is not None:
            raise fault_of(fault)
        return value

    def receive(self) -> Message | None:
        """The next message; None when the server is gone. Answers go to who asked."""
        while True:
            count, ancillary, _, _ = self._socket.recvmsg_into([self._buffer], ANCILLARY_BYTES)
            if not count:
                return None
            message = self._codec.read(memoryview(self._buffer)[:count], files_of(ancillary))
            if message.kind != "told":
                return message
            number, *fields = message.fields
            waiting = self._asked.pop(number, None)
            if waiting is not None:
                waiting.put(attrs.evolve(message, fields=tuple(fields)))


class _ToServer(logging.Handler):
    """Lines that the model and its libraries log are the server's."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            self._link.say("log", (record.name, record.levelno, text, record.pathname, record.lineno))
        except Exception:
            self.handleError(record)


class Served:
    """The instance of this process, and its streams."""

    def __init__(self, link: Link, instance: PythonInstance, streams: dict[int, ChildStream], setup: Setup) -> None:
        self._link = link
        self._source = Source(link, setup.iterative)
        self._instance = instance
        self._decoupled = setup.decoupled
        self._streams = streams

    def execute(self, message: Message) -> None:
        """Executes a batch and says what came of it."""
        jobs = self._jobs(message)
        ready_ns = time.monotonic_ns()
        fault: Fault | None = None
        try:
            self._instance.execute(_ChildBatch(jobs))  # type: ignore[arg-type]  # as much of one as it looks at
        except Fault as error:
            fault = error
        except BaseException as error:  # a model may raise anything
            fault = Internal(failure_text(error, ()))
        ended_ns = time.monotonic_ns()
        told = None if fault is None else fault_fields(fault)
        for job in jobs:
            if job.again:
                self._streams.pop(job.number, None)
        answers = [job.answer() for job in jobs]
        outputs = [tensor for job in jobs for tensor in job.outputs]
        self._link.say("executed", (told, ready_ns, ended_ns, answers), outputs)

    def close(self) -> None:
        self._instance.close()

    def _jobs(self, message: Message) -> list[ChildJob]:
        kind = ChildStream if self._decoupled else ChildJob
        at = 0
        jobs: list[ChildJob] = []
        for number, size, received_ns, count, values in message.fields[0]:
            request = request_of(number, values, message.tensors[at : at + count])
            at += count
            job = kind(number, request, size, received_ns, self._source)
            jobs.append(job)
            if isinstance(job, ChildStream):
                self._streams[number] = job
        return jobs


@attrs.define
class _ChildBatch:
    jobs: list[ChildJob]


def request_of(number: int, values: tuple[Any, ...], inputs: Sequence[Tensor]) -> InferenceRequest:
    """The request whose `request_fields` these are."""
    name, version, id, outputs, parameters, priority, timeout_us, correlation_id, starts, ends, traced, context = values
    request = InferenceRequest(
        name,
        {tensor.name: tensor for tensor in inputs},
        model_version=version,
        id=id,
        outputs=outputs,
        parameters=parameters,
        priority=priority,
        timeout_us=timeout_us,
        correlation_id=correlation_id,
        sequence_start=starts,
        sequence_end=ends,
    )
    if traced:
        request.trace = ChildTrace(context, number)
    return request


def main(fd: int) -> None:
    """The process: never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Also where a model holds the interpreter, so that the reader cannot see the link break.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    link = Link(socket.socket(fileno=fd))
    link.say("hello", (os.getpid(),))
    first = link.receive()
    if first is None:
        os._exit(0)
    setup = Setup(**first.fields[0])
    _prepare(setup, link)
    code = 1
    try:
        if first.kind == "complete":
            _complete(setup, link)
        else:
            _serve(setup, link)
        code = 0
    except Fault as fault:
        link.say("failed", fault_fields(fault))
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads of the model's do not hold it


def _prepare(setup: Setup, link: Link) -> None:
    if setup.memory_bytes_max:
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes_max, setup.memory_bytes_max))
    logging.basicConfig(handlers=[_ToServer(link)], level=setup.log_level, format="%(message)s")
    sys.path.append(UTILS_PATH)


def _complete(setup: Setup, link: Link) -> None:
    """`auto_complete_config`, if the model has one."""
    completed = _load(setup).complete(ModelConfig(setup.config))
    link.say("completed", (None if completed is None else json.dumps(completed.as_dict()),))


def _load(setup: Setup) -> UserModel:
    paths = [setup.version_path, setup.model_path]
    return UserModel(setup.name, setup.version, Path(setup.file), OwnImports(setup.version, paths), tuple(paths))


def _serve(setup: Setup, link: Link) -> None:
    engine = ChildEngine(link)
    batches: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    streams: dict[int, ChildStream] = {}
    reader = Reader(link, engine, streams, batches)
    threading.Thread(target=reader.run, name="despina/reader", daemon=True).start()
    instance = PythonInstance(
        setup.instance_name,
        partial(_load, setup),
        arguments=setup.arguments,
        output_names=setup.output_names,
        decoupled=setup.decoupled,
        iterative=setup.iterative,
        movable=False,
        nested=engine if setup.may_ask else None,
    )
    served = Served(link, instance, streams, setup)
    gc.collect()
    gc.freeze()
    link.say("opened")
    while True:
        message = batches.get()
        if message is None:
            break
        served.execute(message)
        message = None
    served.close()


@attrs.frozen
class Reader:
    """The reader thread: passes on what comes."""

    link: Link
    engine: ChildEngine
    streams: dict[int, ChildStream]
    batches: queue.SimpleQueue[Message | None]

    def run(self) -> None:
        try:
            while True:
                message = self.link.receive()
                if message is None:  # the server is gone: nobody is there to answer
                    os.killpg(0, signal.SIGKILL)
                else:
                    self._heed(message)
        except BaseException:
            logging.getLogger("despina.backends.python").exception("the link to the server broke")
            os._exit(1)

    def _heed(self, message: Message) -> None:
        if message.kind == "execute":
            self.batches.put(message)
        elif message.kind == "answer":
            self.engine.answered(message)
        elif message.kind == "consumed":
            number, count, gone, over = message.fields
            stream = self.streams.get(number)
            if stream is not None:
                stream.consumed(count, gone)
            if over:
                self.streams.pop(number, None)
        elif message.kind == "close":
            self.batches.put(None)
