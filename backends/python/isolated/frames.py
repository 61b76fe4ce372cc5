"""What the two processes say to each other: tuples of plain values, and the tensors that go with them.

    (kind, new, released, gone, segment, forms, wires, fields)      one packet of a SOCK_SEQPACKET socket, by marshal

Tensors up to INLINE_BYTES_MAX in all travel in the packet (`wires`), larger ones in one segment of shared memory, one
after the other, whose file goes along the first time (`new`). So does a message that is too large for a packet: then
the packet says where it is. marshal is as fast as it gets, runs nothing that it reads, and reads what any Python since
3.4 has written.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
from collections import deque
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from ....schema.datatype import BY_NAME
from ....schema.fault import Fault, Internal
from ....schema.tensor import Buffer, Tensor
from . import segments
from .received import Lent, start_in
from .segments import SHOWN_MAX, Mappings, Segment, SegmentPool
from .shared_buffers import SharedBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.work import BackendJob
    from ....schema.inference import InferenceRequest

MARSHAL_VERSION: Final = 2
"""Those after it look for what is there twice: twice the time, for a few bytes."""
PACKET_BYTES_MAX: Final = 1 << 16
INLINE_BYTES_MAX: Final = 1 << 14
ALIGNMENT: Final = 64
LENT_BYTES_MIN: Final = 1 << 16
"""What is less is copied sooner than it is found."""
Form = tuple[str, str, tuple[int, ...], int]
"""Of a tensor: name, datatype, shape, and how many bytes it has."""
Contents = tuple[list[Form], list[Buffer], int]
"""Of tensors: their forms, their bytes, and how many bytes that are."""
Place = tuple[int, int]
"""The number of a segment or of a buffer of the server's, and the first byte there."""
Placed = tuple[int, Sequence[int], Sequence[int], tuple[Form, ...], list[Any], list[Buffer]]
"""Of tensors: their segment, what of it is new and its file, their forms, their bytes where in no segment, and what is
to be there until that is told. Of SCATTERED ones: what is new, and their places instead of their bytes."""
SCATTERED: Final = -1
"""Instead of a segment: each tensor is where its place says."""
_NO_CONTENTS: Final[Contents] = ([], [], 0)
_SIZE: Final = itemgetter(3)
"""Of a form."""
ANCILLARY_BYTES: Final = socket.CMSG_SPACE((SHOWN_MAX + 2) * array.array("i").itemsize)

_ELSEWHERE: Final = "elsewhere"


class Packet:
    """What goes through the socket at once: its files are the sender's to close once they are sent."""

    __slots__ = ("data", "files")

    def __init__(self, data: bytes, files: Sequence[int]) -> None:
        self.data = data
        self.files = files

    def close(self) -> None:
        for file in self.files:
            os.close(file)


class Message:
    """One that came."""

    __slots__ = ("fields", "forms", "kind", "wires")

    def __init__(self, kind: str, fields: tuple[Any, ...], forms: tuple[Form, ...], wires: list[Buffer]) -> None:
        self.kind = kind
        self.fields = fields
        self.forms = forms
        self.wires = wires
        """The tensors' wire forms."""

    @property
    def tensors(self) -> list[Tensor]:
        """Made anew each time."""
        return self.some_tensors(0, len(self.forms))

    def some_tensors(self, start: int, stop: int) -> list[Tensor]:
        """Some of them."""
        return [
            Tensor(name, datatype, shape, wire)
            for (name, datatype, shape, _), wire in zip(self.forms[start:stop], self.wires[start:stop], strict=True)
        ]


def contents_of(tensors: Sequence[Tensor]) -> Contents:
    """Raises what encoding strings raises."""
    forms: list[Form] = []
    buffers: list[Buffer] = []
    size = 0
    for tensor in tensors:
        buffer = tensor.memory()
        length = len(buffer)
        size += length
        shape = tensor.shape
        forms.append((tensor.name, tensor.datatype, shape if type(shape) is tuple else tuple(shape), length))
        buffers.append(buffer)
    return forms, buffers, size


