"""Streams of decoupled models: order, flow control, every way to leave, accounting. On virtual time, except where real
threads take part."""

from __future__ import annotations

import threading
from contextlib import aclosing

import despina
import numpy as np
import pytest
import trio
from despina.engine.request.stream import StreamJob
from despina.schema.fault import DeadlineExceeded, ExecutorDied, Internal, InvalidArgument, ModelFailure, ShuttingDown
from despina.schema.tensor import Tensor

from tests.fakes import FakeBackend, request, value_of, write_model

DECOUPLED = "model_transaction_policy { decoupled: true }"


def numbers(value):
    return [Tensor.of("OUT", np.full((1, 1), value, np.int32))]


class Script:
    """An asynchronous `execute` that answers each request with 0, 1, ... up to its input, then the final flag."""

    def __init__(self, *, final=True, pause_s=0.0):
        self.final = final
        self.pause_s = pause_s
        self.jobs = []
        self.sent = 0
        self.refused = 0

    async def __call__(self, batch):
        for job in batch.jobs:
            self.jobs.append(job)
            for number in range(int(job.request.inputs["IN"].numpy().ravel()[0])):
                if self.pause_s:
                    await trio.sleep(self.pause_s)
                if await job.send_async(numbers(number)):
                    self.sent += 1
                else:
                    self.refused += 1
            if self.final:
                await job.send_async(None, final=True)


class Listener:
    """A door: notes the answers and consumes them when told."""

    def __init__(self, *, consume=True):
        self.consume = consume
        self.answers = []
        self.ended = trio.Event()
        self.full = trio.Event()
        """Four answers came, which is all the credit there is."""

    def __call__(self, job, answer):
        self.answers.append(answer)
        if len(self.answers) == 4:
            self.full.set()
        if answer.final:
            self.ended.set()
        elif self.consume:
            job.consumed()

    @property
    def values(self):
        return [value_of(answer.response) for answer in self.answers if answer.response is not None]


@pytest.fixture
async def engine(tmp_path, backend, virtual_time):
    write_model(tmp_path, "m", more=DECOUPLED)
    write_model(tmp_path, "batching", more=DECOUPLED + " dynamic_batching { max_queue_delay_microseconds: 1000000 }")
    async with despina.open_engine(
        tmp_path, backends={"fake": backend}, stream_responses_max=4, exit_timeout_secs=5
    ) as engine:
        yield engine


def stats(engine):
    return engine.statistics("m")[0]


async def test_answers_come_in_order_and_the_last_says_so(virtual_time, engine, backend):
    """Five answers and an empty final one; the request counts once, as a success, when it is over."""
    backend.execute = Script()
    listener = Listener()
    model = engine.model("m")
    model.submit_stream(request(value=5), listener)
    await listener.ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert listener.values == [0, 1, 2, 3, 4]
    assert [answer.final for answer in listener.answers] == [False] * 5 + [True]
    assert model.ledger.inflight == 0
    assert not model.ledger.streams
    counted = stats(engine)
    assert counted.inference_stats.success.count == counted.inference_count == counted.execution_count == 1
    assert sorted(counted.response_stats) == ["0", "1", "2", "3", "4", "5"]
    assert counted.response_stats["0"].success.count == 1
    assert counted.response_stats["5"].empty_response.count == 1


async def test_no_answers_at_all(virtual_time, engine, backend):
    """A model may end a stream without an answer."""
    backend.execute = Script()
    listener = Listener()
    engine.model("m").submit_stream(request(value=0), listener)
    await listener.ended.wait()
    assert [(answer.response, answer.fault) for answer in listener.answers] == [(None, None)]


async def test_a_model_that_answers_faster_than_the_caller_reads_waits(virtual_time, engine, backend):
    """Of 100 answers four are made while nothing is consumed, and one more for each that is."""
    backend.execute = script = Script()
    listener = Listener(consume=False)
    job = engine.model("m").submit_stream(request(value=100), listener)
    await trio.sleep(100)
    assert script.sent == len(listener.answers) == 4
    job.consumed(2)
    await trio.sleep(100)
    assert script.sent == 6
    listener.consume = True
    job.consumed(4)
    await listener.ended.wait()
    assert listener.values == list(range(100))


async def test_leaving_while_queued_gives_the_place_back(virtual_time, engine, backend):
    """A stream cancelled before its turn never executes, and nothing is in flight for it."""
    backend.execute = script = Script(pause_s=1)
    model = engine.model("m")
    first, second = Listener(), Listener()
    model.submit_stream(request(value=3), first)
    await trio.sleep(0.5)
    waiting = model.submit_stream(request(value=3), second)
    waiting.cancel()
    waiting.cancel()
    assert model.ledger.inflight == 1
    await first.ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert len(script.jobs) == 1
    assert second.answers == []
    assert model.ledger.inflight == 0
    assert stats(engine).inference_stats.fail.count == 1


