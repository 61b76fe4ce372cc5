"""The port behind which answers are kept: the engine's own memory, or a server that several engines share.

    key ──lookup──▶ entry, or None            key, entry ──insert──▶ kept, for as long as the cache likes

A key is the text of a digest over all that an answer depends on, so equal keys mean equal answers. An entry is the
answer's bytes; what comes back from elsewhere is checked before it is used. Losing entries is no fault.

A cache is found by name through the entry-point group `despina.caches`; the entry is called in a worker thread with the
settings that `--cache-config` gave it, and returns one. It raises Fault for settings that cannot be, and for a server
that does not answer; either keeps the engine from starting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from ...schema.tensor import Buffer


@attrs.frozen(kw_only=True)
class CacheFill:
    """How full a cache is, where that is its own affair and not that of a server elsewhere."""

    byte_size: int
    used_bytes: int
    entries: int
    evictions: int
    """Entries that had to go for others, so far."""


class MemoryCache(Protocol):
    """A cache in the process: asked on the trio thread, it answers at once."""

    def lookup_now(self, key: str) -> Buffer | None: ...

    def insert_now(self, key: str, entry: bytes) -> bool:
        """False if there is an entry already, which stays. One that there is no room for is let go."""
        ...

    def fill(self) -> CacheFill: ...


class RemoteCache(Protocol):
    """A cache elsewhere. Its methods are awaited on the trio thread, `calls_max` at a time, each within `timeout_s`.

    They may raise any Exception, or take too long: that counts as a miss, and the cache is left alone for a while.
    Cancelled, they return at once, whatever becomes of the call.
    """

    calls_max: int
    timeout_s: float

    async def lookup(self, key: str) -> Buffer | None: ...

    async def insert(self, key: str, entry: bytes) -> bool:
        """See MemoryCache.insert_now."""
        ...

    async def close(self) -> None:
        """Lets go of connections. Called once."""
        ...


ResponseCache = MemoryCache | RemoteCache
OpenCache = Callable[[Mapping[str, str]], ResponseCache]
"""What an entry point names."""
