"""What two processes say to each other: messages that come back right, and what is no message."""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import threading
import time
from collections import deque

import numpy as np
import pytest
from despina.backends.python.isolated import segments
from despina.backends.python.isolated.discarding import Discarder
from despina.backends.python.isolated.frames import (
    INLINE_BYTES_MAX,
    PACKET_BYTES_MAX,
    Codec,
    contents_of,
    fault_fields,
    fault_of,
)
from despina.backends.python.isolated.segments import Segment
from despina.schema import fault as faults
from despina.schema.fault import Fault, Internal
from despina.schema.tensor import Tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.carrying import refuse_thread

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)
SIZES = st.integers(0, 100) | st.integers(INLINE_BYTES_MAX - 2, INLINE_BYTES_MAX + 2) | st.integers(0, 300_000)


def passed(writer, reader, kind, fields=(), tensors=()):
    packet = writer.write(kind, fields, contents_of(tensors))
    assert len(packet.data) <= PACKET_BYTES_MAX
    return reader.read(packet.data, packet.files)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(PLAIN, max_size=4), st.lists(SIZES, max_size=4)), max_size=8))
def test_what_is_said_is_heard(said):
    """Any plain values and tensors, one message after the other; segments are used again once nobody refers to them."""
    ours, theirs = Codec(), Codec()
    before = descriptors()
    for fields, sizes in said:
        tensors = [Tensor(f"t{i}", "UINT8", (size,), os.urandom(size)) for i, size in enumerate(sizes)]
        message = passed(ours, theirs, "said", tuple(fields), tensors)
        assert (message.kind, message.fields) == ("said", tuple(fields))
        for sent, got in zip(tensors, message.tensors, strict=True):
            assert (got.name, got.datatype, got.shape) == (sent.name, "UINT8", sent.shape)
            assert bytes(got.memory()) == sent.wire
        del message, tensors
        got = None
        assert passed(theirs, ours, "heard").kind == "heard"
    assert ours.pool.byte_size <= 4 << 20
    ours.close()
    theirs.close()
    assert descriptors() <= before


def test_a_segment_is_busy_while_somebody_reads_it(ends):
    """An array over it is not overwritten by the next message, however many follow."""
    ours, theirs = ends
    numbers = np.arange(30_000, dtype=np.int32)
    first = passed(ours, theirs, "a", (), [Tensor("x", "INT32", (30_000,), numbers.tobytes())])
    array = first.tensors[0].numpy()[10:20]
    del first
    for _ in range(5):
        passed(ours, theirs, "b", (), [Tensor("x", "UINT8", (120_000,), bytes(120_000))])
        passed(theirs, ours, "c")
    assert array.tolist() == list(range(10, 20))


def test_a_segment_goes_back_with_the_answer(ends):
    """Goal: what a batch came in is free as soon as its answers are there. Method: answers that are views of it."""
    ours, theirs = ends
    sizes = []
    for _ in range(4):
        asked = passed(ours, theirs, "execute", (), [Tensor("x", "UINT8", (100_000,), b"a" * 100_000)])
        placed = theirs.place(contents_of(asked.tensors))
        asked.wires = []
        packet = theirs.write_placed("executed", (), placed)
        answer = ours.read(packet.data, packet.files)
        assert bytes(answer.wires[0]) == b"a" * 100_000
        del answer
        sizes.append((ours.pool.byte_size, theirs.pool.byte_size))
    assert sizes == [(1 << 17, 1 << 17)] * 4


