"""Timeouts, deadlines, priorities, ordering and cancellation of one model, on virtual time, with the counts after."""

import pytest
import trio
from despina.schema.fault import DeadlineExceeded, Fault, InvalidArgument, QueueTimeout

from tests.fakes import Gate, request, value_of, write_model


def policy(text):
    return {"more": f"dynamic_batching {{ default_queue_policy {{ {text} }} }}"}


def counts(model):
    statistics = model.statistics
    reasons = {reason: count for reason, count in statistics.failures.items() if count}
    return statistics.success_count, statistics.fail_count, reasons


@pytest.fixture
async def ended():
    """Notes how calls ended and when: id -> (outcome, seconds after the fixture was made)."""
    return Ended()


class Ended(dict):
    def start(self):
        self.began = trio.current_time()

    async def call(self, engine, id, after=0.0, leave_after=None, **options):
        infer = {key: options.pop(key) for key in ("deadline",) if key in options}
        await trio.sleep(after)
        outcome = "left"
        with trio.move_on_after(float("inf") if leave_after is None else leave_after):
            try:
                await engine.infer_request(request(id=id, **options), **infer)
                outcome = "answered"
            except (QueueTimeout, DeadlineExceeded) as fault:
                outcome = fault.message
        assert id not in self, "ended twice"
        self[id] = (outcome, round(trio.current_time() - self.began, 6))


async def test_a_queue_timeout_rejects(virtual_time, repository, backend, opened, ended):
    """Goal: default timeout with REJECT: answered when it passes, counted REJECTED; executing ones never time out."""
    write_model(repository, "m", **policy("default_timeout_microseconds: 10000"))
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            nursery.start_soon(ended.call, engine, "r1", 0.001)
        assert ended == {"r0": ("answered", 0.05), "r1": ("Request timeout expired", 0.011)}
        assert counts(engine.model("m")) == (1, 1, {"REJECTED": 1})
        assert engine.model("m").ledger.inflight == 0


async def test_a_queue_timeout_delays(virtual_time, repository, backend, opened, ended):
    """Goal: DELAY moves a request behind unexpired ones of its level, where it never times out again."""
    write_model(
        repository,
        "m",
        max_batch_size=1,
        **policy("timeout_action: DELAY default_timeout_microseconds: 100000"),
    )
    backend.cost_s = 0.06
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            for index, after in enumerate((0.0, 0.001, 0.002, 0.07, 0.08)):
                nursery.start_soon(ended.call, engine, f"r{index}", after)
        # At 0.12, r2 (due 0.102) is behind r3 and r4.
        assert backend.ids == [["r0"], ["r1"], ["r3"], ["r4"], ["r2"]] or backend.ids[-1] == ["r4"]
        assert [outcome for outcome, _ in ended.values()] == ["answered"] * 5
        assert counts(engine.model("m")) == (5, 0, {})


async def test_the_delayed_come_after_the_fresh(virtual_time, repository, backend, opened, ended):
    """Goal: r1 is delayed by its timeout, so r2, which came later, is served first."""
    write_model(
        repository, "m", max_batch_size=1, **policy("timeout_action: DELAY default_timeout_microseconds: 10000")
    )
    backend.execute = gate = Gate()
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            nursery.start_soon(ended.call, engine, "r1", 0.001)
            nursery.start_soon(ended.call, engine, "r2", 0.02)
            await trio.sleep(0.025)
            for _ in range(3):
                gate.release()
                await trio.testing.wait_all_tasks_blocked()
    assert backend.ids == [["r0"], ["r2"], ["r1"]]


