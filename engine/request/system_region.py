"""One POSIX shared memory object of a client's, read and written without mapping it.

The client may shrink its object at any time, also while we are at it. In a mapping, touching a page that is gone kills
the process (SIGBUS), and no check beforehand helps, for the shrinking may come after the check. So the object is never
mapped: `preadv` and `pwrite` on its descriptor return short, or fail, and that request is told. The same holds when the
file system that the object lives in is full.
"""

from __future__ import annotations

import mmap
import os
import stat
from errno import EINVAL
from typing import TYPE_CHECKING

import numpy as np

from ...schema.fault import Internal, InvalidArgument

if TYPE_CHECKING:
    from ...schema.tensor import Buffer

DIRECTORY = "/dev/shm/"  # where shm_open's names live
RESERVED_PREFIX = "triton_python_backend_shm_region_"

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_system_region(name: str, key: str, offset: int, byte_size: int) -> SystemRegion:
    """The region of `byte_size` bytes at `offset` of the object `key`. Raises Internal, InvalidArgument."""
    plain = key.lstrip("/")
    if plain.startswith(RESERVED_PREFIX):
        raise InvalidArgument(
            f"cannot register shared memory region '{name}' with key '{key}' as the key contains the reserved prefix "
            f"'{RESERVED_PREFIX}'"
        )
    descriptor = _open(plain)
    if descriptor is None:
        raise Internal(f"Unable to open shared memory region: '{key}'")
    if offset + byte_size > descriptor.size():
        reason = "invalid args"
    elif byte_size == 0 or offset % mmap.PAGESIZE:
        # We could serve such a range, but clients know these rules.
        reason = f"unable to process address space{os.strerror(EINVAL)}"
    else:
        return SystemRegion(name, key, offset, byte_size, descriptor)
    descriptor.close()
    raise InvalidArgument(f"failed to register shared memory region '{name}': {reason}")


class SystemRegion:
    """See the module. All methods work from any thread, several at a time."""

    __slots__ = ("__weakref__", "_descriptor", "byte_size", "key", "name", "offset")
    on_device = False

    def __init__(self, name: str, key: str, offset: int, byte_size: int, descriptor: Descriptor) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        """Of the region in its object, in bytes."""
        self.byte_size = byte_size
        self._descriptor = descriptor

    def check(self, offset: int, size: int) -> None:
        """Raises InvalidArgument when the object has become too small for this range of the region."""
        if self.offset + offset + size > self._descriptor.size():
            raise self._too_small()

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of that range. Raises InvalidArgument when the object ends before it does."""
        data = np.empty(size, np.uint8).data
        at = self.offset + offset
        number = self._descriptor.number
        done = 0
        while done < size:
            count = os.preadv(number, [data[done:] if done else data], at + done)
            if count == 0:
                raise self._too_small()
            done += count
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """Writes `data` there. Raises InvalidArgument when the object is too small now, Internal when its file system
        has no room left.

        An object that shrinks between check and write grows again, to what was registered at most.
        """
        self.check(offset, len(data))
        view = memoryview(data)
        at = self.offset + offset
        number = self._descriptor.number
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(number, view[done:] if done else view, at + done)
        except OSError as problem:
            raise Internal(f"unable to write to shared memory region '{self.name}': {problem.strerror}") from problem

    def _too_small(self) -> InvalidArgument:
        return InvalidArgument(f"Invalid offset + byte size for shared memory region: '{self.name}'")


class Descriptor:
    """An open file. Closed when nobody refers to it, so no thread can be left with the number of another file.

    `close` is for who has let nobody else see it.
    """

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number

    def size(self) -> int:
        """What the file has now, in bytes."""
        return os.fstat(self.number).st_size

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.close()


def _open(plain: str) -> Descriptor | None:
    """The object of that name, without leading slashes. None for whatever is not one."""
    if not plain or "/" in plain:
        return None
    try:
        descriptor = Descriptor(os.open(DIRECTORY + plain, _FLAGS))
    except (OSError, ValueError):  # ValueError: a NUL
        return None
    if stat.S_ISREG(os.fstat(descriptor.number).st_mode):
        return descriptor
    descriptor.close()
    return None
