"""What is left of a model's capacity when more comes than it can do; virtual time, one instance, 2 ms an execution."""

import random

import pytest
import trio
from despina.schema.fault import DeadlineExceeded

from tests.fakes import answer, request, write_model

COST_S = 0.002
SECONDS = 5.0
PATIENCE_S = 0.05
"""After which callers who have said nothing leave."""


async def goodput(engine, load, infer, *, seconds=SECONDS, seed=0):
    """Open loop: so many times what the model can do comes, at random times. Returns answers in time, per capacity."""
    chance = random.Random(seed)
    good = 0

    async def call():
        nonlocal good
        if await infer(engine):
            good += 1

    async with trio.open_nursery() as nursery:
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            nursery.start_soon(call)
            await trio.sleep(chance.expovariate(load / COST_S))
    return good * COST_S / seconds


async def within_20_ms(engine):
    """A caller who says how long he waits."""
    began = trio.current_time()
    try:
        await engine.infer_request(request(), deadline=began + 0.02)
    except DeadlineExceeded:
        return False
    return trio.current_time() - began <= 0.02


async def leaves(engine):
    """A caller who just leaves."""
    with trio.move_on_after(PATIENCE_S):
        await engine.infer_request(request())
        return True
    return False


@pytest.fixture
def overloaded(repository, backend, opened):
    backend.cost_s = COST_S
    write_model(repository, "m")
    return opened


@pytest.mark.parametrize("load", [1.2, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("order", ["arrival", "adaptive"])
async def test_known_deadlines(virtual_time, overloaded, load, order):
    """Goal: nobody is served who cannot be in time, so nearly all of the capacity is left, in any order."""
    async with overloaded(queue_order=order) as engine:
        assert await goodput(engine, load, within_20_ms) >= 0.98


@pytest.mark.parametrize(("load", "left"), [(1.5, 0.6), (2.0, 0.3), (4.0, 0.15)])
async def test_unknown_deadlines_served_by_arrival(virtual_time, overloaded, load, left):
    """Goal: the fault that the adaptive order is there to cure is really there without it."""
    async with overloaded() as engine:
        assert await goodput(engine, load, leaves) <= left


@pytest.mark.parametrize("load", [1.2, 1.5, 2.0, 4.0])
async def test_unknown_deadlines_served_newest_first(virtual_time, overloaded, load):
    """Goal: a queue that stands is served newest first, and nearly all of the capacity is left."""
    async with overloaded(queue_order="adaptive") as engine:
        assert await goodput(engine, load, leaves) >= 0.9


async def test_below_capacity_nobody_is_lost(virtual_time, overloaded):
    """Goal: at four fifths of what the model can do, the adaptive order loses nobody that order of arrival keeps."""
    async with overloaded(queue_order="adaptive") as engine:
        adaptive = await goodput(engine, 0.8, leaves)
    async with overloaded() as engine:
        assert abs(adaptive - await goodput(engine, 0.8, leaves)) <= 0.01


async def test_batches_of_the_newest(virtual_time, repository, backend, opened):
    """Goal: the same for a model that batches eight at a time."""
    backend.cost_s = COST_S * 8
    write_model(repository, "m", more="dynamic_batching {}")
    async with opened(queue_order="adaptive") as engine:
        assert await goodput(engine, 1.5, leaves) >= 0.8


async def test_a_loud_caller_takes_nothing_from_a_quiet_one(virtual_time, overloaded):
    """Goal: who sends a fifth of the capacity is always served, soon, though another one sends twice the capacity."""
    waits = []

    async def quiet(engine):
        began = trio.current_time()
        with trio.move_on_after(PATIENCE_S):
            await engine.infer_request(request(parameters={"who": "quiet"}))
            waits.append(trio.current_time() - began)
            return True
        return False

    async def loud(engine):
        with trio.move_on_after(1):
            await engine.infer_request(request(parameters={"who": "loud"}))
            return True
        return False

    async with overloaded(fair_queueing="who") as engine, trio.open_nursery() as nursery:
        nursery.start_soon(goodput, engine, 2.0, loud)
        assert await goodput(engine, 0.2, quiet, seed=1) >= 0.2 * 0.9
        assert max(waits) < 10 * COST_S
        nursery.cancel_scope.cancel()


async def test_one_long_stall_does_not_lock_everybody_out(virtual_time, repository, backend, opened):
    """Goal: when executions have once lasted longer than anybody waits, callers are let through again to find out."""
    write_model(repository, "m")
    lasts = 0.1

    async def execute(batch):
        await trio.sleep(lasts)
        answer(batch)

    backend.execute = execute
    async with opened() as engine:
        for _ in range(20):
            await engine.infer_request(request())
        lasts = COST_S
        served = [await within_20_ms(engine) for _ in range(60)]
        assert not served[0]
        assert all(served[-10:])
