"""The program of a model's own process: `main` serves one instance, or completes one configuration, then ends.

    main thread     initialize, execute, finalize, as a model's author expects of a main thread; reads what comes
    any thread      answers of streams, questions to the server
    reader thread   reads what comes from when on somebody waits for it while the main thread works (listening.py)

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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ....schema.fault import Fault
from ..instance import PythonInstance, UserModel
from ..memory import executing
from ..model_config import ModelConfig
from .asking import ChildEngine
from .frames import fault_fields
from .listening import Link, Listening
from .own_imports import OwnImports
from .serving import Served
from .setup import Setup

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.backend import BackendInstance
    from .answering import ChildStream

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 1 << 26
"""Of the heap that is free at its end."""
UTILS_PATH: Final = str(Path(__file__).with_name("path"))


class _ToServer(logging.Handler):
    """Lines that the model and its libraries log are the server's. Also from within garbage collection: whoever
    logs waits for who says something on the link, and for no other lock."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the handler's lock."""
        kept = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def flush(self) -> None:
        self._link.flush()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            self._link.log((record.name, record.levelno, text, record.pathname, record.lineno))
        except Exception:
            self.handleError(record)


def main(fd: int) -> None:
    """The process: never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Also where a model holds the interpreter, so that the reader cannot see the link break.
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What batches come and go in stays: to take it from the system each time costs more than what is done with it.
    for option, size in ((M_TRIM_THRESHOLD, KEPT_BYTES), (M_MMAP_THRESHOLD, KEPT_BYTES // 2)):
        libc.mallopt(option, size)
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    link = Link(sock)
    link.say("hello", (os.getpid(),))
    first = link.receive()
    if first is None:
        os._exit(0)
    setup = Setup(**first.fields[0])
    libc.prctl(PR_SET_NAME, (setup.instance_name or setup.name).encode()[:15])  # for ps, top and debuggers
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
    """`auto_complete_config`, if the model has one; of a library, what it makes of its model."""
    if setup.library is not None:
        from ...native.child import complete

        link.say("completed", complete(setup))
        return
    completed = _load(setup).complete(ModelConfig(setup.config))
    link.say("completed", (None if completed is None else json.dumps(completed.as_dict()),))


def _load(setup: Setup) -> UserModel:
    imports = OwnImports(setup.version, setup.folders)
    return UserModel(setup.name, setup.version, Path(setup.file), imports, tuple(setup.folders))


def _serve(setup: Setup, link: Link) -> None:
    engine = ChildEngine(link)
    streams: dict[int, ChildStream] = {}
    listening = Listening(link, engine, streams)
    link.listening = listening
    if setup.decoupled:
        listening.begin()
    executing.room = link.array_like
    instance = _open(setup, engine) if setup.library is None else _open_library(setup, engine)
    ready: Callable[[], bool] | None = getattr(instance, "ready", None)
    served = Served(link, instance, streams, setup)
    gc.collect()
    gc.freeze()
    if ready is not None:
        listening.questions = questions = queue.SimpleQueue[None]()
        answer_them = partial(_say_ready, link, ready, questions)
        threading.Thread(target=answer_them, name="despina/ready", daemon=True).start()
        listening.begin()
    link.say_file("opened", (ready is not None,), served.tokens)
    while True:
        message = listening.batch()
        if message is None:
            break
        served.execute(message)
        message = None
    served.close()


def _open(setup: Setup, engine: ChildEngine) -> PythonInstance:
    return PythonInstance(
        setup.instance_name,
        partial(_load, setup),
        arguments=setup.arguments,
        output_names=setup.output_names,
        decoupled=setup.decoupled,
        iterative=setup.iterative,
        movable=False,
        nested=engine if setup.may_ask else None,
    )


def _open_library(setup: Setup, engine: ChildEngine) -> BackendInstance:
    from ...native.child import open_instance

    return open_instance(setup, engine if setup.may_ask else None)


def _say_ready(link: Link, ready: Callable[[], bool], questions: queue.SimpleQueue[None]) -> None:
    """Whether the model is, whenever that is asked: also while it executes."""
    while True:
        questions.get()
        link.say("ready", (ready(),))
