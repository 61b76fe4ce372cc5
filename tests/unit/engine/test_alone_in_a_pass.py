"""A request that its door has found alone: nobody could share its batch, so it need not wait for anybody."""

import pytest
import trio

from tests.fakes import request, write_model

INLINE = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }'


async def ready(engine):
    """The model, once its instance's thread has looked for work in vain."""
    with trio.fail_after(10):
        while not engine.model("m").scheduler.idle:  # noqa: ASYNC110  threads do
            await trio.sleep(0.001)
    return engine.model("m")


@pytest.mark.parametrize("is_alone", [True, False])
async def test_it_is_executed_at_once(repository, backend, opened, is_alone):
    """Goal: before `submit` returns, and counted as any other; in a pass with others it waits for the end."""
    backend.asynchronous, backend.movable = False, True
    write_model(repository, "m", more=f"dynamic_batching {{}} {INLINE}")
    answered = []
    async with opened() as engine:
        model = await ready(engine)
        engine.inline.begin_pass(is_alone=is_alone)
        job = model.submit(request("m"), answered.append)
        assert (job.on_done is None) is is_alone
        engine.inline.end_pass()
        assert len(answered) == 1
        assert not engine.inline.is_alone
        assert model.statistics.success_count == 1
        assert model.statistics.batch_reasons == {"eager": 1}
        assert model.ledger.inflight == 0
        assert len(model.scheduler.idle) == 1


async def test_it_waits_behind_others(repository, backend, opened):
    """Goal: whoever came before is not overtaken, and shares its batch."""
    backend.asynchronous, backend.movable = False, True
    write_model(repository, "m", more=f"dynamic_batching {{}} {INLINE}")
    async with opened() as engine:
        model = await ready(engine)
        engine.inline.begin_pass()
        model.submit(request("m"), lambda _: None)
        engine.inline.is_alone = True
        model.submit(request("m"), lambda _: None)
        assert not backend.executed
        engine.inline.end_pass()
        assert [batch.size for batch in backend.executed] == [2]


async def test_it_waits_where_the_model_delays(repository, backend, opened):
    """Goal: a delay that the model asks for is kept for a request that is alone, too."""
    backend.asynchronous, backend.movable = False, True
    more = f"dynamic_batching {{ max_queue_delay_microseconds: 50000 }} {INLINE}"
    write_model(repository, "m", more=more)
    async with opened() as engine:
        model = await ready(engine)
        engine.inline.begin_pass(is_alone=True)
        job = model.submit(request("m"), lambda _: None)
        engine.inline.end_pass()
        assert job.on_done is not None
        assert not backend.executed
        job.cancel()
