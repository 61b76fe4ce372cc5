"""Requests that are received where a model's process sees them: what a door has read from its socket is copied no more.

    SharedBuffers ──▶ a door's buffer, with a request in it ──▶ Lent.lend ──▶ (number, start) ──▶ the model's inputs
         ▲                                                                                          │ let go of
         └── used again once nobody refers to it ◀── Lent.take_back ◀── released ◀──────────────────┘

While it is lent the model may write there, as it may into a request's body in the server's process; so nothing is lent
that others may read. An output that is an input's own memory goes back by its place, too.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .segments import address_of
from .shared_buffers import SharedBuffer

if TYPE_CHECKING:
    from collections import deque

    from ....schema.tensor import Buffer


class Lent:
    """The server's buffers that one process has, or has seen. One thread lends, one takes back."""

    def __init__(self, gone: deque[int]) -> None:
        """`gone` is told of those that the process may forget."""
        self._gone = gone
        self._lent: dict[int, SharedBuffer] = {}
        self._seen: dict[int, weakref.ref[SharedBuffer]] = {}

    def __bool__(self) -> bool:
        """Whether the process has seen any that is still there."""
        return bool(self._seen)

    def lendable(self, wire: Buffer, alignment: int) -> SharedBuffer | None:
        """The buffer that these bytes are in, if the process may have them there."""
        if type(wire) is not memoryview or wire.readonly:
            return None
        buffer: object = wire.obj
        if not isinstance(buffer, SharedBuffer):
            return None
        return None if buffer.number in self._lent or start_in(buffer, wire) % alignment else buffer

    def lend(self, buffers: dict[int, SharedBuffer]) -> tuple[list[int], list[int]]:
        """The process has these from now on. Which it has not seen yet, and their files, to be closed by the caller.

        Raises OSError where there are no descriptors, and lends nothing.
        """
        new = [number for number in buffers if number not in self._seen]
        with contextlib.ExitStack() as undone:
            files = []
            for number in new:
                file = os.dup(buffers[number].file)
                undone.callback(os.close, file)
                files.append(file)
            undone.pop_all()
        for number in new:
            self._seen[number] = weakref.ref(buffers[number], partial(self._end, number))
        self._lent |= buffers
        return new, files

    def whole(self, number: int) -> memoryview:
        """One that the process has: as an answer's it is not to be written to. Raises KeyError."""
        return self._lent[number].data.toreadonly()

    def take_back(self, number: int) -> None:
        """The process has let go of it. Raises KeyError for one that it did not have."""
        del self._lent[number]

    def close(self) -> None:
        """The process is gone."""
        self._lent.clear()
        self._seen.clear()

    def _end(self, number: int, _: Any) -> None:
        if self._seen.pop(number, None) is not None:
            self._gone.append(number)


def start_in(whole: np.ndarray, part: Buffer) -> int:
    """Where in an array's memory these bytes are."""
    return address_of(np.frombuffer(part, np.uint8)) - address_of(whole)