@pytest.mark.parametrize(
    ("text", "timeout_us", "expected"),
    [
        ("default_timeout_microseconds: 10000 allow_timeout_override: true", 5000, 0.005),
        ("default_timeout_microseconds: 10000 allow_timeout_override: true", 20000, 0.010),
        ("default_timeout_microseconds: 10000 allow_timeout_override: true", 0, 0.010),
        ("default_timeout_microseconds: 10000", 5000, 0.010),
        ("allow_timeout_override: true", 5000, None),
        ("", 5000, None),
    ],
)
async def test_a_request_may_only_shorten_its_timeout(
    virtual_time, repository, backend, opened, ended, text, timeout_us, expected
):
    """Goal: the override matrix: shorter yes, longer no, nothing where there is no default."""
    write_model(repository, "m", max_batch_size=1, **policy(text))
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            await ended.call(engine, "r1", timeout_us=timeout_us)
    assert ended["r1"] == (("answered", 0.1) if expected is None else ("Request timeout expired", expected))


async def test_timeouts_mean_nothing_without_dynamic_batching(virtual_time, repository, backend, opened, ended):
    """Goal: the default scheduler ignores `timeout` and `priority`."""
    write_model(repository, "m")
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: ended.call(engine, "r1", timeout_us=1, priority=7))
    assert ended["r1"] == ("answered", 0.1)


async def test_priorities_are_served_strictly(virtual_time, repository, backend, opened, ended):
    """Goal: 1 before 2 before 3, first come first served within, 0 and too high mean the default level."""
    write_model(
        repository,
        "m",
        max_batch_size=1,
        more="dynamic_batching { priority_levels: 3 default_priority_level: 2 }",
    )
    backend.cost_s = 0.01
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            for id, priority in (("first", 1), ("a3", 3), ("b0", 0), ("c2", 2), ("d9", 9), ("e1", 1), ("f1", 1)):
                nursery.start_soon(lambda id=id, priority=priority: ended.call(engine, id, priority=priority))
                await trio.testing.wait_all_tasks_blocked()
    assert [ids[0] for ids in backend.ids] == ["first", "e1", "f1", "b0", "c2", "d9", "a3"]


async def test_levels_have_their_own_policies(virtual_time, repository, backend, opened, ended):
    """Goal: level 1 has its own timeout, level 2 the default policy's."""
    write_model(
        repository,
        "m",
        max_batch_size=1,
        more="dynamic_batching { priority_levels: 2 default_priority_level: 2 "
        "default_queue_policy { default_timeout_microseconds: 20000 } "
        "priority_queue_policy { key: 1 value { default_timeout_microseconds: 5000 } } }",
    )
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: ended.call(engine, "high", priority=1))
            nursery.start_soon(lambda: ended.call(engine, "low", priority=2))
    assert ended["high"] == ("Request timeout expired", 0.005)
    assert ended["low"] == ("Request timeout expired", 0.02)


async def test_answers_leave_in_order_of_dispatch(virtual_time, repository, backend, opened):
    """Goal: preserve_ordering over two instances: the faster second waits for the slower first."""
    write_model(repository, "m", max_batch_size=1, instances=2, more="dynamic_batching { preserve_ordering: true }")
    backend.execute = gate = Gate()
    told = []
    async with opened() as engine:
        model = engine.model("m")
        for id in ("slow", "fast"):
            model.submit(request(id=id), lambda job: told.append(job.request.id))
            await trio.testing.wait_all_tasks_blocked()
        gate.release(1)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        gate.release(0)
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["slow", "fast"]
        assert model.ledger.inflight == 0


async def test_ordered_answers_survive_a_forced_stop(virtual_time, repository, backend, opened):
    """Goal: what is done but waits its turn behind a batch that is given up is answered all the same."""
    write_model(repository, "m", max_batch_size=1, instances=2, more="dynamic_batching { preserve_ordering: true }")
    backend.execute = gate = Gate()
    outcomes = {}

    async def call(engine, id):
        try:
            await engine.infer_request(request(id=id))
            outcomes[id] = "answered"
        except Exception as error:
            outcomes[id] = type(error).__name__

    async with trio.open_nursery() as nursery, opened(model_control_mode="explicit", load_model="m") as engine:
        for id in ("stuck", "done"):
            nursery.start_soon(call, engine, id)
            await trio.testing.wait_all_tasks_blocked()
        gate.release(1)
        await trio.testing.wait_all_tasks_blocked()
        await engine.model("m").drain(1.0)
    assert outcomes == {"stuck": "ShuttingDown", "done": "answered"}