async def test_leaving_releases_a_sender_that_waits(virtual_time, engine, backend):
    """The model learns at once, what it still sends is dropped, and its final flag ends the accounting."""
    backend.execute = script = Script()
    listener = Listener(consume=False)
    model = engine.model("m")
    job = model.submit_stream(request(value=10), listener)
    await trio.sleep(1)
    assert not script.jobs[0].is_cancelled()
    job.cancel()
    assert script.jobs[0].is_cancelled()
    await trio.testing.wait_all_tasks_blocked()
    assert (script.sent, script.refused, len(listener.answers)) == (4, 6, 4)
    assert model.ledger.inflight == 0
    assert [place.cancel.count for place in stats(engine).response_stats.values()] == [0] * 4 + [1] * 7


async def test_the_deadline_ends_a_stream_that_is_under_way(virtual_time, engine, backend):
    """The caller is told when its time is over, in the middle of the answers, also if it does not read."""
    backend.execute = Script(pause_s=1)
    listener = Listener(consume=False)
    began = trio.current_time()
    model = engine.model("m")
    model.submit_stream(request(value=100), listener, began + 6.5)
    await listener.ended.wait()
    assert trio.current_time() - began == pytest.approx(6.5)
    assert listener.values == [0, 1, 2, 3]
    assert isinstance(listener.answers[-1].fault, DeadlineExceeded)
    await trio.sleep(200)
    assert model.ledger.inflight == 0
    assert model.statistics.failures["CANCELED"] == 1


async def test_the_deadline_ends_a_stream_that_waits_for_its_turn(virtual_time, engine, backend):
    """A queued stream whose deadline passes is answered with a final fault and never executes."""
    backend.execute = script = Script(pause_s=10)
    model = engine.model("m")
    first, second = Listener(), Listener()
    model.submit_stream(request(value=1), first)
    await trio.sleep(1)
    model.submit_stream(request(value=1), second, trio.current_time() + 2)
    await second.ended.wait()
    assert isinstance(second.answers[0].fault, DeadlineExceeded)
    await first.ended.wait()
    assert len(script.jobs) == 1
    assert not model.ledger.streams


async def test_a_caller_leaves_whose_stream_has_just_been_refused(virtual_time, engine, backend):
    """Not told yet, it leaves all the same: nothing is left of it."""
    backend.execute = Script(pause_s=10)
    model = engine.model("m")
    executing, second = Listener(), Listener()
    model.submit_stream(request(value=1), executing)
    await trio.sleep(1)
    jobs = []
    model.submit_stream(request(value=1), lambda *_: jobs[0].cancel())
    jobs.append(model.submit_stream(request(value=1), second))
    await model.drain(0)
    assert second.answers == []
    assert model.statistics.failures["CANCELED"] == model.statistics.failures["REJECTED"] == 1
    assert (model.ledger.inflight, model.ledger.streams) == (0, set())


async def test_an_exception_ends_every_stream_that_has_not_ended(virtual_time, engine, backend):
    """What execute raises is the last answer of the open streams; ended ones keep their end."""

    async def execute(batch):
        done, half = batch.jobs
        done.respond(numbers(1))
        await half.send_async(numbers(2))
        raise ModelFailure("broken")

    backend.execute = execute
    model = engine.model("batching")
    done, half = Listener(), Listener()
    model.submit_stream(request("batching"), done)
    model.submit_stream(request("batching"), half)
    await half.ended.wait()
    await done.ended.wait()
    assert (done.values, done.answers[-1].fault) == ([1], None)
    assert half.values == [2]
    assert half.answers[-1].fault.message == "broken"
    await trio.testing.wait_all_tasks_blocked()
    assert model.ledger.inflight == 0
    counted = engine.statistics("batching")[0].inference_stats
    assert (counted.success.count, counted.fail.count) == (1, 1)


async def test_an_error_need_not_be_the_last_answer(virtual_time, engine, backend):
    """Errors of single answers reach the door in their place and the stream goes on."""

    async def execute(batch):
        (job,) = batch.jobs
        job.send(numbers(1))
        job.send_fault(InvalidArgument("odd"))
        job.send(numbers(2), final=True)

    backend.execute = execute
    listener = Listener()
    engine.model("m").submit_stream(request(), listener)
    await listener.ended.wait()
    assert listener.values == [1, 2]
    assert listener.answers[1].fault.message == "odd"
    assert listener.answers[2].final


