"""Requests that their model releases to be executed once more, and sequences of decoupled models; on virtual time."""

from contextlib import aclosing
from functools import partial

import numpy as np
import pytest
import trio
from despina.schema.fault import (
    Cancelled,
    DeadlineExceeded,
    Fault,
    Internal,
    InvalidArgument,
    ModelFailure,
    ShuttingDown,
)
from despina.schema.tensor import Tensor

from tests.fakes import request, value_of, write_model

CONTROL = (
    'control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },'
    ' { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: %s }] }]'
    ' state [{ input_name: "OLD" output_name: "NEW" data_type: TYPE_INT32 dims: [1] }]'
)
OLDEST = "oldest { max_candidate_sequences: 4 }"
DECOUPLED = " model_transaction_policy { decoupled: true }"


def iterative(more="", corrid="TYPE_UINT64"):
    return f"sequence_batching {{ iterative_sequence: true {CONTROL % corrid} {more} }}"


def number(job, name):
    return int(job.request.inputs[name].numpy().ravel()[0])


def numbers(value):
    return [Tensor.of("OUT", np.full((1, 1), value, np.int32))]


class Counts:
    """Executes a request as often as its input says, a second each time; 13 fails in its second execution."""

    def __init__(self, backend):
        backend.execute = self
        self.batches = []

    async def __call__(self, batch):
        self.batches.append([(number(job, "CORRID"), number(job, "START"), number(job, "OLD")) for job in batch.jobs])
        await trio.sleep(1)
        for job in batch.jobs:
            rounds = number(job, "OLD") + 1
            if number(job, "IN") == 13 and rounds == 2:
                job.fail(InvalidArgument("unlucky"))
            elif rounds < number(job, "IN"):
                job.set_state("NEW", Tensor.of("NEW", np.full((1, 1), rounds, np.int32)))
                job.reschedule()
            else:
                job.respond(numbers(rounds))


@pytest.fixture
def counts(backend):
    return Counts(backend)


@pytest.mark.parametrize("strategy", ["", OLDEST])
async def test_a_request_is_executed_until_it_is_answered(virtual_time, repository, opened, counts, strategy):
    """Goal: START once, its state goes on, an id of its own; the times of all executions are counted as such."""
    write_model(repository, "m", max_batch_size=1, more=iterative(strategy))
    async with opened() as engine:
        assert value_of(await engine.infer_request(request(value=3))) == 3
        assert counts.batches == [[(1, 1, 0)], [(1, 0, 1)], [(1, 0, 2)]]
        assert value_of(await engine.infer_request(request(value=1, correlation_id=77, sequence_start=True))) == 1
        assert counts.batches[3:] == [[(77, 1, 0)]]
        statistics = engine.model("m").statistics
        assert (statistics.success_count, statistics.inference_count, statistics.execution_count) == (2, 4, 4)
        assert engine.model("m").ledger.inflight == engine.model("m").scheduler.sequences == 0


async def test_requests_join_those_that_go_on(virtual_time, repository, opened, counts):
    """Goal: who comes meanwhile is executed with those under way, and nobody waits for the longest."""
    write_model(repository, "m", max_batch_size=4, more=iterative(OLDEST))
    async with opened() as engine, trio.open_nursery() as nursery:
        ended = {}

        async def ask(value):
            answered = value_of(await engine.infer_request(request(value=value)))
            ended[answered] = trio.current_time()

        began = trio.current_time()
        nursery.start_soon(ask, 5)
        await trio.sleep(1.5)
        nursery.start_soon(ask, 2)
        await trio.sleep(10)
        assert ended == {5: began + 5, 2: began + 4}
        assert [len(batch) for batch in counts.batches] == [1, 1, 2, 2, 1]


async def test_one_that_fails_is_over(virtual_time, repository, opened, counts):
    """Goal: its error is its answer, its neighbour goes on."""
    write_model(repository, "m", max_batch_size=4, more=iterative(OLDEST))
    async with opened() as engine, trio.open_nursery() as nursery:

        async def fails():
            with pytest.raises(InvalidArgument, match="unlucky"):
                await engine.infer_request(request(value=13))

        nursery.start_soon(fails)
        assert value_of(await engine.infer_request(request(value=4))) == 4
        assert engine.model("m").statistics.fail_count == 1