async def test_a_callers_deadline_while_queued(virtual_time, repository, backend, opened, ended):
    """Goal: told at the deadline, place free at once, counted CANCELED."""
    write_model(repository, "m")
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: ended.call(engine, "r1", deadline=trio.current_time() + 0.01))
            await trio.sleep(0.02)
            assert ended["r1"] == ("Deadline Exceeded", 0.01)
            assert (engine.model("m").ledger.inflight, engine.model("m").pending) == (1, 0)
        assert counts(engine.model("m")) == (1, 1, {"CANCELED": 1})
    assert backend.ids == [["r0"]]


async def test_a_callers_deadline_while_executing(virtual_time, repository, backend, opened, ended):
    """Goal: told at the deadline; the execution goes on and is counted once, as CANCELED."""
    write_model(repository, "m")
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        await ended.call(engine, "r0", deadline=trio.current_time() + 0.01)
        assert ended["r0"] == ("Deadline Exceeded", 0.01)
        assert engine.model("m").ledger.inflight == 1
        await trio.sleep(0.1)
        assert engine.model("m").ledger.inflight == 0
        assert counts(engine.model("m")) == (0, 1, {"CANCELED": 1})
        assert engine.model("m").statistics.execution_count == 1


async def test_a_deadline_in_the_past_is_never_executed(virtual_time, repository, backend, opened, ended):
    """Goal: a request that comes too late is answered at once and costs no execution."""
    write_model(repository, "m")
    async with opened() as engine:
        await trio.sleep(1)
        ended.start()
        await ended.call(engine, "r0", deadline=trio.current_time() - 0.5)
        assert ended["r0"] == ("Deadline Exceeded", 0.0)
        assert engine.model("m").ledger.inflight == 0
    assert backend.ids == []


async def test_a_deadline_that_cannot_be_met_is_given_up(virtual_time, repository, backend, opened, ended):
    """Goal: with a learned cost of 50 ms, a request that has 20 ms left when its turn comes is not executed."""
    write_model(repository, "m")
    backend.cost_s = 0.05
    async with opened() as engine:
        for _ in range(10):
            await engine.infer_request(request())
        done = len(backend.executed)
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: ended.call(engine, "r1", deadline=trio.current_time() + 0.07))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: ended.call(engine, "r2", deadline=trio.current_time() + 0.2))
    assert ended["r1"] == ("Deadline Exceeded", 0.05)
    assert ended["r2"] == ("answered", 0.1)
    assert backend.ids[done:] == [["r0"], ["r2"]]


async def test_the_late_do_not_hide_the_timely(virtual_time, repository, backend, opened, ended):
    """Goal: a batch whose front is all too late is skipped, and those behind are served at once."""
    write_model(repository, "m", max_batch_size=2, more="dynamic_batching {}")
    backend.cost_s = 0.05
    async with opened() as engine:
        for _ in range(10):
            await engine.infer_request(request())
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            for id in ("l1", "l2", "l3"):
                nursery.start_soon(lambda id=id: ended.call(engine, id, deadline=trio.current_time() + 0.06))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ended.call, engine, "ok")
    assert ended["ok"] == ("answered", 0.1)
    assert {ended[id] for id in ("l1", "l2", "l3")} == {("Deadline Exceeded", 0.05)}


