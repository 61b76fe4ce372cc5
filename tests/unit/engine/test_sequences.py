"""Sequences: their slots, their order, their controls, and how they end; on virtual time."""

import numpy as np
import pytest
import trio
from despina.schema.fault import Cancelled, Fault, InvalidArgument, QueueTimeout
from despina.schema.tensor import Tensor

from tests.fakes import request, value_of, write_model

CONTROLS = """
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
    { name: "END" control [{ kind: CONTROL_SEQUENCE_END fp32_false_true: [-1, 1] }] },
    { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true] }] },
    { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: %s }] }
  ]
"""


def batching(more="", corrid="TYPE_UINT64"):
    return f"sequence_batching {{ max_sequence_idle_microseconds: 1000000 {CONTROLS % corrid} {more} }}"


OLDEST = "oldest { max_candidate_sequences: %d max_queue_delay_microseconds: %d }"


def step(id, value, *, start=False, end=False, **options):
    return request(value=value, correlation_id=id, sequence_start=start, sequence_end=end, **options)


def seen(batch):
    """What the model sees of each place: value, START, END, READY, CORRID."""
    rows = []
    for job in batch.jobs:
        inputs = job.request.inputs
        rows.append(
            tuple(
                np.asarray(inputs[name].numpy()).ravel()[0].item() if inputs[name].datatype != "BYTES"
                else inputs[name].numpy().ravel()[0]
                for name in ("IN", "START", "END", "READY", "CORRID")
            )
        )  # fmt: skip
    return rows


def echoed(batch):
    for job in batch.jobs:
        job.respond([Tensor("OUT", "INT32", job.request.inputs["IN"].shape, job.request.inputs["IN"].memory())])


@pytest.fixture
def batches(backend):
    """What was executed, in order; each batch waits for `release` if `hold` is set."""
    return Batches(backend)


class Batches(list):
    def __init__(self, backend):
        super().__init__()
        self.hold = False
        self.gate = trio.Event()
        backend.execute = self

    async def __call__(self, batch):
        self.append(seen(batch))
        if self.hold:
            await self.gate.wait()
        echoed(batch)

    def release(self):
        self.hold = False
        self.gate.set()


class Callers:
    """Requests under way; what became of each, by its value."""

    def __init__(self, engine, nursery):
        self.engine, self.nursery = engine, nursery
        self.ended = {}
        self.scopes = {}

    async def send(self, id, value, **options):
        """Sends it, and returns once it waits or is over."""
        self.nursery.start_soon(self._call, step(id, value, **options))
        await trio.testing.wait_all_tasks_blocked()

    async def _call(self, asked):
        value = int(asked.inputs["IN"].numpy().ravel()[0])
        with trio.CancelScope() as self.scopes[value]:
            try:
                self.ended[value] = value_of(await self.engine.infer_request(asked)) == value
            except Fault as fault:
                self.ended[value] = type(fault)


