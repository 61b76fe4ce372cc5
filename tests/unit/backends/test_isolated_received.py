"""Requests that are received where their model's process sees them: the same bytes, nobody else's, and given back."""

from __future__ import annotations

import os
import signal

import despina
import numpy as np
import pytest
import trio
from despina.backends.python.isolated import shared_buffers
from despina.backends.python.isolated.frames import LENT_BYTES_MIN, SCATTERED, Codec, contents_of
from despina.backends.python.isolated.shared_buffers import SharedBuffer, SharedBuffers
from despina.engine.port.buffers import BufferPool
from despina.schema.fault import Internal
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor

SIZE = 200_000
DEADLINE_S = 60


@pytest.fixture
def pool():
    return BufferPool(1 << 24, SharedBuffers())


def filled(pool, mark, size=SIZE, start=0):
    """A buffer that so many bytes were received into."""
    buffer = pool.take(start + size)
    buffer[:] = mark
    return buffer, buffer.data[start : start + size]


def tensor(memory, datatype="UINT8"):
    return Tensor("x", datatype, (len(memory),), memory)


def passed(writer, reader, tensors=(), *, is_lent):
    placed = writer.place(contents_of(tensors))
    assert (placed[0] == SCATTERED) is is_lent
    packet = writer.write_placed("said", (), placed)
    return reader.read(packet.data, packet.files)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_what_was_received_is_not_copied(ends, pool):
    """Goal: the process sees, and may write, the very memory; its file goes along once; one that it has is copied."""
    ours, theirs = ends
    _, memory = filled(pool, 7)
    for turn in range(3):
        packet = ours.write("said", (), contents_of([tensor(memory), tensor(b"a" * SIZE), tensor(b"b")]))
        assert len(packet.files) == (2 if turn == 0 else 0)
        got = theirs.read(packet.data, packet.files)
        assert [bytes(wire[:1]) + bytes(wire[-1:]) for wire in got.wires] == [bytes([7, 7 + turn]), b"aa", b"bb"]
        again = passed(ours, theirs, [tensor(memory)], is_lent=False)
        assert bytes(again.wires[0]) == bytes(memory)
        got.wires[0][-1] = 8 + turn
        assert memory[-1] == 8 + turn
        del got, again
        passed(theirs, ours, is_lent=False)


@pytest.mark.parametrize("why", ["readonly", "unaligned", "small", "another's"])
def test_what_is_copied(ends, pool, why):
    """What others may read, what a model could not use there, what is not worth it, and all other memory."""
    ours, theirs = ends
    _, memory = filled(pool, 1, start=2 if why == "unaligned" else 0)
    memory = {
        "readonly": memory.toreadonly(),
        "unaligned": memory,
        "small": memory[: LENT_BYTES_MIN - 1],
        "another's": memoryview(bytearray(SIZE)),
    }[why]
    got = passed(ours, theirs, [tensor(memory, "INT32"), tensor(bytes(SIZE))], is_lent=False)
    assert bytes(got.wires[0]) == bytes(memory)


def test_an_answer_that_is_an_input(ends, pool):
    """Goal: it goes back by its place; its bytes stay while somebody has them, and are nobody's to change."""
    ours, theirs = ends
    buffer, memory = filled(pool, 3)
    address = buffer.ctypes.data
    asked = passed(ours, theirs, [tensor(memory)], is_lent=True)
    part = asked.tensors[0].numpy()[1000 : 1000 + LENT_BYTES_MIN]
    placed = theirs.place(contents_of([Tensor.of("y", part), tensor(b"c" * SIZE)]))
    asked.wires = []
    del part
    packet = theirs.write_placed("executed", (), placed)
    answer = ours.read(packet.data, packet.files)
    assert answer.wires[0].readonly
    assert bytes(answer.wires[0]) == b"\3" * LENT_BYTES_MIN
    assert bytes(answer.wires[1]) == b"c" * SIZE
    pool.give(buffer)
    del buffer, memory
    assert pool.take(SIZE).ctypes.data != address
    del answer
    assert pool.take(SIZE).ctypes.data == address


def test_a_buffer_that_is_lent_is_nobody_elses(ends, pool):
    """Goal: while the process has a view, the buffer is not filled with another request; later it is."""
    ours, theirs = ends
    buffer, memory = filled(pool, 5)
    address = buffer.ctypes.data
    asked = passed(ours, theirs, [tensor(memory)], is_lent=True)
    kept = asked.tensors[0].numpy()[5:10]
    pool.give(buffer)
    del buffer, memory, asked
    for _ in range(3):
        passed(theirs, ours, is_lent=False)
        other, _ = filled(pool, 9)
        assert other.ctypes.data != address
    assert kept.tolist() == [5] * 5
    del kept
    passed(theirs, ours, is_lent=False)
    assert pool.take(SIZE).ctypes.data == address


def test_what_is_gone_is_forgotten(pool):
    """Goal: a buffer that nobody needs is unmapped on both sides, and leaves no descriptor; nor does a closed link."""
    before = descriptors()
    ours, theirs = Codec(), Codec()
    for closes in (False, True):
        buffer, memory = filled(pool, 1)
        passed(ours, theirs, [tensor(memory)], is_lent=True)
        passed(theirs, ours, is_lent=False)
        assert theirs.mappings.byte_size >= SIZE
        assert ours.holds_much
        if closes:
            ours.close()
        del buffer, memory
        if not closes:
            assert ours.tidy()
            passed(ours, theirs, is_lent=False)
            assert theirs.mappings.byte_size == 0
            assert not ours.holds_much
    theirs.close()
    assert descriptors() == before