async def test_leaving_while_queued_gives_the_place_back(virtual_time, repository, backend, opened, ended):
    """Goal: a cancelled caller's request is out at once: another one fits, nothing is executed for it."""
    write_model(repository, "m", max_batch_size=1, **policy("max_queue_size: 1"))
    backend.cost_s = 0.05
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0")
            await trio.testing.wait_all_tasks_blocked()
            await ended.call(engine, "r1", leave_after=0.01)
            await ended.call(engine, "r2")
        assert ended == {"r0": ("answered", 0.05), "r1": ("left", 0.01), "r2": ("answered", 0.1)}
        assert counts(engine.model("m")) == (2, 1, {"CANCELED": 1})
        assert engine.model("m").ledger.inflight == 0


async def test_leaving_while_executing_drops_the_result(virtual_time, repository, backend, opened, ended):
    """Goal: the backend sees the flag, the execution counts as a success, the slot is free when it ends."""
    write_model(repository, "m")
    backend.execute = gate = Gate()
    async with opened() as engine:
        ended.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended.call, engine, "r0", 0, 0.01)
            await trio.sleep(0.02)
            assert ended["r0"] == ("left", 0.01)
            assert gate.held[0].jobs[0].is_cancelled()
            assert engine.model("m").ledger.inflight == 1
            gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert engine.model("m").ledger.inflight == 0
        assert counts(engine.model("m")) == (0, 1, {"CANCELED": 1})


async def test_cancelling_what_is_done_does_nothing(virtual_time, repository, backend, opened):
    """Goal: cancel after the answer, and twice, changes no count and calls nobody."""
    write_model(repository, "m")
    told = []
    async with opened() as engine:
        model = engine.model("m")
        job = model.submit(request(), told.append)
        await trio.testing.wait_all_tasks_blocked()
        assert told == [job]
        job.cancel()
        job.cancel()
        assert told == [job]
        assert (model.ledger.inflight, counts(model)) == (0, (1, 0, {}))


async def test_cancelling_twice_while_queued_counts_once(virtual_time, repository, backend, opened):
    """Goal: cancel is idempotent in the queue."""
    write_model(repository, "m")
    backend.execute = gate = Gate()
    told = []
    async with opened() as engine:
        model = engine.model("m")
        model.submit(request(), told.append)
        await trio.testing.wait_all_tasks_blocked()
        job = model.submit(request(), told.append)
        job.cancel()
        job.cancel()
        assert (model.ledger.inflight, model.pending, counts(model)) == (1, 0, (0, 1, {"CANCELED": 1}))
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert len(told) == 1


async def test_a_door_that_raises_hurts_nobody_else(virtual_time, repository, backend, opened):
    """Goal: `on_done` raising is logged; its neighbours in the batch are answered."""
    write_model(repository, "m", more="dynamic_batching {}")
    backend.execute = gate = Gate()
    told = []

    def broken(_):
        raise RuntimeError("a door's bug")

    async with opened() as engine:
        model = engine.model("m")
        for on_done in (told.append, broken, told.append):
            model.submit(request(), on_done)
        while gate.held or model.ledger.inflight:
            await trio.testing.wait_all_tasks_blocked()
            gate.release()
            await trio.testing.wait_all_tasks_blocked()
        assert len(told) == 2
        assert model.ledger.inflight == 0


async def test_counts_after_a_batch(virtual_time, repository, backend, opened):
    """Goal: four single requests in one batch: inference_count 4, execution_count 1, one batch_stats row."""
    write_model(
        repository, "m", more="dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 100000 }"
    )
    async with opened() as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(engine.infer_request, request())
        (message,) = engine.statistics("m")
        assert (message.inference_count, message.execution_count) == (4, 1)
        assert message.inference_stats.success.count == 4
        assert message.inference_stats.queue.count == message.inference_stats.compute_infer.count == 4
        assert [(row.batch_size, row.compute_infer.count) for row in message.batch_stats] == [(4, 1)]
        assert message.last_inference > 0


