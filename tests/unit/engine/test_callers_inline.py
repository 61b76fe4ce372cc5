"""Callers in process of a model that batches and runs inline: alone they wait for nobody, together they share."""

import pytest
import trio
import trio.testing

from tests.fakes import request, value_of, write_model

MORE = 'dynamic_batching { }\nparameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }'


@pytest.fixture
async def engine(repository, backend, opened):
    backend.asynchronous, backend.movable = False, True
    write_model(repository, "m", more=MORE)
    async with opened() as engine:
        while not engine.model("m").scheduler.idle:  # noqa: ASYNC110  the instance's thread looks for work once
            await trio.sleep(0.001)
        yield engine


async def test_a_lone_caller_is_executed_before_anybody_else_runs(engine, backend):
    """Goal: one execution each, at once; others still get their turns between them."""
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for value in range(20):
            assert value_of(await engine.infer_request(request(value=value))) == value
        nursery.cancel_scope.cancel()
    assert engine.model("m").company.at_once
    assert 18 <= turns <= 22


async def test_callers_together_share_batches_and_one_alone_again_does_not_wait(engine, backend):
    """Goal: company is noticed at its first round, and that it has gone after some batches of one."""
    model = engine.model("m")

    async def call(count):
        for value in range(count):
            assert value_of(await engine.infer_request(request(value=value))) == value

    await call(3)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(call, 10)
    sizes = [executed.size for executed in backend.executed[3:]]
    assert sum(sizes) == 80
    assert len(sizes) <= 30
    assert not model.company.at_once
    await call(10)
    assert model.company.at_once
    assert model.company.resting == model.ledger.inflight == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_cancelled_caller_is_not_executed(engine, backend, at_once):
    """Goal: cancelled before it asks, a caller leaves no trace in the backend, whether it would have waited or not."""
    engine.model("m").company.at_once = at_once
    with trio.CancelScope() as scope:
        scope.cancel()
        await engine.infer_request(request())
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert backend.executed == []
    assert engine.model("m").ledger.inflight == 0


async def test_others_who_submit_without_waiting_share(engine, backend):
    """Goal: who does not wait for the answer, as doors do not, does not count as a lone caller."""
    model = engine.model("m")
    done = []
    for value in range(5):
        model.submit(request(value=value), done.append)
    assert not done
    await trio.testing.wait_all_tasks_blocked()
    assert [executed.size for executed in backend.executed] == [5]
    assert len(done) == 5