@pytest.mark.interpreted
def test_large_segments_are_used_again_while_they_are_needed(ends, monkeypatch):
    """Goal: batches of varying size go through memory that is made once; quiet gives it back, and the other side lets
    go of it, too. Method: bounds of 128 KiB and a clock of our own."""
    now = [1000.0]
    monkeypatch.setattr(segments, "IDLE_BYTES_MAX", 1 << 17)
    monkeypatch.setattr(segments.time, "monotonic", lambda: now[0])
    ours, theirs = ends
    made = 0
    for size in (3 << 20, 5 << 20, 4 << 20, 3 << 20, 5 << 20, 2 << 20):
        packet = ours.write("batch", (), contents_of([Tensor("x", "UINT8", (size,), bytes(size))]))
        made += len(packet.files)
        theirs.read(packet.data, packet.files)
        passed(theirs, ours, "done")
    assert made == 2
    assert ours.holds_much
    held = descriptors()
    assert ours.tidy()
    assert not ours.holds_much
    passed(ours, theirs, "tidied")
    assert descriptors() == held - 4
    assert not ours.tidy()


@pytest.mark.interpreted
def test_what_is_not_needed_any_more_is_given_back(ends, monkeypatch):
    """Goal: one large batch among small ones does not stay, though it is never quiet."""
    now = [1000.0]
    monkeypatch.setattr(segments, "IDLE_BYTES_MAX", 1 << 17)
    monkeypatch.setattr(segments.time, "monotonic", lambda: now[0])
    ours, theirs = ends
    for size in (4 << 20, *[100_000] * 4):
        passed(ours, theirs, "batch", (), [Tensor("x", "UINT8", (size,), bytes(size))])
        passed(theirs, ours, "done")
        now[0] += 8
    assert ours.pool.byte_size == 1 << 17


def test_what_is_discarded_is_free_on_both_sides():
    """Goal: whoever lets go of a segment last has nothing left to give back, which takes long."""
    segment = Segment(1, 3 << 20)
    seen = os.dup(segment.fd)
    there = mmap.mmap(seen, segment.size)
    segment.fill(0, b"x" * segment.size)
    assert os.fstat(seen).st_blocks
    segment.discard()
    assert not os.fstat(seen).st_blocks
    assert there[:4] == bytes(4)
    there.close()
    os.close(seen)


def test_what_the_other_side_reads_still_is_not_discarded(ends):
    """Goal: a process that ends leaves its last answer whole."""
    ours, theirs = ends
    data = os.urandom(2 << 20)
    message = passed(ours, theirs, "answer", (), [Tensor("x", "UINT8", (len(data),), data)])
    ours.close()
    assert bytes(message.wires[0]) == data


def test_segments_are_discarded_where_no_thread_can_be_had(monkeypatch):
    """Goal: they are given back by whoever asks, now and later."""
    refuse_thread(monkeypatch, "discarder")
    discarder = Discarder()
    for number in (1, 2):
        segment = Segment(number, 2 << 20)
        discarder.discard(segment)
        assert segment.memory.closed


def test_segments_may_be_discarded_amid_a_discard():
    """Goal: nobody waits for himself where the interpreter frees a buffer just then."""
    discarder = Discarder()
    segments = [Segment(number, 2 << 20) for number in (1, 2)]

    class Interrupted(deque):
        def append(self, segment):
            super().append(segment)
            if segment is segments[0]:
                discarder.discard(segments[1])

    discarder._waiting = Interrupted()
    discarding = threading.Thread(target=discarder.discard, args=[segments[0]], daemon=True)
    discarding.start()
    discarding.join(60)
    assert not discarding.is_alive()
    while discarder._is_running:
        time.sleep(0.001)
    assert all(segment.memory.closed for segment in segments)