@pytest.mark.parametrize(("leaves_s", "deadline_s"), [(1.5, 100), (100, 1.5)], ids=["leaves", "deadline"])
async def test_who_leaves_is_not_executed_again(virtual_time, repository, opened, counts, leaves_s, deadline_s):
    """Goal: the execution under way is the last, and the slot is somebody else's then."""
    write_model(repository, "m", max_batch_size=1, more=iterative())
    async with opened() as engine, trio.open_nursery() as nursery:

        async def ask():
            with trio.move_on_after(leaves_s):
                with pytest.raises(DeadlineExceeded):
                    await engine.infer_request(request(value=100), deadline=trio.current_time() + deadline_s)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert value_of(await engine.infer_request(request(value=1))) == 1
        assert [batch[0][0] for batch in counts.batches] == [1, 1, 2]
        assert engine.model("m").statistics.failures["CANCELED"] == 1


async def test_ids_of_ones_own_and_text_ids(virtual_time, repository, opened, counts, backend):
    """Goal: generated ids are of the kind of the control, and never those of others."""
    seen = []

    async def note(batch):
        for job in batch.jobs:
            seen.append(job.request.correlation_id)
            await trio.sleep(1)
            job.respond(numbers(0))

    backend.execute = note
    write_model(repository, "m", max_batch_size=4, more=iterative(OLDEST, "TYPE_STRING"))
    async with opened() as engine, trio.open_nursery() as nursery:
        for id in ("1", "", "", "mine"):
            nursery.start_soon(engine.infer_request, request(value=1, correlation_id=id, sequence_start=bool(id)))
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(seen) == ["1", "2", "3", "mine"]


async def test_an_end_of_the_engine_ends_it(virtual_time, repository, opened, counts):
    """Goal: the grace over, one that would go on for ever is refused."""
    write_model(repository, "m", max_batch_size=1, more=iterative())
    ended = []

    async def ask(engine):
        try:
            await engine.infer_request(request(value=1000))
        except Fault as fault:
            ended.append(type(fault))

    async with trio.open_nursery() as nursery:
        with pytest.raises(Internal, match="Exit timeout expired"):  # noqa: PT012
            async with opened(exit_timeout_secs=3) as engine:
                nursery.start_soon(ask, engine)
                await trio.testing.wait_all_tasks_blocked()
    assert ended == [ShuttingDown]
    assert len(counts.batches) < 6


async def test_only_iterative_sequences_may_go_on(virtual_time, repository, opened, backend):
    """Goal: the model is told, with the protocol's words."""

    async def again(batch):
        for job in batch.jobs:
            try:
                job.reschedule()
            except Fault as fault:
                job.fail(fault)

    backend.execute = again
    write_model(repository, "plain")
    write_model(repository, "m", more=f"sequence_batching {{ {CONTROL % 'TYPE_UINT64'} }}")
    async with opened() as engine:
        for asked in (request("plain", 1), request("m", 1, correlation_id=1, sequence_start=True)):
            with pytest.raises(InvalidArgument, match="released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while"):
                await engine.infer_request(asked)


# --- Decoupled


class Streams:
    """Answers once in each execution; the last time with the final flag."""

    def __init__(self, backend):
        backend.execute = self
        self.batches = []
        self.kept = []

    async def __call__(self, batch):
        self.batches.append([number(job, "IN") for job in batch.jobs])
        await trio.sleep(1)
        for job in batch.jobs:
            rounds = number(job, "OLD") + 1
            job.set_state("NEW", Tensor.of("NEW", np.full((1, 1), rounds, np.int32)))
            value = number(job, "IN")
            if value == 13:
                raise ModelFailure("unlucky")
            if value < 0:  # answered later
                self.kept.append(job)
                continue
            await job.send_async(numbers(rounds))
            if rounds < value:
                job.reschedule()
            else:
                await job.send_async(None, final=True)


async def streamed(engine, asked):
    """Values, and the fault if there is one."""
    got = []
    try:
        async with aclosing(engine.stream_request(asked)) as answers:
            async for answer in answers:
                got.append(value_of(answer))  # noqa: PERF401  what came before a fault counts
    except Fault as fault:
        got.append(type(fault))
    return got


