"""Whose memory an array is: what an answer may carry without a copy, and what has to be taken when its Tensor is made.

A model may reuse an array: for the next request of its batch, or for the next batch while answers of this one are still
being written. Then a client would read another client's data. So:

    made      up to COPY_BYTES_MAX    copied at once, which also makes its wire form
              larger                  kept where the model has no other request in its hands until it is answered, and
                                      where it is the array of an input; else copied (in a process of the model's own to
                              where an answer goes)
    answered  larger                  handed over where nothing else refers to its memory; else copied

What was handed over is the answer's: its tensors give the model a copy from then on.

References are counted here only, where nothing is compiled: compiled code lets go of what it has at other places. So
who asks about an array has no reference to it.
"""

from __future__ import annotations

import mmap
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ...schema.references import LOCAL_REFERENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ...schema.tensor import Tensor as WireTensor
    from .request import ReceivedRequest
    from .tensor import Tensor

COPY_BYTES_MAX = 64 * 1024
"""Outputs up to this size are copied when they are made; larger ones only where they could change."""


class Room(mmap.mmap):
    """Memory that at most one array at a time has: who has that has all of it."""

    number: int


class _Executing(threading.local):
    requests: Sequence[ReceivedRequest] = ()
    """What `execute` works on, on this thread. Empty elsewhere, as on a model's own threads."""
    room: Callable[[np.ndarray], np.ndarray | None] | None = None
    """Makes an array like another in a room, from which answers go without another copy; None where that has no room,
    or nobody has rooms. Raises OSError and MemoryError."""


executing = _Executing()


def copied(array: np.ndarray) -> np.ndarray:
    """A copy, for an answer. Raises MemoryError."""
    there = None
    if executing.room is not None:
        with suppress(OSError):  # no descriptors
            there = executing.room(array)
    if there is None:
        return array.copy()
    np.copyto(there, array)
    return there


def may_be_kept(array: np.ndarray) -> bool:
    """Whether a large array that a Tensor was made of can wait for the answer without being copied."""
    requests = executing.requests
    if len(requests) == 1 and not requests[0].outlives_execute:
        return True
    return any(tensor.holds(array) for request in requests for tensor in request.received.values())


def is_alone(wire: WireTensor) -> bool:
    """Whether nobody but this tensor has its array: what another model has answered, and let go."""
    array = wire.array
    assert array is not None, "asked of tensors that have one"
    return owns_memory(array) and sys.getrefcount(array) <= LOCAL_REFERENCES + 1  # the one in `wire`


def sole_holders(tensor: Tensor, inputs: Iterable[Tensor]) -> list[Tensor] | None:
    """The tensors whose array is this one's, itself first: an answer may have it from them. None where others refer to
    its memory, or may.

    `inputs` are the request's own tensors, whose references do not count.
    """
    array = tensor._array
    assert array is not None, "asked of tensors that have one"
    known = LOCAL_REFERENCES + 1
    holders = [tensor]
    for other in inputs:
        if other._array is array:
            known += other is not tensor
            known += other._wire is not None and other._wire.array is array
            holders.append(other)
    if sys.getrefcount(array) > known or not (len(holders) > 1 or owns_memory(array)):
        return None
    return holders


def owns_memory(array: np.ndarray) -> bool:
    """True when the memory is the array's, or belongs to a parent array that only this view refers to."""
    base: object = array.base
    if base is None or isinstance(base, Room):
        return True
    return isinstance(base, np.ndarray) and base.base is None and sys.getrefcount(base) <= LOCAL_REFERENCES + 1