async def test_an_instance_is_free_while_its_streams_go_on(virtual_time, engine, backend):
    """execute returns at once and another task answers: the only instance serves the next request meanwhile."""
    jobs = []

    async def execute(batch):
        jobs.extend(batch.jobs)

    backend.execute = execute
    model = engine.model("m")
    listeners = [Listener(), Listener()]
    for listener in listeners:
        model.submit_stream(request(), listener)
        await trio.testing.wait_all_tasks_blocked()
    assert len(jobs) == 2
    assert model.ledger.inflight == 2
    for value, job in enumerate(jobs):
        job.send(numbers(value), final=True)
    for value, listener in enumerate(listeners):
        await listener.ended.wait()
        assert listener.values == [value]
    assert model.ledger.inflight == 0
    assert not jobs[0].send(numbers(0)), "after the final answer nothing is taken"


async def test_unloading_waits_for_open_streams(tmp_path, backend, virtual_time):
    """An engine that stops lets a stream finish first."""
    write_model(tmp_path, "m", more=DECOUPLED)
    backend.execute = Script(pause_s=1)
    listener = Listener()
    async with despina.open_engine(tmp_path, backends={"fake": backend}, exit_timeout_secs=50) as engine:
        engine.model("m").submit_stream(request(value=10), listener)
        await trio.sleep(2.5)
    assert listener.values == list(range(10))
    assert listener.answers[-1].fault is None


async def test_unloading_ends_streams_that_do_not_end(tmp_path, backend, virtual_time):
    """After the grace a stream whose model never ends it, and one whose caller never reads, are told so."""
    write_model(tmp_path, "m", more=DECOUPLED)
    backend.execute = script = Script(final=False)
    never, stuck = Listener(), Listener(consume=False)
    began = trio.current_time()
    with pytest.RaisesGroup(Exception, allow_unwrapped=True, flatten_subgroups=True):
        async with despina.open_engine(
            tmp_path, backends={"fake": backend}, exit_timeout_secs=5, stream_responses_max=4
        ) as engine:
            model = engine.model("m")
            model.submit_stream(request(value=2), never)
            model.submit_stream(request(value=9), stuck)
            await trio.sleep(1)
            assert script.sent == 6
    assert trio.current_time() - began < 30
    for listener in (never, stuck):
        assert isinstance(listener.answers[-1].fault, ShuttingDown)
    assert model.ledger.inflight == 0
    assert not model.ledger.streams


async def test_a_stream_in_process(virtual_time, engine, backend):
    """engine.stream yields results one by one and holds the model back while they are not taken."""
    backend.execute = script = Script()
    async with aclosing(engine.stream("m", {"IN": np.full((1, 1), 20, np.int32)}, request_id="r")) as results:
        got = []
        async for result in results:
            got.append(int(result["OUT"][0, 0]))
            assert result.id == "r"
            await trio.sleep(1)
            assert script.sent - len(got) <= 4
    assert got == list(range(20))
    assert engine.model("m").ledger.inflight == 0


async def test_closing_a_stream_in_process_tells_the_model(virtual_time, engine, backend):
    """aclose in the middle is the caller's leaving."""
    backend.execute = script = Script()
    async with aclosing(engine.stream("m", {"IN": np.full((1, 1), 20, np.int32)})) as results:
        async for _ in results:
            break
    assert script.jobs[0].is_cancelled()
    await trio.testing.wait_all_tasks_blocked()
    assert engine.model("m").ledger.inflight == 0


async def test_a_stream_in_process_raises_the_models_error(virtual_time, engine, backend):
    """An error answer is raised after the answers before it; a timeout likewise."""

    async def execute(batch):
        batch.jobs[0].send(numbers(1))
        batch.jobs[0].send_fault(InvalidArgument("odd"), final=True)

    backend.execute = execute
    results = engine.stream("m", {"IN": np.zeros((1, 1), np.int32)})
    assert (await anext(results))["OUT"][0, 0] == 1
    with pytest.raises(InvalidArgument, match="odd"):
        await anext(results)
    backend.execute = Script(pause_s=2)
    results = engine.stream("m", {"IN": np.full((1, 1), 3, np.int32)}, timeout=3)
    await anext(results)
    with pytest.raises(DeadlineExceeded):
        await anext(results)


async def test_cancelling_a_task_in_a_stream_tells_the_model(virtual_time, engine, backend):
    """A cancelled caller has left."""
    backend.execute = script = Script(pause_s=1)
    with trio.move_on_after(2.5):
        async for _ in engine.stream("m", {"IN": np.full((1, 1), 4, np.int32)}):
            pass
    assert script.jobs[0].is_cancelled()


