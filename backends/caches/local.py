"""The cache in the engine's own memory: least recently used entries go first. For the trio thread."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ...engine.port.cache import CacheFill
from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

ENTRY_BYTES: Final = 256
"""What an entry takes beside its bytes and its key's: Python's objects, and its place in the table."""


class LocalCache:
    """At most `byte_size` bytes of keys, entries and what they take beside. All in constant time."""

    def __init__(self, byte_size: int) -> None:
        self._byte_size = byte_size
        self._used_bytes = 0
        self._evictions = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        """The least recently used first."""

    def lookup_now(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def insert_now(self, key: str, entry: bytes) -> bool:
        needed = taken(key, entry)
        if key in self._entries:
            return False
        if needed > self._byte_size:
            return True
        while self._used_bytes + needed > self._byte_size:
            gone = self._entries.popitem(last=False)
            self._used_bytes -= taken(*gone)
            self._evictions += 1
        self._entries[key] = entry
        self._used_bytes += needed
        return True

    def fill(self) -> CacheFill:
        return CacheFill(
            byte_size=self._byte_size,
            used_bytes=self._used_bytes,
            entries=len(self._entries),
            evictions=self._evictions,
        )


def taken(key: str, entry: bytes) -> int:
    """What an entry counts for, in bytes."""
    return ENTRY_BYTES + len(key) + len(entry)


def open_local(settings: Mapping[str, str]) -> LocalCache:
    """The entry point. Needs `size`, in bytes. Raises InvalidArgument."""
    size = settings.get("size")
    if size is None:
        raise InvalidArgument("Failed to initialize LocalCache: config didn't contain a valid 'size' field.")
    if not re.fullmatch("[0-9]{1,18}", size) or not int(size):
        raise InvalidArgument(
            f"Failed to initialize LocalCache: 'size' must be a number of bytes, at least 1, got '{size}'"
        )
    unknown = sorted({*settings} - {"size"})
    if unknown:
        raise InvalidArgument(
            f"Failed to initialize LocalCache: unknown setting '{unknown[0]}'; the only one that there is is 'size'"
        )
    return LocalCache(int(size))
