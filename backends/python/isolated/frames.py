"""What the two processes say to each other: tuples of plain values, and the tensors that go with them.

    (kind, new, released, gone, segment, tensors, *fields)      one packet of a SOCK_SEQPACKET socket, by marshal

Tensors up to INLINE_BYTES_MAX in all travel in the packet, larger ones in one segment of shared memory, whose file goes
along the first time (`new`). So does a message that is too large for a packet: then the packet says where it is.
marshal is as fast as it gets, runs nothing that it reads, and reads what any Python since 3.4 has written.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import attrs

from ....schema.fault import Fault, Internal
from ....schema.tensor import Tensor
from .segments import Mappings, SegmentPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.tensor import Buffer
    from .segments import Segment

MARSHAL_VERSION: Final = 4
PACKET_BYTES_MAX: Final = 1 << 16
INLINE_BYTES_MAX: Final = 1 << 14
ALIGNMENT: Final = 64
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(2 * array.array("i").itemsize)

_ELSEWHERE: Final = "elsewhere"


@attrs.frozen
class Packet:
    """What goes through the socket at once: its files are the sender's to close once they are sent."""

    data: bytes
    files: Sequence[int]

    def close(self) -> None:
        for file in self.files:
            os.close(file)


@attrs.frozen
class Message:
    """One that came."""

    kind: str
    fields: tuple[Any, ...]
    tensors: list[Tensor]


class Codec:
    """Both directions of one link. `write` and `read` may run on two threads at a time, each on one."""

    def __init__(self) -> None:
        self.pool = SegmentPool()
        self.mappings = Mappings()
        self._gone: deque[int] = deque()
        """Segments of ours that the other side is to forget."""

    def write(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> Packet:
        """`fields` are plain values. Copies the tensors. Raises OSError or MemoryError where there is no room, and
        ValueError for a field that is no plain value."""
        buffers = [tensor.memory() for tensor in tensors]
        segment, places = self._place(buffers)
        placed = [
            (tensor.name, tensor.datatype, tuple(tensor.shape), place)
            for tensor, place in zip(tensors, places, strict=True)
        ]
        gone = []
        while self._gone:
            gone.append(self._gone.popleft())
        number = 0 if segment is None else segment.number
        new, files = _new(segment)
        data = marshal.dumps((kind, new, self.mappings.released(), gone, number, placed, *fields), MARSHAL_VERSION)
        if len(data) <= PACKET_BYTES_MAX:
            return Packet(data, files)
        elsewhere = self.pool.take(len(data))
        elsewhere.memory[: len(data)] = data
        also_new, also_files = _new(elsewhere)
        where = (_ELSEWHERE, (*new, *also_new), elsewhere.number, len(data))
        return Packet(marshal.dumps(where, MARSHAL_VERSION), (*files, *also_files))

    def read(self, data: Buffer, files: Sequence[int]) -> Message:
        """Takes over the files. Tensors are views of shared memory, or have bytes of their own.

        Raises Internal for what is no message.
        """
        try:
            said = marshal.loads(data)
            if said[0] == _ELSEWHERE:
                _, new, number, length = said
                self._map(new, files)
                said = marshal.loads(self.mappings.lease(number)[:length])
            else:
                self._map(said[1], files)
            kind, _, released, gone, number, placed, *fields = said
            for other in gone:
                self.mappings.forget(other)
            self._gone.extend(self.pool.give_back(released))
            whole = self.mappings.lease(number) if number else None
            return Message(kind, tuple(fields), [_tensor(one, whole) for one in placed])
        except (ValueError, TypeError, EOFError, KeyError, IndexError, OSError) as problem:
            raise Internal(f"what came is no message: {type(problem).__name__}: {problem}") from problem

    def close(self) -> None:
        self.pool.close()
        self.mappings.close()

    def _place(self, buffers: Sequence[Buffer]) -> tuple[Segment | None, Sequence[Any]]:
        if sum(map(len, buffers)) <= INLINE_BYTES_MAX:
            return None, buffers
        places = []
        at = 0
        for buffer in buffers:
            places.append((at, len(buffer)))
            at += -(-len(buffer) // ALIGNMENT) * ALIGNMENT
        segment = self.pool.take(at)
        for (start, length), buffer in zip(places, buffers, strict=True):
            segment.memory[start : start + length] = buffer
        return segment, places

    def _map(self, numbers: Sequence[int], files: Sequence[int]) -> None:
        for number, file in zip(numbers, files, strict=True):
            self.mappings.add(number, file)


def _new(segment: Segment | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The number and the file of a segment that the other side does not have yet."""
    file = -1 if segment is None else segment.take_fd()
    return ((), ()) if segment is None or file < 0 else ((segment.number,), (file,))


def _tensor(placed: tuple[str, str, tuple[int, ...], Any], whole: memoryview | None) -> Tensor:
    name, datatype, shape, place = placed
    if type(place) is bytes:
        return Tensor(name, datatype, shape, place)
    if whole is None:
        raise ValueError("a tensor in no segment")
    start, length = place
    if not 0 <= start <= start + length <= len(whole):
        raise ValueError("a tensor beyond its segment")
    return Tensor(name, datatype, shape, whole[start : start + length])


# --- Faults, as plain values


def fault_fields(fault: Fault) -> tuple[str, str]:
    return type(fault).__name__, fault.message


def fault_of(fields: tuple[str, str]) -> Fault:
    """The same fault. Of a class that there is not: Internal."""
    name, message = fields
    return _FAULTS.get(name, Internal)(message)


def _all(base: type[Fault]) -> dict[str, type[Fault]]:
    found = {base.__name__: base}
    for derived in base.__subclasses__():
        found |= _all(derived)
    return found


_FAULTS: Final = _all(Fault)


# --- The socket


def files_of(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The files that came with a packet."""
    files = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    return list(files)


def ancillary_of(packet: Packet) -> list[tuple[int, int, array.array[int]]]:
    """The files of a packet as `sendmsg` takes them."""
    if not packet.files:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", packet.files))]