async def test_the_worked_example_of_the_direct_strategy(virtual_time, repository, opened, batches):
    """Goal: slots, null requests below the highest ready one and none above, backlog, END, silence: step by step."""
    write_model(repository, "m", max_batch_size=2, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        await callers.send(1, 10, start=True)
        assert batches.pop() == [(10, 1, -1, True, 1)]
        batches.hold = True
        await callers.send(2, 20, start=True)
        assert batches.pop() == [(0, 0, -1, False, 0), (20, 1, -1, True, 2)]
        await callers.send(1, 11)
        await callers.send(2, 21)
        batches.release()
        await trio.testing.wait_all_tasks_blocked()
        assert batches.pop() == [(11, 0, -1, True, 1), (21, 0, -1, True, 2)]
        await callers.send(2, 22)
        assert batches.pop() == [(0, 0, -1, False, 0), (22, 0, -1, True, 2)]
        await callers.send(1, 12)
        assert batches.pop() == [(12, 0, -1, True, 1)]
        await callers.send(3, 30, start=True)
        assert not batches
        assert 30 not in callers.ended
        await callers.send(1, 13, end=True)
        assert list(batches) == [[(13, 0, 1, True, 1)], [(30, 1, -1, True, 3)]]
        await trio.sleep(2)
        with pytest.raises(
            InvalidArgument, match=r"inference request for sequence 2 to model 'm' must specify the START"
        ):
            await engine.infer_request(step(2, 23))
        model = engine.model("m")
        assert set(callers.ended.values()) == {True}
        assert (model.statistics.success_count, model.statistics.inference_count) == (8, 8)
        assert model.ledger.inflight == 0


async def test_the_worked_example_of_the_oldest_strategy(virtual_time, repository, opened, batches):
    """Goal: one request at most of each sequence in a batch, by arrival; candidates bounded, others in a backlog."""
    write_model(repository, "m", max_batch_size=2, more=batching(OLDEST % (4, 0)))
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        batches.hold = True
        await callers.send(9, 90, start=True, end=True)
        for id in (1, 2, 3):
            await callers.send(id, id * 10, start=True)
        await callers.send(1, 11)
        await callers.send(4, 40, start=True)
        await callers.send(5, 50, start=True)
        batches.release()
        await trio.testing.wait_all_tasks_blocked()
        values = [[row[0] for row in batch] for batch in batches]
        assert values == [[90], [10, 20], [30, 11], [40]]  # the fifth waits: four are candidates
        assert 50 not in callers.ended
        await callers.send(4, 41, end=True)
        assert [[row[0] for row in batch] for batch in batches[4:]] == [[41], [50]]
        assert set(callers.ended.values()) == {True}


@pytest.mark.parametrize(
    ("corrid", "id", "told"),
    [
        ("TYPE_UINT64", 2**64 - 1, 2**64 - 1),
        ("TYPE_INT64", 2**64 - 2, -2),
        ("TYPE_UINT32", 2**32 + 7, 7),
        ("TYPE_INT32", 2**32 - 3, -3),
        ("TYPE_STRING", "söme-id", "söme-id".encode()),
    ],
)
async def test_correlation_ids(virtual_time, repository, opened, batches, corrid, id, told):
    """Goal: each datatype of the control; numbers are cut to its size; the other kind of id is refused."""
    write_model(repository, "m", more=batching(corrid=corrid))
    async with opened() as engine:
        await engine.infer_request(step(id, 1, start=True))
        assert batches.pop()[0][4] == told
        with pytest.raises(InvalidArgument, match=f"data-type is '{'UINT64' if isinstance(id, str) else 'BYTES'}'"):
            await engine.infer_request(step(5 if isinstance(id, str) else "five", 1, start=True))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (step(0, 1, start=True), "must specify a non-zero or non-empty correlation ID"),
        (step("", 1, start=True), "must specify a non-zero or non-empty correlation ID"),
        (step(1, 1, start=True, rows=2), "must specify batch-size 1 due to requirements of sequence batcher"),
        (step(7, 1), "inference request for sequence 7 to model 'm' must specify the START flag on the first request"),
        (step(7, 1, end=True), "must specify the START flag on the first request of the sequence"),
    ],
)
async def test_refusals(virtual_time, repository, opened, batches, asked, text):
    """Goal: the protocol's words; counted nowhere, and nothing is left."""
    write_model(repository, "m", more=batching())
    async with opened() as engine:
        with pytest.raises(InvalidArgument, match=text):
            await engine.infer_request(asked)
        assert not batches
        assert engine.model("m").statistics.fail_count == engine.model("m").ledger.inflight == 0
        await engine.infer_request(step(1, 1, start=True, end=True))


@pytest.mark.parametrize("strategy", ["", OLDEST % (1, 0)])
async def test_a_caller_that_leaves_frees_the_slot(virtual_time, repository, opened, batches, strategy):
    """Goal: its sequence is over: what waits of it is refused, and who waits for a slot gets it."""
    write_model(repository, "m", max_batch_size=1, more=batching(strategy))
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        batches.hold = True
        await callers.send(1, 10, start=True)
        for value in (11, 12, 13):
            await callers.send(1, value)
        await callers.send(2, 20, start=True)
        callers.scopes[12].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert callers.ended == {11: Cancelled, 13: Cancelled}
        batches.release()
        await trio.testing.wait_all_tasks_blocked()
        assert callers.ended == {10: True, 11: Cancelled, 13: Cancelled, 20: True}
        with pytest.raises(InvalidArgument, match="START"):
            await engine.infer_request(step(1, 14))
        assert engine.model("m").ledger.inflight == 0