async def test_warm_up_of_a_decoupled_model(tmp_path, virtual_time):
    """Warm-up needs no listener and is not held back; it is counted; its errors fail the load."""
    warmup = (
        'model_warmup [{ name: "w" batch_size: 1 inputs { key: "IN" value { data_type: TYPE_INT32 dims: [1] '
        "zero_data: true } } }]"
    )
    write_model(tmp_path, "m", more=DECOUPLED + "\n" + warmup)
    backend = FakeBackend()
    cancelled = []

    async def execute(batch):
        for job in batch.jobs:
            assert isinstance(job, StreamJob)
            cancelled.append(job.is_cancelled())
            for number in range(100):
                assert await job.send_async(numbers(number))
            await job.send_async(None, final=True)

    backend.execute = execute
    async with despina.open_engine(tmp_path, backends={"fake": backend}) as engine:
        assert cancelled == [False]
        counted = engine.statistics("m")[0]
        assert (counted.execution_count, counted.inference_count, counted.inference_stats.success.count) == (1, 1, 1)

    async def broken(batch):
        batch.jobs[0].send_fault(InvalidArgument("cold"))

    async def dies(batch):
        await batch.jobs[0].send_async(None, final=True)
        raise ExecutorDied("it is gone")

    for backend.execute in (broken, dies):
        with pytest.raises(Internal, match=r"failed to load"):
            async with despina.open_engine(tmp_path, backends={"fake": backend}):
                pass


# With real threads.


async def test_senders_on_other_threads_are_held_back_and_released(tmp_path):
    """A user thread blocks in send until the caller reads, and is released when it leaves; order is kept."""
    write_model(tmp_path, "m", more=DECOUPLED)
    backend = FakeBackend(asynchronous=False, movable=True)
    threads, sent, over = [], [], []

    def answer(job):
        for number in range(50):
            if not job.send(numbers(number)):
                break
            sent.append(number)
        over.append(job.is_cancelled())
        job.send(None, final=True)

    def execute(batch):
        for job in batch.jobs:
            threads.append(threading.Thread(target=answer, args=(job,)))
            threads[-1].start()

    backend.execute_sync = execute
    with trio.fail_after(10):
        async with despina.open_engine(tmp_path, backends={"fake": backend}, stream_responses_max=4) as engine:
            model = engine.model("m")
            listener = Listener()
            model.submit_stream(request(), listener)
            await listener.ended.wait()
            assert listener.values == list(range(50))
            sent.clear()
            left = Listener(consume=False)
            job = model.submit_stream(request(), left)
            await left.full.wait()
            assert threads[-1].is_alive()
            job.cancel()
            await trio.to_thread.run_sync(threads[-1].join)
            assert sent in ([0, 1, 2, 3], [0, 1, 2])  # the fourth may hear that nobody wants it
            assert over == [False, True]
    assert model.ledger.inflight == 0


async def test_a_thread_blocked_in_execute_is_released_at_the_end(tmp_path):
    """An instance's own thread that waits for a caller that never reads does not hold up the engine's end."""
    write_model(tmp_path, "m", more=DECOUPLED)
    backend = FakeBackend(asynchronous=False)
    outcomes = []

    def execute(batch):
        for job in batch.jobs:
            while job.send(numbers(0)):
                pass
            outcomes.append("released")

    backend.execute_sync = execute
    listener = Listener(consume=False)
    with trio.fail_after(10), pytest.RaisesGroup(Exception, allow_unwrapped=True, flatten_subgroups=True):
        async with despina.open_engine(
            tmp_path, backends={"fake": backend}, stream_responses_max=4, exit_timeout_secs=0.3
        ) as engine:
            model = engine.model("m")
            model.submit_stream(request(), listener)
            await listener.full.wait()
    assert outcomes == ["released"]
    assert isinstance(listener.answers[-1].fault, ShuttingDown)
    assert model.ledger.inflight == 0


def test_a_stream_through_the_blocking_engine(tmp_path):
    """The facade for threads yields the same, and closing it early tells the model."""
    from despina.engine.blocking import open_engine

    write_model(tmp_path, "m", more=DECOUPLED)
    backend = FakeBackend()
    backend.execute = script = Script()
    with open_engine(tmp_path, backends={"fake": backend}) as engine:
        got = [int(result["OUT"][0, 0]) for result in engine.stream("m", {"IN": np.full((1, 1), 9, np.int32)})]
        assert got == list(range(9))
        for _ in engine.stream("m", {"IN": np.full((1, 1), 9, np.int32)}):
            break
        assert script.jobs[1].is_cancelled()
