"""Dynamic batching through a whole engine, on virtual time. The table of worked examples, one by one."""

import pytest
import trio
from despina.schema.fault import QueueFull

from tests.fakes import Gate, request, value_of, write_model

BATCHING = "dynamic_batching {{ {} }}"


async def send(nursery, engine, id, *, rows=1, done=None, **options):
    async def call():
        response = await engine.infer_request(request(id=id, rows=rows, **options))
        if done is not None:
            done.append((id, trio.current_time()))
        return response

    nursery.start_soon(call)
    await trio.testing.wait_all_tasks_blocked()


def batching(text, **options):
    return {"more": BATCHING.format(text), **options}


async def burst(opened, arrivals):
    """Sends (id, rows) all in one scheduler pass; returns when all are answered."""
    async with opened() as engine, trio.open_nursery() as nursery:
        for id, rows in arrivals:
            nursery.start_soon(lambda id=id, rows=rows: engine.infer_request(request(id=id, rows=rows)))


async def test_no_delay_never_waits(virtual_time, repository, backend, opened):
    """Goal: preferred sizes without a delay hold nobody up."""
    write_model(repository, "m", **batching("preferred_batch_size: [8]"))
    async with opened() as engine:
        began = trio.current_time()
        await engine.infer_request(request(id="r1"))
        assert trio.current_time() == began
    assert backend.ids == [["r1"]]


async def test_what_waits_behind_a_busy_instance_is_one_batch(virtual_time, repository, backend, opened):
    """Goal: eager batching: everything that queued up during an execution is the next execution."""
    write_model(repository, "m", **batching(""))
    backend.execute = gate = Gate()
    async with opened() as engine, trio.open_nursery() as nursery:
        await send(nursery, engine, "r0")
        for id in ("r1", "r2", "r3"):
            await send(nursery, engine, id)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        gate.release()
    assert backend.ids == [["r0"], ["r1", "r2", "r3"]]
    assert backend.executed[1].reason == "eager"


@pytest.mark.parametrize(
    ("preferred", "arrivals", "expected"),
    [
        ("[4, 8]", [("a", 1), ("b", 1), ("c", 1), ("d", 1)], [("abcd", 0.0, "preferred")]),
        (
            "[4, 8]",
            [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)],
            [("abcd", 0.0, "preferred"), ("e", 0.1, "delay")],
        ),
        ("[4, 8]", [("a", 1), ("b", 1), ("c", 1)], [("abc", 0.1, "delay")]),
        ("[4, 8]", [("a", 6), ("b", 4)], [("a", 0.0, "full"), ("b", 0.0, "preferred")]),
        ("[8]", [("a", 6), ("b", 4)], [("a", 0.0, "full"), ("b", 0.1, "delay")]),
        ("[4]", [(id, 1) for id in "abcdef"], [("abcd", 0.0, "preferred"), ("ef", 0.1, "delay")]),
        ("[8]", [(id, 1) for id in "abcdefgh"], [("abcdefgh", 0.0, "full")]),
        ("[8]", [("a", 8)], [("a", 0.0, "full")]),
        ("[4]", [("a", 3), ("b", 3)], [("a", 0.0, "preferred"), ("b", 0.1, "delay")]),
    ],
)
async def test_worked_examples_with_a_delay(virtual_time, repository, backend, opened, preferred, arrivals, expected):
    """Goal: the specification's table, for arrivals at one moment at an idle instance, max 8, delay 100 ms."""
    write_model(repository, "m", **batching(f"preferred_batch_size: {preferred} max_queue_delay_microseconds: 100000"))
    await burst(opened, arrivals)
    start = backend.executed[0].at if expected[0][1] == 0 else backend.executed[0].at - expected[0][1]
    got = [("".join(one.ids), round(one.at - start, 6), one.reason) for one in backend.executed]
    # Tasks of one scheduler pass run in any order, so compare sizes and times where all requests are alike.
    if len({rows for _, rows in arrivals}) == 1 and arrivals[0][1] == 1:
        got = [(len(ids), at, reason) for ids, at, reason in got]
        expected = [(len(ids), at, reason) for ids, at, reason in expected]
        assert got == expected
    elif got[0][0] == expected[0][0]:
        assert got == expected


async def test_delay_counts_from_the_oldest(virtual_time, repository, backend, opened):
    """Goal: a late arrival does not extend the wait."""
    write_model(repository, "m", **batching("preferred_batch_size: [8] max_queue_delay_microseconds: 100000"))
    done = []
    async with opened() as engine, trio.open_nursery() as nursery:
        began = trio.current_time()

        async def call(id, after):
            await trio.sleep(after)
            await engine.infer_request(request(id=id))
            done.append((id, round(trio.current_time() - began, 6)))

        nursery.start_soon(call, "a", 0)
        nursery.start_soon(call, "b", 0.06)
        nursery.start_soon(call, "c", 0.12)
    assert sorted(done) == [("a", 0.1), ("b", 0.1), ("c", 0.22)]
    assert backend.ids == [["a", "b"], ["c"]]


async def test_delay_counts_from_the_oldest_also_below_a_fresh_higher_level(virtual_time, repository, backend, opened):
    """Goal: an urgent newcomer that is served first does not make an old request wait longer than the delay."""
    write_model(
        repository,
        "m",
        **batching(
            "preferred_batch_size: [8] max_queue_delay_microseconds: 100000 priority_levels: 2 "
            "default_priority_level: 2"
        ),
    )
    async with opened() as engine, trio.open_nursery() as nursery:
        began = trio.current_time()

        async def call(id, after, priority):
            await trio.sleep(after)
            await engine.infer_request(request(id=id, priority=priority))

        nursery.start_soon(call, "old", 0, 2)
        nursery.start_soon(call, "new", 0.06, 1)
    assert backend.ids == [["new", "old"]]
    assert round(backend.executed[0].at - began, 6) == 0.1