class Codec:
    """Both directions of one link. `write` and `read` may run on two threads at a time, each on one; `read` waits for
    nobody."""

    def __init__(self, discard: Callable[[Segment], None] = Segment.discard, *, writes: bool = True) -> None:
        """`discard` is given segments that are not needed any more. Whether this side `writes` to what comes."""
        self._writes = writes
        self.mappings = Mappings()
        self.file = -1
        """One that came with a message and is no segment, once."""
        self._gone: deque[int] = deque()
        """Segments of ours that the other side is to forget."""
        self.pool = SegmentPool(discard, self._gone)
        self.lent = Lent(self._gone)

    def write(self, kind: str, fields: tuple[Any, ...] = (), contents: Contents = _NO_CONTENTS) -> Packet:
        """`fields` are plain values. Copies the tensors. Raises OSError or MemoryError where there is no room, and
        ValueError for a field that is no plain value."""
        return self.write_placed(kind, fields, self.place(contents))

    def place(self, contents: Contents) -> Placed:
        """Copies the tensors where the other side finds them: of those they were made of nobody is needed any more."""
        self.pool.settle()
        forms, wires, size = contents
        if size <= INLINE_BYTES_MAX:
            return 0, (), (), tuple(forms), wires, []
        lent = [*map(self._lendable, wires, forms)]
        if any(one is not None for one in lent):
            return self._place_scattered(forms, wires, lent)
        segment = self.pool.take(size + ALIGNMENT * len(wires))
        start = 0
        for wire in wires:
            segment.fill(start, wire)
            start = -(-(start + len(wire)) // ALIGNMENT) * ALIGNMENT
        return segment.number, *_new(segment), tuple(forms), [], []

    def _lendable(self, wire: Buffer, form: Form) -> SharedBuffer | Segment | Place | None:
        """Where it can stay: in a buffer or in a segment of ours, or in a buffer of the other side's."""
        if form[3] < LENT_BYTES_MIN:
            return None
        segment = self.pool.lendable(wire)
        if segment is not None:
            return segment
        buffer = self.lent.lendable(wire, _alignment(form[1]))
        return self.mappings.whereabouts(wire) if buffer is None else buffer

    def _place_scattered(
        self, forms: list[Form], wires: list[Buffer], lent: Sequence[SharedBuffer | Segment | Place | None]
    ) -> Placed:
        """Copies those that cannot stay where they are."""
        buffers: dict[int, SharedBuffer] = {}
        arrays: dict[int, Segment] = {}
        places: list[Place] = []
        copied: list[tuple[int, Buffer]] = []
        start = 0
        for wire, place in zip(wires, lent, strict=True):
            if isinstance(place, SharedBuffer) and (place.number in buffers or len(buffers) < SHOWN_MAX):
                buffers[place.number] = place
                places.append((place.number, start_in(place, wire)))
            elif isinstance(place, Segment):
                arrays[place.number] = place
                places.append((place.number, 0))
            elif isinstance(place, tuple):
                places.append(place)
            else:
                places.append((0, start))
                copied.append((start, wire))
                start = -(-(start + len(wire)) // ALIGNMENT) * ALIGNMENT
        segment = self.pool.take(start) if copied else None
        try:
            new, files = self.lent.lend(buffers)
        except OSError:
            if segment is not None:
                self.pool.returned([segment.number])
            raise
        if segment is not None:
            for at, wire in copied:
                segment.fill(at, wire)
            places = [place if place[0] else (segment.number, place[1]) for place in places]
        for one in (segment, *arrays.values()):
            also_new, also_files = _new(one)
            new, files = [*new, *also_new], [*files, *also_files]
        for number in arrays:
            self.pool.lend(number)
        return SCATTERED, new, files, tuple(forms), places, wires

    def copied_bytes(self, contents: Contents) -> int:
        """How many bytes `place` would copy."""
        forms, wires, size = contents
        if size <= INLINE_BYTES_MAX:
            return size
        return sum(form[3] for wire, form in zip(wires, forms, strict=True) if self._lendable(wire, form) is None)

    def write_placed(self, kind: str, fields: tuple[Any, ...], placed: Placed) -> Packet:
        """`write` in two steps: what is let go of between them is told with the same message."""
        number, new, files, forms, wires, held = placed
        held.clear()
        self.pool.placed()
        gone: list[int] = []
        while self._gone:
            gone.append(self._gone.popleft())
        released = self.mappings.released()
        try:
            return self._packet((kind, tuple(new), released, gone, number, forms, wires, fields), new, files)
        except BaseException:
            self._gone.extendleft(reversed(gone))
            self.mappings.keep_released(released)
            raise

    def _packet(self, said: tuple[Any, ...], new: Sequence[int], files: Sequence[int]) -> Packet:
        """Through the socket, or, where it is too large, in a segment."""
        data = marshal.dumps(said, MARSHAL_VERSION)
        if len(data) <= PACKET_BYTES_MAX:
            return Packet(data, files)
        elsewhere = self.pool.take(len(data))
        elsewhere.memory[: len(data)] = data
        also_new, also_files = _new(elsewhere)
        where = (_ELSEWHERE, (*new, *also_new), elsewhere.number, len(data))
        return Packet(marshal.dumps(where, MARSHAL_VERSION), (*files, *also_files))

    def write_file(self, kind: str, fields: tuple[Any, ...], file: int) -> Packet:
        """`write` with a file that is no segment: where segments have numbers, it has none."""
        return self.write_placed(kind, fields, (0, (0,), (file,), (), [], []))

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
            elif said[1]:
                self._map(said[1], files)
            kind, _, released, gone, number, forms, wires, fields = said
            for other in gone:
                self.mappings.forget(other)
            if number == SCATTERED:
                wires = self._scattered(wires, forms)
            elif number:
                wires = _parts(self.mappings.lease(number), forms)
            elif [*map(len, wires)] != [*map(_SIZE, forms)]:
                raise ValueError("tensors of other sizes")
            if released:
                self._take_back(released)
            return Message(kind, fields, forms, wires)
        except (ValueError, TypeError, EOFError, KeyError, IndexError, OSError) as problem:
            raise Internal(f"what came is no message: {type(problem).__name__}: {problem}") from problem

    @property
    def holds_much(self) -> bool:
        """Whether `tidy` is worth it when it is quiet."""
        least = segments.IDLE_BYTES_MAX
        return bool(self.lent) or self.pool.byte_size > least or self.mappings.byte_size > least

    def tidy(self) -> bool:
        """It was quiet for a while: whether the other side should be told of segments that are gone, or free. For who
        writes."""
        self.pool.tidy()
        return bool(self._gone) or self.mappings.has_released

    def close(self) -> None:
        self.lent.close()
        self.pool.close()
        self.mappings.close()

    def _scattered(self, places: Sequence[Place], forms: Sequence[Form]) -> list[Buffer]:
        """The tensors that are there. Raises ValueError where they are not."""
        wholes: dict[int, memoryview] = {}
        parts: list[Buffer] = []
        for (number, start), form in zip(places, forms, strict=True):
            whole = wholes.get(number)
            if whole is None:
                knows = self.mappings.knows(number)
                whole = wholes[number] = self._leased(number) if knows else self.lent.whole(number)
            parts.append(_part(whole, start, form[3]))
        return parts

    def _leased(self, number: int) -> memoryview:
        """What came without a copy may be its owner's, too."""
        whole = self.mappings.lease(number)
        return whole if self._writes else whole.toreadonly()

    def _take_back(self, released: list[int]) -> None:
        for number in released:
            if number < 0:
                self.lent.take_back(number)
        self.pool.returned([number for number in released if number > 0])

    def _map(self, numbers: Sequence[int], files: Sequence[int]) -> None:
        for number, file in zip(numbers, files, strict=True):
            if number:
                self.mappings.add(number, file)
            else:
                self.file = file


def _new(segment: Segment | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The number and the file of a segment that the other side does not have yet."""
    file = -1 if segment is None else segment.take_fd()
    return ((), ()) if segment is None or file < 0 else ((segment.number,), (file,))


def _parts(whole: memoryview, forms: Sequence[Form]) -> list[Buffer]:
    """Where a segment has the tensors. Raises ValueError where it has not."""
    parts: list[Buffer] = []
    start = 0
    for form in forms:
        parts.append(_part(whole, start, form[3]))
        start = -(-(start + form[3]) // ALIGNMENT) * ALIGNMENT
    return parts


def _part(whole: memoryview, start: int, size: int) -> memoryview:
    if size < 0 or start < 0 or start + size > len(whole):
        raise ValueError("a tensor beyond its segment")
    return whole[start : start + size]


def _alignment(datatype: str) -> int:
    """Of what starts where, so that its elements are aligned."""
    kind = BY_NAME.get(datatype)
    return ALIGNMENT if kind is None else kind.byte_size or 1


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


# --- Requests, likewise


def request_fields(request: InferenceRequest, job: BackendJob) -> tuple[Any, ...]:
    """All but the inputs, as plain values; the version is the one that answers. See serving.request_of."""
    trace = request.trace
    return (
        request.model_name,
        int(job.version_text),
        request.id,
        tuple(request.outputs),
        request.parameters,
        request.priority,
        request.timeout_us,
        request.correlation_id,
        request.sequence_start,
        request.sequence_end,
        trace is not None,
        None if trace is None else trace.context(),
    )


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