async def test_refusals_are_counted_nowhere(virtual_time, repository, backend, opened):
    """Goal: a request that does not fit the model changes no counter."""
    write_model(repository, "m")
    async with opened() as engine:
        with pytest.raises(InvalidArgument):
            await engine.infer_request(request(rows=9))
        (message,) = engine.statistics("m")
        assert (message.inference_count, message.inference_stats.fail.count, message.last_inference) == (0, 0, 0)
        assert engine.model("m").ledger.inflight == 0


async def test_timers_do_not_pile_up(virtual_time, repository, backend, opened):
    """Goal: ten thousand requests with deadlines of an hour leave a heap of a bounded size."""
    write_model(repository, "m")
    async with opened() as engine:
        model = engine.model("m")
        for index in range(10_000):
            response = await engine.infer_request(request(value=index), deadline=trio.current_time() + 3600)
            assert value_of(response) == index
        assert len(model.limits.timers) <= 512


async def test_looks_at_a_waiting_batch_do_not_pile_up(virtual_time, repository, backend, opened):
    """Goal: a thousand arrivals during one batching delay leave a handful of timers, not one each."""
    write_model(
        repository,
        "m",
        max_batch_size=2000,
        more="dynamic_batching { preferred_batch_size: [2000] max_queue_delay_microseconds: 1000000 }",
    )
    async with opened() as engine, trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(engine.infer_request, request())
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(engine.infer_request, request())
            await trio.testing.wait_all_tasks_blocked()
        assert engine.model("m").pending == 1003
        assert len(engine.model("m").limits.timers) <= 4
    assert [one.size for one in backend.executed] == [1003]


PREFERRED = "dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 10000000 "


async def arriving(engine, rows):
    """Requests of these rows, one each tenth of a second; (rows, outcome, seconds) as they end."""
    ended, began = [], trio.current_time()

    async def call(index, count):
        try:
            await engine.infer_request(request(rows=count, id=str(index)))
            outcome = "answered"
        except Fault as fault:
            outcome = type(fault).__name__
        ended.append((count, outcome, round(trio.current_time() - began, 3)))

    async with trio.open_nursery() as nursery:
        for index, count in enumerate(rows):
            nursery.start_soon(call, index, count)
            await trio.sleep(0.1)
    return ended


async def test_a_batch_is_formed_anew_when_a_request_times_out(virtual_time, repository, opened):
    """Goal: what is left makes a preferred size once the first has timed out: it goes then, not after its delay."""
    write_model(repository, "m", more=PREFERRED + "default_queue_policy { default_timeout_microseconds: 1000000 } }")
    async with opened() as engine:
        ended = await arriving(engine, [1, 2, 2])
    assert ended == [(1, "QueueTimeout", 1.0), (2, "answered", 1.0), (2, "answered", 1.0)]


async def test_a_batch_is_formed_anew_when_a_request_is_delayed(virtual_time, repository, opened):
    """Goal: the same where the timed-out request stays, behind the others: it goes with the next batch."""
    more = "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1000000 } }"
    write_model(repository, "m", more=PREFERRED + more)
    async with opened() as engine:
        ended = await arriving(engine, [1, 2, 2])
    assert ended[:2] == [(2, "answered", 1.0), (2, "answered", 1.0)]
    assert ended[2] == (1, "answered", 10.0)


async def test_a_batch_is_formed_anew_when_a_caller_leaves(virtual_time, repository, opened):
    """Goal: the same when somebody leaves the queue by itself."""
    write_model(repository, "m", more=PREFERRED + "}")
    async with opened() as engine, trio.open_nursery() as nursery:
        ended = []

        async def call(rows, patience_s):
            with trio.move_on_after(patience_s) as patience:
                await engine.infer_request(request(rows=rows))
            ended.append((rows, patience.cancelled_caught, trio.current_time() - began))

        began = trio.current_time()
        for rows, patience_s in ((1, 1), (2, 60), (2, 60)):
            nursery.start_soon(call, rows, patience_s)
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(ended) == [(1, True, 1), (2, False, 1), (2, False, 1)]
