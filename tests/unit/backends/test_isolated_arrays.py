"""Arrays of answers that are made where the server sees them: the same bytes, nobody else's, and used again."""

from __future__ import annotations

import os

import numpy as np
import pytest
from despina.backends.python.isolated.frames import SCATTERED, Codec, contents_of
from despina.backends.python.isolated.segments import ARRAYS_MAX, Segment
from despina.schema.tensor import Tensor

SIZE = 200_000


@pytest.fixture
def sides():
    """The model's, and the server's, which writes to nothing that comes."""
    theirs, ours = Codec(), Codec(writes=False)
    yield theirs, ours
    theirs.close()
    ours.close()


def made(theirs, mark, size=SIZE):
    array = theirs.pool.array_like(np.empty(size, np.uint8))
    array[:] = mark
    return array


def address_of(array):
    return array.ctypes.data


def said(theirs, ours, tensors, *, files=None):
    packet = theirs.write("executed", (), contents_of(tensors))
    assert files is None or len(packet.files) == files
    return ours.read(packet.data, packet.files)


def answered(theirs, ours, *arrays, files=None):
    return said(theirs, ours, [Tensor.of(f"t{i}", array) for i, array in enumerate(arrays)], files=files)


def tell(ours, theirs):
    """What the server has let go of goes along with whatever it says."""
    packet = ours.write("execute")
    theirs.read(packet.data, packet.files)


def test_it_is_not_copied(sides):
    """Goal: the server reads the very memory, and cannot write there."""
    theirs, ours = sides
    array = made(theirs, 7)
    message = answered(theirs, ours, array, files=1)
    array[-1] = 8
    assert bytes(message.wires[0]) == b"\7" * (SIZE - 1) + b"\x08"
    assert message.wires[0].readonly


def test_it_is_used_again_once_nobody_has_it(sides):
    """Goal: neither while the model has the array, nor while the server reads it; then without another file."""
    theirs, ours = sides
    array = made(theirs, 1)
    first = address_of(array)
    message = answered(theirs, ours, array, files=1)
    del array
    assert address_of(made(theirs, 2)) != first
    kept = message.wires[0][5:10]
    del message
    tell(ours, theirs)
    others = [made(theirs, 3) for _ in range(3)]
    assert bytes(kept) == b"\1" * 5
    assert first not in map(address_of, others)
    del kept
    tell(ours, theirs)
    again = made(theirs, 4)
    assert address_of(again) == first
    message = answered(theirs, ours, again, files=0)
    del message
    tell(ours, theirs)
    others = [made(theirs, 5) for _ in range(5)]
    assert first not in map(address_of, others)
    assert set(again.tolist()) == {4}


def test_one_that_is_never_answered_is_used_again(sides):
    theirs, _ = sides
    array = made(theirs, 1)
    first = address_of(array)
    part = array[10:20]
    del array
    assert address_of(made(theirs, 2)) != first
    del part
    assert first in (address_of(one) for one in [made(theirs, 3) for _ in range(2)])


def test_what_the_server_has_already_is_copied(sides):
    """Goal: a segment is leased once at a time. Method: the same array in two messages, then twice in one."""
    theirs, ours = sides
    array = made(theirs, 1)
    first = answered(theirs, ours, array)
    second = answered(theirs, ours, array)
    array[:] = 2
    assert (first.wires[0][0], second.wires[0][0]) == (2, 1)
    del first, second
    tell(ours, theirs)
    both = answered(theirs, ours, array, array)
    assert [bytes(wire) for wire in both.wires] == [b"\2" * SIZE] * 2


def test_one_that_is_answered_again_and_again(sides):
    """Goal: it is copied no more once the server has let go of it."""
    theirs, ours = sides
    array = made(theirs, 1)
    for number in range(4):
        array[0] = number
        message = answered(theirs, ours, array, files=0 if number else 1)
        array[0] = 99
        assert message.wires[0][0] == 99
        del message
        tell(ours, theirs)