def test_few_descriptors(monkeypatch, ends):
    """Goal: only so many buffers are shared; where no descriptor is left, they are ordinary memory, or not lent."""
    ours, theirs = ends
    monkeypatch.setattr(shared_buffers, "COUNT_MAX", 2)
    pool = BufferPool(1 << 24, SharedBuffers())
    buffers = [pool.take(SIZE) for _ in range(3)]
    assert [isinstance(one, SharedBuffer) for one in buffers] == [True, True, False]
    del buffers
    _, memory = filled(pool, 1)

    def none_left(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left)
    assert not isinstance(pool.take(SIZE), SharedBuffer)
    monkeypatch.setattr(os, "dup", none_left)
    with pytest.raises(OSError, match="Too many"):
        ours.write("said", (), contents_of([tensor(memory)]))
    monkeypatch.undo()
    assert bytes(passed(ours, theirs, [tensor(memory)], is_lent=True).wires[0]) == bytes(memory)


@pytest.mark.parametrize("place", [(-99, 0), (-1, -1), (-1, 1 << 40), (3, 0), ("a", 0), (-1,), None])
def test_places_that_are_none(ends, pool, place):
    """What a broken process says of places is no message, and nothing is read."""
    ours, theirs = ends
    buffer, memory = filled(pool, 1)
    passed(ours, theirs, [tensor(memory)], is_lent=True)
    if place is not None and place[0] == -1:
        place = (buffer.number, *place[1:])
    placed = (SCATTERED, (), (), (("x", "UINT8", (5,), 5),), [place], [])
    packet = theirs.write_placed("executed", (), placed)
    with pytest.raises(Internal, match="no message"):
        ours.read(packet.data, packet.files)


CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "IN" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { }
"""
MODEL = """
import os, signal
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    kept = ()
    def execute(self, requests):
        responses = []
        for request in requests:
            array = request.inputs()[0].as_numpy()
            does = int(array[0, 0])
            if does == 1:
                array *= 2
            elif does == 2:
                self.kept = (*self.kept, array)
            elif does == 3:
                array = array + 1
            elif does == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            elif does == 6:
                array[0, 0] = 1
                asked = pb_utils.InferenceRequest(
                    inputs=[pb_utils.Tensor("IN", array)], requested_output_names=["OUT"], model_name="n"
                )
                array = array + asked.exec().output_tensors()[0].as_numpy()
            elif does == 5:
                array = np.array([[one[0, place] for one in self.kept for place in (1, -1)]], np.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
        return responses
"""
COUNT = 50_000


@pytest.fixture
async def engine(tmp_path):
    for name in ("m", "n"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(CONFIG)
        (tmp_path / name / "1" / "model.py").write_text(MODEL)
    async with despina.open_engine(tmp_path) as opened:
        yield opened


async def asked(engine, does, mark=0.0):
    """What the model answers to numbers that a door has received: one that says what it does, then marks."""
    model = engine.model("m", -1)
    buffer = model.buffers.take(4 * COUNT)
    numbers = buffer[: 4 * COUNT].view(np.float32)
    numbers[:] = mark
    numbers[0] = does
    memory = buffer.data[: 4 * COUNT]
    over = trio.Event()
    request = InferenceRequest("m", {"IN": Tensor("IN", "FP32", (1, COUNT), memory)})
    job = model.submit(request, lambda _: over.set())
    model.buffers.give(buffer)
    del buffer, numbers, memory, request
    with trio.fail_after(DEADLINE_S):
        await over.wait()
    if job.fault is not None:
        raise job.fault
    return job.response.outputs[0].numpy().copy()


async def test_models_do_with_their_inputs_as_they_like(engine):
    """Goal: passed on, written to, kept, or read: each answer is right, whatever comes next in the same memory."""
    for turn in range(5):
        for does, mark in ((0, 10), (1, 20), (3, 30), (2, 2)):
            got = await asked(engine, does, mark + turn)
            wanted = np.full((1, COUNT), mark + turn, np.float32)
            wanted[0, 0] = does
            assert np.array_equal(got, wanted * 2 if does == 1 else wanted + 1 if does == 3 else wanted)
    assert (await asked(engine, 5)).tolist() == [[mark for turn in range(5) for mark in (2 + turn, 2 + turn)]]
    assert engine.model("m", -1).buffers.kept_bytes >= 4 * COUNT


async def test_an_input_that_another_model_is_asked_with(engine):
    """Goal: the other model writes to what it gets; who asked has its own as it was."""
    for mark in (1, 2, 3):
        assert (await asked(engine, 6, mark))[0, 1:].tolist() == [3 * mark] * (COUNT - 1)


async def test_many_at_one_time(engine):
    """Goal: requests of one batch, each in a buffer of its own, keep apart."""

    async def one(mark):
        for turn in range(10):
            got = await asked(engine, turn % 2, mark)
            assert (got[0, 1:] == (2 * mark if turn % 2 else mark)).all()

    async with trio.open_nursery() as nursery:
        for mark in range(8):
            nursery.start_soon(one, 100 + mark)


async def test_what_a_process_had_when_it_ended(engine):
    """Goal: its batch fails; its buffers serve the next process, which sees none of what was there."""
    for turn in range(3):
        with pytest.raises(despina.ExecutorDied, match=signal.Signals.SIGKILL.name):
            await asked(engine, 4, turn)
        with trio.fail_after(DEADLINE_S):
            while not engine.is_model_ready("m"):  # noqa: ASYNC110  another process brings it about
                await trio.sleep(0.01)
        assert (await asked(engine, 0, turn))[0, 1:].tolist() == [turn] * (COUNT - 1)
    assert engine.model("m", -1).buffers.kept_bytes <= 3 * 4 * COUNT * 2