def test_large_segments_are_discarded_by_a_thread(monkeypatch):
    """Goal: the server's loop does not wait for it, and all are gone in the end."""
    go_on = threading.Event()
    discard = Segment.discard

    def held(segment, pause_s=0.0):
        assert go_on.wait(60)
        discard(segment, pause_s)

    monkeypatch.setattr(Segment, "discard", held)
    discarder = Discarder()
    large = [Segment(number, 2 << 20) for number in (1, 2, 3)]
    for segment in large:
        discarder.discard(segment)
    assert not any(segment.memory.closed for segment in large)
    go_on.set()
    while discarder._is_running:
        time.sleep(0.001)
    assert all(segment.memory.closed for segment in large)


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 1 << 20, (1 << 20) + 1, (5 << 20) + 5, (16 << 20) + 64])
def test_sizes_of_segments(size):
    """They fit, waste little where it counts, and are few."""
    assert segments.rounded(size) >= size
    assert segments.rounded(size) <= max(segments.SEGMENT_BYTES_MIN, 2 * size if size <= 1 << 20 else 1.25 * size)
    assert segments.rounded(segments.rounded(size)) == segments.rounded(size)


def test_a_message_too_large_for_a_packet(ends):
    """It goes through shared memory, with its tensors or without."""
    ours, theirs = ends
    fields = (list(range(100_000)), "x" * 100_000)
    assert passed(ours, theirs, "big", fields).fields == fields
    message = passed(ours, theirs, "big", fields, [Tensor("x", "UINT8", (50_000,), bytes(50_000))])
    assert message.fields == fields
    assert len(message.tensors[0].memory()) == 50_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        marshal.dumps(None),
        marshal.dumps(()),
        marshal.dumps((1, 2)),
        marshal.dumps(("kind", (), [7], [], 0, (), [])),
        marshal.dumps(("kind", (), [], [], 9, (), [])),
        marshal.dumps(("kind", (), [], [], 0, (("x", "UINT8", (4,), 4),), [])),
        marshal.dumps(("kind", (), [], [], 0, (("x", "UINT8", (4,), 4),), [b"123"])),
        marshal.dumps(("kind", (), [], [], 0, (), [b"123"])),
        marshal.dumps(("kind", (), [], [], 0, (("x", "UINT8", (4,)),), [b"1234"])),
        marshal.dumps(("kind", (5,), [], [], 5, (), [])),
        marshal.dumps(("elsewhere", (), 3, 10)),
        marshal.dumps(("kind", (), [], [], 0, (), [])[:4]),
    ],
)
def test_what_is_no_message(ends, data):
    """It is refused as a whole."""
    with pytest.raises(Internal, match="what came is no message"):
        ends[0].read(data, ())


def test_tensors_beyond_their_segment(ends):
    """A place outside of what is shared is refused."""
    ours, theirs = ends
    packet = ours.write("a", (), contents_of([Tensor("x", "UINT8", (70_000,), bytes(70_000))]))
    said = list(marshal.loads(packet.data))
    for sizes in ((1 << 40,), (131_073,), (-3,), (70_000, 70_000)):
        said[5] = tuple(("x", "UINT8", (4,), size) for size in sizes)
        with pytest.raises(Internal, match="beyond its segment"):
            theirs.read(marshal.dumps(tuple(said)), [os.dup(file) for file in packet.files])
    packet.close()


def test_files_that_could_shrink(ends):
    """Reading what its owner has cut off would end the process: such a file is not mapped, and closed."""
    before = descriptors()
    file = os.memfd_create("loose", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 1 << 16)
    with pytest.raises(Internal, match="not sealed"):
        ends[0].read(marshal.dumps(("kind", (4,), [], [], 4, (), [])), [file])
    assert descriptors() == before
    packet = ends[1].write("a", (), contents_of([Tensor("x", "UINT8", (70_000,), bytes(70_000))]))
    with pytest.raises(PermissionError):
        os.ftruncate(packet.files[0], 10)
    assert fcntl.fcntl(packet.files[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    packet.close()


@pytest.mark.parametrize("name", sorted(name for name, found in vars(faults).items() if isinstance(found, type)))
def test_faults_keep_their_class(name):
    """Every class of the tree, and Internal for others."""
    found = getattr(faults, name)
    if not issubclass(found, Fault):
        return
    again = fault_of(fault_fields(found("text")))
    assert type(again) is found
    assert again.message == "text"
    assert type(fault_of(("Nobody", "text"))) is Internal
