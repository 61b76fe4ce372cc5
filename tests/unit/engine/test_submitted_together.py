"""Several requests that are submitted at one time fare as if each had been submitted by itself."""

import pytest
import trio
from despina.schema.fault import InvalidArgument, QueueFull, ShuttingDown

from tests.fakes import request, write_model

INLINE = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }'
KINDS = {
    "joined": f"dynamic_batching {{}} {INLINE}",
    "joined, in threads": "dynamic_batching {}",
    "alone": INLINE,
    "with levels": "dynamic_batching { priority_levels: 2 default_priority_level: 1 }",
    "newest first": 'dynamic_batching {} parameters { key: "DESPINA_QUEUE_ORDER" value { string_value: "adaptive" } }',
    "two instances": "dynamic_batching {} instance_group [ { count: 2 } ]",
    "sequences": "sequence_batching {}",
    "kept": "dynamic_batching {} response_cache { enable: true }",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_all_are_answered_in_their_order(repository, backend, opened, kind):
    """Goal: each once, the wrong one among them refused alone, and counted as ever."""
    backend.asynchronous, backend.movable = False, "inline" in KINDS[kind]
    write_model(repository, "m", more=KINDS[kind])
    answered, refused = [], []
    options = {"response_cache_byte_size": 1 << 20} if kind == "kept" else {}
    async with opened(**options) as engine:
        model = engine.model("m")
        requests = [request("m", value=number, id=str(number), **_more(kind, number)) for number in range(5)]
        requests[2].inputs.clear()
        accepted = model.submit_all(requests, answered.append, lambda *told: refused.append(told))
        assert [job.request.id for job in accepted] == ["0", "1", "3", "4"]
        with trio.fail_after(10):
            while len(answered) < 4:  # noqa: ASYNC110  threads answer
                await trio.sleep(0.001)
        assert all(job.response is not None and job.on_done is None for job in accepted)
        ((wrong, problem),) = refused
        assert wrong is requests[2]
        assert isinstance(problem, InvalidArgument)
        assert sorted(job.request.id for job in answered) == ["0", "1", "3", "4"]
        assert (model.ledger.inflight, model.scheduler.live, model.statistics.success_count) == (0, 0, 4)


def _more(kind, number):
    return {"correlation_id": number + 1, "sequence_start": True} if kind == "sequences" else {}


async def test_who_finds_the_queue_full_is_refused(repository, backend, opened):
    """Goal: the first ones fill it, the others are told; those that left give their places back."""
    backend.asynchronous, backend.movable = False, True
    write_model(repository, "m", more=f"dynamic_batching {{}} {INLINE}")
    refused = []
    async with opened(queue_size_max=2) as engine:
        model = engine.model("m")
        engine.inline.begin_pass()
        accepted = model.submit_all(
            [request("m") for _ in range(4)], lambda _: None, lambda *told: refused.append(told)
        )
        assert (len(accepted), model.scheduler.live, model.ledger.inflight) == (2, 2, 2)
        assert [type(problem) for _, problem in refused] == [QueueFull, QueueFull]
        for job in accepted:
            job.cancel()
        assert (model.scheduler.live, model.ledger.inflight) == (0, 0)
        engine.inline.end_pass()
        assert not backend.executed


async def test_they_share_a_batch(repository, backend, opened):
    """Goal: those of one pass are executed at its end, in one batch."""
    backend.asynchronous, backend.movable = False, True
    write_model(repository, "m", more=f"dynamic_batching {{}} {INLINE}")
    async with opened() as engine:
        with trio.fail_after(10):
            while not engine.model("m").scheduler.idle:  # noqa: ASYNC110  a thread looks for work first
                await trio.sleep(0.001)
        engine.inline.begin_pass()
        engine.model("m").submit_all([request("m") for _ in range(4)], lambda _: None, lambda *_: None)
        engine.inline.end_pass()
        assert [batch.size for batch in backend.executed] == [4]


async def test_a_model_that_stops_refuses_each(repository, backend, opened):
    write_model(repository, "m", more="dynamic_batching {}")
    refused = []
    async with opened() as engine:
        model = engine.model("m")
    assert model.submit_all([request("m"), request("m")], lambda _: None, lambda *told: refused.append(told)) == []
    assert [type(problem) for _, problem in refused] == [ShuttingDown, ShuttingDown]