async def test_past_the_delay_preferred_sizes_count_no_more(virtual_time, repository, backend, opened):
    """Goal: six that are all older than the delay go as one batch although four would be preferred."""
    write_model(repository, "m", **batching("preferred_batch_size: [4] max_queue_delay_microseconds: 100000"))
    backend.execute = gate = Gate()
    async with opened() as engine, trio.open_nursery() as nursery:
        for id in "wxyz":
            await send(nursery, engine, id)
        assert len(gate.held) == 1
        for id in "abcdef":
            await send(nursery, engine, id)
        await trio.sleep(0.2)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        gate.release()
    assert backend.ids == [list("wxyz"), list("abcdef")]


async def test_requests_with_unlike_variable_shapes_do_not_meet(virtual_time, repository, backend, opened):
    """Goal: an input with a variable dimension splits batches by its shape; the reason says so."""
    import numpy as np
    from despina.schema.inference import InferenceRequest
    from despina.schema.tensor import Tensor

    from tests.fakes import tensor_text

    write_model(
        repository,
        "m",
        tensors=tensor_text("input", "IN", dims=[-1]) + tensor_text("output", "OUT", dims=[-1]),
        **batching("max_queue_delay_microseconds: 100000"),
    )
    async with opened() as engine, trio.open_nursery() as nursery:
        for id, width in (("a", 2), ("b", 2), ("c", 3)):
            tensor = Tensor.of("IN", np.zeros((1, width), np.int32))
            nursery.start_soon(engine.infer_request, InferenceRequest("m", {"IN": tensor}, id=id))
            await trio.testing.wait_all_tasks_blocked()
    assert backend.ids == [["a", "b"], ["c"]]
    assert [one.reason for one in backend.executed] == ["shape", "delay"]


async def test_without_dynamic_batching_each_request_is_an_execution(virtual_time, repository, backend, opened):
    """Goal: max_batch_size alone joins nobody."""
    write_model(repository, "m")
    await burst(opened, [("a", 1), ("b", 3)])
    assert sorted(backend.ids) == [["a"], ["b"]]
    assert {one.reason for one in backend.executed} == {"single"}


async def test_full_queue_refuses_and_counts_nothing(virtual_time, repository, backend, opened):
    """Goal: the third of a bound of two is refused in the protocol's words, and no statistic moves."""
    write_model(repository, "m", **batching("default_queue_policy { max_queue_size: 2 }"))
    backend.execute = gate = Gate()
    async with opened() as engine, trio.open_nursery() as nursery:
        for id in ("r0", "r1", "r2"):
            await send(nursery, engine, id)
        with pytest.raises(QueueFull) as caught:
            await engine.infer_request(request(id="r3"))
        assert caught.value.message == "[request id: r3] Exceeds maximum queue size"
        model = engine.model("m")
        assert (model.ledger.inflight, model.pending) == (3, 2)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert (model.ledger.inflight, model.pending) == (0, 0)
        assert (model.statistics.success_count, model.statistics.fail_count) == (3, 0)


async def test_a_refused_request_leaves_no_timer_behind(virtual_time, repository, backend, opened):
    """Goal: the deadline and the queue timeout of a request refused for a full queue never fire."""
    write_model(
        repository,
        "m",
        **batching("default_queue_policy { max_queue_size: 1 default_timeout_microseconds: 1000000 }"),
    )
    backend.execute = gate = Gate()
    async with opened() as engine, trio.open_nursery() as nursery:
        for id in ("r0", "r1"):
            await send(nursery, engine, id)
        model = engine.model("m")
        told = []
        with pytest.raises(QueueFull):
            model.submit(request(), told.append, trio.current_time() + 0.5)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(5)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        assert (model.ledger.inflight, model.pending, model.statistics.fail_count) == (0, 0, 0)


async def test_answers_belong_to_their_requests(virtual_time, repository, backend, opened):
    """Goal: in a batch nobody gets a neighbour's answer."""
    write_model(repository, "m", **batching("max_queue_delay_microseconds: 1000"))
    async with opened() as engine, trio.open_nursery() as nursery:

        async def call(value):
            assert value_of(await engine.infer_request(request(value=value))) == value

        for value in range(20):
            nursery.start_soon(call, value)
    assert sum(one.size for one in backend.executed) == 20
    assert max(one.size for one in backend.executed) == 8


@pytest.mark.parametrize("policy", ["", "max_queue_delay_microseconds: 100000", "preserve_ordering: true"])
async def test_a_request_without_rows_is_executed_alone(virtual_time, repository, backend, opened, policy):
    """Goal: it spoils nobody's batch, and is answered; two of them do not meet either."""
    write_model(repository, "m", **batching(policy))
    arrivals = [("a", 1), ("b", 0), ("c", 2), ("d", 0), ("e", 0), ("f", 1)]
    await burst(opened, arrivals)
    together = [ids for ids in backend.ids if {"b", "d", "e"} & set(ids)]
    assert sorted(together) == [["b"], ["d"], ["e"]]
    assert [one.size for one in backend.executed if one.ids == ["b"]] == [0]
    assert sorted(id for ids in backend.ids for id in ids) == list("abcdef")