async def test_the_backlog_expires(virtual_time, repository, opened, batches):
    """Goal: a request's timeout bounds how long its sequence waits for a slot; then all of it hears so."""
    write_model(repository, "m", max_batch_size=1, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        batches.hold = True
        await callers.send(1, 10, start=True)
        await callers.send(2, 20, start=True)
        await callers.send(2, 21, timeout_us=300_000)
        await trio.sleep(0.2)
        assert not callers.ended
        await trio.sleep(0.15)
        assert callers.ended == {20: QueueTimeout, 21: QueueTimeout}
        batches.release()


async def test_silence_ends_a_sequence_and_another_takes_its_place(virtual_time, repository, opened, batches):
    """Goal: without a request for the idle time the slot is free, at that time and without anybody asking."""
    write_model(repository, "m", max_batch_size=1, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        await callers.send(1, 10, start=True)
        began = trio.current_time()
        await trio.sleep(0.6)
        await callers.send(1, 11)
        await callers.send(2, 20, start=True)
        with trio.fail_after(5):
            while 20 not in callers.ended:  # noqa: ASYNC110  when that is, is the question
                await trio.sleep(0.01)
        assert trio.current_time() - began == pytest.approx(1.6, abs=0.05)


async def test_silence_counts_from_the_last_arrival_also_after_the_backlog(virtual_time, repository, opened, batches):
    """Goal: who waited in the backlog is over at its last arrival's time, however late it got its slot."""
    write_model(repository, "m", max_batch_size=1, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        await callers.send(1, 10, start=True)
        await trio.sleep(0.3)
        await callers.send(2, 20, start=True)
        await trio.sleep(0.9)
        assert callers.ended == {10: True, 20: True}
        await callers.send(2, 21)  # 0.9 s after the last one
        await trio.sleep(0.9)
        await callers.send(2, 22)
        assert callers.ended == {10: True, 20: True, 21: True, 22: True}
        await callers.send(3, 30, start=True)
        await trio.sleep(1.1)
        assert callers.ended[30] is True
        await callers.send(3, 31)
        assert callers.ended[31] is InvalidArgument


async def test_sequences_spread_over_instances(virtual_time, repository, opened, batches):
    """Goal: lowest slot number first over all instances; each sequence stays with its instance."""
    write_model(repository, "m", max_batch_size=2, instances=2, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        for id in (1, 2, 3, 4):
            await callers.send(id, id * 10, start=True)
        for id in (4, 3, 2, 1):
            await callers.send(id, id * 10 + 1)
        assert set(callers.ended.values()) == {True}
        slots = engine.model("m").scheduler._slots
        assert sorted((slot.number, sequence.id) for sequence in slots.placed for slot in [sequence.slot]) == [
            (0, 1), (0, 2), (1, 3), (1, 4)
        ]  # fmt: skip


async def test_a_slot_waits_for_company_by_setting(virtual_time, repository, opened, batches):
    """Goal: with a minimum slot utilisation a batch waits for so many sequences, or for the delay."""
    more = batching("direct { max_queue_delay_microseconds: 100000 minimum_slot_utilization: 1.0 }")
    write_model(repository, "m", max_batch_size=2, more=more)
    async with opened() as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        await callers.send(1, 10, start=True)
        assert not batches
        await callers.send(2, 20, start=True)
        assert [row[0] for row in batches.pop()] == [10, 20]
        await callers.send(1, 11)
        await trio.sleep(0.05)
        assert not batches
        await trio.sleep(0.06)
        assert [row[0] for row in batches.pop()] == [11]


async def test_unloading_and_dying(virtual_time, repository, opened, batches):
    """Goal: what waits hears of it; nothing is left."""
    write_model(repository, "m", max_batch_size=1, more=batching())
    options = {"model_control_mode": "explicit", "load_model": "m"}
    async with opened(**options) as engine, trio.open_nursery() as nursery:
        callers = Callers(engine, nursery)
        batches.hold = True
        await callers.send(1, 10, start=True)
        await callers.send(1, 11)
        await callers.send(2, 20, start=True)
        model = engine.model("m")
        nursery.start_soon(engine.unload, "m")
        await trio.sleep(0.1)
        batches.release()
        await trio.sleep(3)
        assert callers.ended[10] is True
        assert callers.ended.keys() == {10, 11, 20}
        assert (model.ledger.inflight, model.scheduler.live) == (0, 0)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_many_sequences_at_once(repository, opened, backend, asynchronous):
    """Goal: real time, two instances, twenty sequences over four slots each: order kept, everything answered."""
    backend.asynchronous = asynchronous
    sums, wrong = {}, []

    def behave(batch):
        for job in batch.jobs:
            value, start, _, ready, id = seen(type("One", (), {"jobs": [job]}))[0]
            if ready:
                if (value == 0) != bool(start) or sums.get(id, -1) + 1 != value:
                    wrong.append((id, value))
                sums[id] = value
        echoed(batch)

    async def execute(batch):
        await trio.sleep(0.0005)
        behave(batch)

    backend.execute, backend.execute_sync = execute, behave
    write_model(repository, "m", max_batch_size=4, instances=2, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:

        async def sequence(id):
            for value in range(30):
                response = await engine.infer_request(step(id, value, start=value == 0, end=value == 29))
                assert value_of(response) == value

        with trio.fail_after(30):
            async with trio.open_nursery() as callers:
                for id in range(1, 21):
                    callers.start_soon(sequence, id)
        assert not wrong
        assert set(sums.values()) == {29}
        assert engine.model("m").statistics.success_count == 600
        with trio.fail_after(5):  # a thread hands its slots back when it looks for the next batch
            while engine.model("m").scheduler._slots.placed:  # noqa: ASYNC110  nothing tells
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