def test_with_others_that_are_copied(sides):
    theirs, ours = sides
    array = made(theirs, 1)
    part = array[: SIZE // 2]
    message = answered(theirs, ours, np.full(SIZE, 5, np.uint8), array, part, np.full(3, 6, np.uint8), files=2)
    array[:] = 2
    assert [wire[0] for wire in message.wires] == [5, 2, 1, 6]
    assert [*map(len, message.wires)] == [SIZE, SIZE, SIZE // 2, 3]


def test_many(sides):
    """Goal: so many segments at most are made for arrays, whoever has them: the model, slow callers, or nobody."""
    theirs, ours = sides
    before = len(os.listdir("/proc/self/fd"))
    arrays = [made(theirs, number) for number in range(ARRAYS_MAX)]
    assert theirs.pool.array_like(arrays[0]) is None
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * ARRAYS_MAX
    message = answered(theirs, ours, *arrays, np.full(SIZE, 99, np.uint8), files=ARRAYS_MAX + 1)
    assert [wire[0] for wire in message.wires] == [*range(ARRAYS_MAX), 99]
    del arrays
    like = np.empty(SIZE, np.uint8)
    assert theirs.pool.array_like(like) is None  # callers have not read them
    del message
    tell(ours, theirs)
    assert theirs.pool.array_like(np.empty(16 * SIZE, np.uint8)) is None  # none that is there fits
    assert len([made(theirs, 1) for _ in range(10)]) == 10
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * ARRAYS_MAX + 2


def test_an_array_over_the_same_memory(sides):
    """Goal: only the array itself goes by its place: what a model makes of its memory may begin anywhere."""
    theirs, ours = sides
    array = made(theirs, 1)
    array[SIZE // 2 :] = 2
    other = np.ndarray((SIZE // 2,), np.uint8, array.base, SIZE // 2)
    message = answered(theirs, ours, other)
    assert set(bytes(message.wires[0])) == {2}


def test_those_of_a_batch_are_kept_for_the_next(sides):
    """Goal: what large batches come in is made once. Method: three rounds of more than what is kept anyhow."""
    theirs, ours = sides
    files = []
    for _ in range(3):
        arrays = [made(theirs, number, 8 << 20) for number in range(20)]
        packet = theirs.write("executed", (), contents_of([Tensor.of("t", array) for array in arrays]))
        files.append(len(packet.files))
        message = ours.read(packet.data, packet.files)
        assert [wire[-1] for wire in message.wires] == [*range(20)]
        del arrays, message
        tell(ours, theirs)
    assert files == [20, 0, 0]


@pytest.mark.interpreted
def test_no_room(sides, monkeypatch):
    """Goal: where no segment can be had, whoever asks is told."""
    theirs, _ = sides

    def refused(*_):
        raise OSError("no descriptors")

    monkeypatch.setattr(Segment, "__init__", refused)
    with pytest.raises(OSError, match="no descriptors"):
        made(theirs, 1)


def test_nothing_is_left(sides):
    """Goal: descriptors and memory go with the link, whoever still has what."""
    before = len(os.listdir("/proc/self/fd"))
    theirs, ours = Codec(), Codec(writes=False)
    kept, dropped, unsaid = made(theirs, 1), made(theirs, 2), made(theirs, 3)
    message = answered(theirs, ours, kept, dropped)
    del dropped
    theirs.close()
    ours.close()
    assert [wire[0] for wire in message.wires] == [1, 2]
    assert unsaid[0] == 3
    assert kept[0] == 1
    del kept, unsaid, message
    assert len(os.listdir("/proc/self/fd")) == before


def test_scattered_by_its_place(sides):
    theirs, _ = sides
    placed = theirs.place(contents_of([Tensor.of("t", made(theirs, 1))]))
    assert placed[0] == SCATTERED
