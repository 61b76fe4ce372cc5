"""Response caches in C++: `<directory>/<name>/libtritoncache_<name>.so`.

What a library does takes as long as it takes, so it is asked in worker threads.
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import orjson
import trio

from ...native.loading import extension
from ...native.messages import answer_messages
from ...schema.fault import InvalidArgument, ShuttingDown
from .faults import check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...engine.port.cache import OpenCache
    from ...native.extension_port import Extension, Outcome

_T = TypeVar("_T")


def native_cache(name: str, directory: str) -> OpenCache:
    """What opens the cache of that name."""
    return partial(_opened, name, directory)


def _opened(name: str, directory: str, settings: Mapping[str, str]) -> NativeCache:
    path = Path(directory, name, f"libtritoncache_{name}.so")
    if not path.is_file():
        raise InvalidArgument(f"unable to find cache '{name}': there is no package that has it, and no {path}")
    native = extension()
    answer_messages(native)
    address, outcome = native.cache_open(str(path), orjson.dumps(dict(settings)).decode())
    check(outcome)
    assert address is not None, "a cache that has opened is somewhere"
    return NativeCache(native, address)


class NativeCache:
    """One library's cache. See RemoteCache."""

    calls_max = 4
    timeout_s = 1.0

    def __init__(self, native: Extension, address: int) -> None:
        self._native = native
        self._address = address
        self._changed = threading.Condition()
        self._calls = 0
        """In the library now, also those that nobody waits for any more."""
        self._is_closed = False

    async def lookup(self, key: str) -> bytes | None:
        outcome, entry = await self._aside(lambda: self._native.cache_lookup(self._address, key))
        check(outcome)
        return entry

    async def insert(self, key: str, entry: bytes) -> bool:
        outcome, is_new = await self._aside(lambda: self._native.cache_insert(self._address, key, entry))
        check(outcome)
        return is_new

    async def close(self) -> None:
        """Finalizes it, once the library has returned from everything else."""
        check(await trio.to_thread.run_sync(self._close, abandon_on_cancel=True))

    def _close(self) -> Outcome:
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._calls)
        return self._native.cache_close(self._address)

    async def _aside(self, call: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(self._called, call, abandon_on_cancel=True)

    def _called(self, call: Callable[[], _T]) -> _T:
        with self._changed:
            if self._is_closed:  # abandoned before its thread had begun
                raise ShuttingDown("the response cache is closed")
            self._calls += 1
        try:
            return call()
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()
