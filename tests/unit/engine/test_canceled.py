"""A request counts as CANCELED exactly if its caller did not wait for the answer, whatever the model made of it."""

from contextlib import suppress

import pytest
import trio
import trio.testing
from despina.engine.port.settings import Stop
from despina.schema.fault import Cancelled, DeadlineExceeded, ExecutorDied, Fault, InvalidArgument

from tests.fakes import Gate, answer, request, write_model


def raises(_):
    raise RuntimeError("the model raised")


def fails(batch):
    for job in batch.jobs:
        job.fail(InvalidArgument("not this one"))


def dies(_):
    raise ExecutorDied("it is gone")


def failures(model):
    return {reason: count for reason, count in model.statistics.failures.items() if count}


async def call(engine, patience_s, deadline_s):
    with trio.move_on_after(patience_s), suppress(Fault):
        await engine.infer_request(request(), deadline=trio.current_time() + deadline_s if deadline_s else 0.0)


@pytest.mark.parametrize("behave", [raises, fails, dies, answer])
@pytest.mark.parametrize(("patience_s", "deadline_s"), [(1, 0), (float("inf"), 1)], ids=["left", "late"])
async def test_whoever_does_not_wait_while_it_executes(
    virtual_time, repository, backend, opened, behave, patience_s, deadline_s
):
    """Goal: CANCELED, also if the execution fails in the end."""
    write_model(repository, "m")

    async def late(batch):
        await trio.sleep(2)
        behave(batch)

    backend.execute = late
    async with opened(restart=Stop()) as engine:
        model = engine.model("m")
        await call(engine, patience_s, deadline_s)
        await trio.sleep(5)
        assert (failures(model), model.statistics.success_count) == ({"CANCELED": 1}, 0)


async def test_whoever_left_before_the_execution_was_given_up(virtual_time, repository, backend, opened):
    """Goal: of a batch that is lost, who waits counts as BACKEND, who has left as CANCELED."""
    write_model(repository, "m", more="dynamic_batching { max_queue_delay_microseconds: 1000 }")
    backend.execute = Gate()
    async with opened() as engine, trio.open_nursery() as nursery:
        model = engine.model("m")
        nursery.start_soon(call, engine, 1, 0)
        nursery.start_soon(call, engine, float("inf"), 0)
        await trio.sleep(2)
        assert model.ledger.inflight == 2
        await model.drain(0)
        assert failures(model) == {"BACKEND": 1, "CANCELED": 1}


@pytest.mark.parametrize("fault", [Cancelled("says the model"), DeadlineExceeded("says the model")])
@pytest.mark.parametrize("decoupled", [False, True])
async def test_what_a_model_calls_cancelled(virtual_time, repository, backend, opened, fault, decoupled):
    """Goal: its callers have waited, so it is a failure of the model's."""
    write_model(repository, "m", more="model_transaction_policy { decoupled: true }" if decoupled else "")

    async def execute(batch):
        for job in batch.jobs:
            job.fail(fault)

    backend.execute = execute
    async with opened() as engine:
        model = engine.model("m")
        with pytest.raises(type(fault)):
            async for _ in engine.stream_request(request()):
                pass
        await trio.testing.wait_all_tasks_blocked()
        assert failures(model) == {"BACKEND": 1}
