"""The calls of the C API that the library does not answer by itself: health, descriptions, commands, life and death.

They come on the application's threads, which have the interpreter for the call, and are carried out on the trio thread
of the server that is meant.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from ...native.dispatching import answer
from ...native.messages import answer_messages
from ...schema.fault import InvalidArgument, Unavailable
from ..cycles import look_rarely, set_aside
from .server import ApplicationServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...native.extension_port import Extension
    from .face import EngineFace

_servers: dict[int, EngineFace] = {}
"""By the address of the library's object."""
_owned = False


def own_interpreter(owned: bool) -> None:
    """Whether the library has started it."""
    global _owned
    _owned = _owned or owned


def answer_library(native: Extension) -> None:
    """Lets the library ask. Idempotent."""
    answer_messages(native)
    for operation, call in _OPERATIONS.items():
        answer(native, operation, partial(_called, call))


def _called(call: Callable[..., bytes], address: int, arguments: bytes) -> bytes:
    return call(address, *orjson.loads(arguments))


def _new(address: int, *notes: Any) -> bytes:
    server = ApplicationServer(address, notes, sets_logging=_owned)
    server.start()
    _servers[address] = server
    if _owned:
        set_aside()
        look_rarely()
    return b""


def add(address: int, server: EngineFace) -> None:
    """One that the library has not made: from now on it answers for that object."""
    _servers[address] = server


def remove(address: int) -> None:
    """It does not any more."""
    _forget(address)


def _server(address: int) -> EngineFace:
    server = _servers.get(address)
    if server is None:
        raise Unavailable("Server not ready")
    return server


def _forget(address: int) -> bytes:
    server = _servers.pop(address, None)
    if server is not None:
        server.sweep()
    return b""


def _of_server(name: str) -> Callable[..., bytes]:
    """What the server's method of that name does."""

    def call(address: int, *arguments: Any) -> bytes:
        answered: bytes = getattr(_server(address), name)(*arguments)
        return answered

    return call


def _parameters(pairs: list[Any]) -> list[tuple[str, Any]]:
    """Bytes come in hexadecimal."""
    return [(name, bytes.fromhex(value["hex"]) if isinstance(value, dict) else value) for name, value in pairs]


def _load(address: int, name: str, pairs: list[Any]) -> bytes:
    config: str | None = None
    files: dict[str, bytes] = {}
    for key, value in _parameters(pairs):
        if key == "config":
            config = value if isinstance(value, str) else value.decode()
        elif key.startswith("file:"):
            files[key.removeprefix("file:")] = value if isinstance(value, bytes) else str(value).encode()
        else:
            raise InvalidArgument(f"unrecognized load parameter '{key}': there are 'config' and 'file:<path>'")
    return _server(address).load(name, config, files)


def _register(address: int, path: str, pairs: list[Any]) -> bytes:
    return _server(address).register(path, {directory: str(name) for directory, name in _parameters(pairs)})


_OPERATIONS: dict[str, Callable[..., bytes]] = {
    "new": _new,
    "forget": _forget,
    "load": _load,
    "register": _register,
    **{
        name: _of_server(name)
        for name in (
            "find",
            "submit",
            "stop",
            "delete",
            "exit_timeout",
            "unregister",
            "poll",
            "live",
            "ready",
            "model_ready",
            "batches",
            "decoupled",
            "metadata",
            "model_metadata",
            "statistics",
            "config",
            "index",
            "unload",
            "metrics",
        )
    },
}