@pytest.mark.parametrize("strategy", ["", OLDEST])
async def test_an_iterative_stream(virtual_time, repository, opened, backend, strategy):
    """Goal: answers of every execution on one stream, which counts as one request."""
    streams = Streams(backend)
    write_model(repository, "m", max_batch_size=2, more=iterative(strategy) + DECOUPLED)
    async with opened() as engine:
        assert await streamed(engine, request(value=4)) == [1, 2, 3, 4]
        await trio.testing.wait_all_tasks_blocked()
        statistics = engine.model("m").statistics
        assert (statistics.success_count, statistics.inference_count, statistics.execution_count) == (1, 4, 4)
        assert engine.model("m").ledger.inflight == engine.model("m").scheduler.sequences == 0
        assert await streamed(engine, request(value=13)) == [ModelFailure]
    assert len(streams.batches) == 5


async def test_leaving_an_iterative_stream(virtual_time, repository, opened, backend):
    """Goal: it is not executed again, and nothing is left of it."""
    streams = Streams(backend)
    write_model(repository, "m", max_batch_size=2, more=iterative() + DECOUPLED)
    async with opened() as engine:
        with trio.move_on_after(2.5):
            await streamed(engine, request(value=100))
        await trio.sleep(5)
        assert len(streams.batches) == 3
        assert engine.model("m").ledger.inflight == engine.model("m").scheduler.sequences == 0


async def test_a_sequence_goes_on_while_its_stream_is_open(virtual_time, repository, opened, backend):
    """Goal: the next request is executed once `execute` has returned, and its state is the one set before."""
    streams = Streams(backend)
    more = f"sequence_batching {{ {CONTROL % 'TYPE_UINT64'} }}"
    write_model(repository, "m", max_batch_size=2, more=more + DECOUPLED)
    async with opened() as engine, trio.open_nursery() as nursery:
        got = []

        async def first():
            got.extend(await streamed(engine, request(value=-1, correlation_id=1, sequence_start=True)))

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        assert await streamed(engine, request(value=2, correlation_id=1, sequence_end=True)) == [2]
        assert not got
        assert engine.model("m").scheduler.sequences == 0
        (kept,) = streams.kept
        await kept.send_async(numbers(9), final=True)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [9]


async def test_a_caller_that_leaves_takes_what_waits_with_it(virtual_time, repository, opened, backend):
    """Goal: of a sequence of streams, too: the others hear so."""
    Streams(backend)
    more = f"sequence_batching {{ {CONTROL % 'TYPE_UINT64'} }}"
    write_model(repository, "m", max_batch_size=1, more=more + DECOUPLED)
    async with opened() as engine, trio.open_nursery() as nursery:
        ended = {}

        async def ask(value, **flags):
            ended[value] = await streamed(engine, request(value=value, correlation_id=1, **flags))

        nursery.start_soon(partial(ask, 1, sequence_start=True))
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(ask, 2)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(ask, 3)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == {3: [Cancelled]}
    assert ended == {1: [1], 3: [Cancelled]}


# --- Warm-up


WARM = """model_warmup [{ name: "w" batch_size: 2 %s inputs { key: "IN" value { data_type: TYPE_INT32 dims: [1]
  zero_data: true } } }]"""
TOLD = """inputs { key: "START" value { data_type: TYPE_INT32 dims: [1] zero_data: true } }"""


@pytest.mark.parametrize(("told", "start"), [("", 1), (TOLD, 0)], ids=["not told", "told"])
@pytest.mark.parametrize("decoupled", ["", DECOUPLED])
async def test_warm_up(virtual_time, repository, opened, backend, told, start, decoupled):
    """Goal: each request of a sample is a whole sequence of its own, unless the sample gives controls; one execution is
    enough, also of what would go on."""
    seen = []

    async def note(batch):
        seen.append([[number(job, name) for name in ("IN", "START", "CORRID", "OLD")] for job in batch.jobs])
        for job in batch.jobs:
            job.set_state("NEW", Tensor.of("NEW", np.full((1, 1), 5, np.int32)))
            job.reschedule()

    backend.execute = note
    write_model(repository, "m", max_batch_size=2, more=iterative() + decoupled + WARM % told)
    async with opened() as engine:
        assert engine.is_model_ready("m")
        assert seen == [[[0, start, 1, 0], [0, start, 1, 0]]]
        assert engine.model("m").scheduler.sequences == 0
        await trio.testing.wait_all_tasks_blocked()
        assert (engine.model("m").statistics.success_count, engine.model("m").statistics.fail_count) == (2, 0)
