"""Which server object of the library stands for which engine: what a model's library asks other models by."""

from __future__ import annotations

import threading
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, finalize, ref

from ..schema.fault import ShuttingDown, Unsupported
from .dispatching import begin_by, dispatch, end_by
from .loading import extension
from .messages import follow_logger

if TYPE_CHECKING:
    from .extension_port import Extension

GROUP = "despina.library_servers"
"""Whose entry point answers for an engine that no program has made through the C API: an attendant of the engine's (see
`NestedCaller`) that gets the extension module and the object's address first."""

_lock = threading.Lock()
_by_engine: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_nobody: int | None = None


def note_server(engine: object, address: int) -> None:
    """The engine, or what its models have of it, is served as that object."""
    with _lock:
        _by_engine[engine] = address


def server_of(native: Extension, engine: object) -> int:
    """The object that stands for the engine. Where no program has made it, it is made here, and answers from the first
    time that it is asked; it goes with the engine. Without an engine its calls are refused."""
    global _nobody
    with _lock:
        if engine is None:
            if _nobody is None:
                _nobody = native.server_new()
                begin_by(_nobody, _refuse)
            return _nobody
        found = _by_engine.get(engine)
        if found is None:
            found = _by_engine[engine] = native.server_new()
            begin_by(found, partial(_serve, native, found, ref(engine)))
            finalize(engine, _let_go, native, found).atexit = False
            follow_logger(native)
        return found


def ask_server(engine: object, operation: str, arguments: bytes) -> tuple[int, bytes]:
    """What a model's library would get that asks its server that: the error code, or -1, and the text. Waits."""
    return dispatch(server_of(extension(), engine), operation, arguments)


def _serve(native: Extension, address: int, engine_ref: ref[Any]) -> None:
    engine = engine_ref()
    if engine is None:
        raise ShuttingDown("Server exiting")
    found = [*entry_points(group=GROUP)]
    if not found:
        raise Unsupported(f"no installed package has an entry point of the group '{GROUP}': install despina anew")
    engine.attend(partial(found[0].load(), native, address))


def _let_go(native: Extension, address: int) -> None:
    """Its engine is gone, and so are the models that could have asked it."""
    end_by(address)
    native.server_delete(address)


def _refuse() -> None:
    raise Unsupported("there is no server that this library could ask: its model is only opened for a moment")
