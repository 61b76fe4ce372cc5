"""Many callers of a model and an ensemble with a cache at once, on virtual time: whatever the cache, the model and the
callers do, each caller ends once, with the right answer or a reason, and the books add up."""

from __future__ import annotations

import random
from collections import Counter

import despina
import pytest
import trio
import trio.testing
from despina import Fault, ModelFailure

from tests.fakes import FakeBackend, answer, request, touch, value_of, write_model
from tests.unit.engine.test_response_cache import CACHED, ElsewhereCache, write_ensemble

VALUES = 6
CALLERS = 300


class Moody(ElsewhereCache):
    """Fast, slow, failing, and forgetful or damaging, as it likes."""

    def __init__(self, dice):
        super().__init__()
        self.dice = dice

    async def lookup(self, key):
        self.moody()
        found = await super().lookup(key)
        if found is not None and self.dice.random() < 0.1:
            return self.dice.choice([None, found[:-1], b"", found[:20] + b"?" + found[21:]])
        return found

    async def insert(self, key, entry):
        self.moody()
        return await super().insert(key, entry)

    def moody(self):
        self.wait_s = self.dice.choice([0] * 20 + [0.01] * 10 + [0.3] * 3 + [5.0])
        self.error = self.dice.choice([None] * 60 + [ConnectionResetError("moody"), RuntimeError("moody")])


class Storm:
    def __init__(self, engine, dice):
        self.engine = engine
        self.dice = dice
        self.asked = Counter()
        self.ended = Counter()

    async def caller(self, id):
        dice = self.dice
        await trio.sleep(dice.random() * 12)
        model, value = dice.choice("me"), dice.randrange(VALUES)
        asked = request(model, value, id=str(id), parameters=dice.choice([None] * 9 + [{"despina_cache": "bypass"}]))
        deadline = trio.current_time() + dice.random() if dice.random() < 0.3 else 0.0
        patience = dice.random() if dice.random() < 0.3 else float("inf")
        self.asked[model] += 1
        with trio.move_on_after(patience) as scope:
            try:
                response = await self.engine.infer_request(asked, deadline=deadline)
                assert (value_of(response), response.id) == (value, str(id)), "another one's answer"
                self.ended["answered"] += 1
            except Fault as fault:
                self.ended[type(fault).__name__] += 1
        if scope.cancelled_caught:
            self.ended["left"] += 1


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("kind", ["local", "elsewhere"])
@pytest.mark.parametrize("seed", range(6))
async def test_a_storm(virtual_time, tmp_path, seed, kind, joins):
    """Goal: see the module. A reload of the model comes in the middle; at the end nothing is in flight."""
    dice = random.Random(seed)
    path = write_model(tmp_path, "m", more=CACHED + " dynamic_batching { }", instances=2)
    write_ensemble(tmp_path)
    backend = FakeBackend()

    async def execute(batch):
        await trio.sleep(dice.choice([0, 0.05, 0.4]))
        answer(batch)
        for job in batch.jobs:
            if dice.random() < 0.1:
                job.response = None
                job.fail(ModelFailure("by chance"))

    backend.execute = execute
    async with despina.open_engine(
        tmp_path,
        backends={"fake": backend},
        cache_config={kind: {"size": "1200"} if kind == "local" else {}},
        caches={"elsewhere": lambda _: Moody(dice)},
        cache_joins=joins,
        model_control_mode="explicit",
        load_model=["e"],
    ) as engine:
        storm = Storm(engine, dice)
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                for id in range(CALLERS):
                    nursery.start_soon(storm.caller, id)
                await trio.sleep(6)
                write_model(tmp_path, "m", more=CACHED + " dynamic_batching { } metric_tags { key: 'x' value: 'y' }")
                touch(path / "config.pbtxt", 5)
                await engine.load("m")
            await trio.sleep(10)
        assert storm.ended.total() == CALLERS
        assert storm.ended["answered"] > CALLERS / 3
        assert all(storm.ended[how] for how in ("ModelFailure", "DeadlineExceeded", "left"))
        assert engine.cache.hits > 0
        assert engine.cache.failures > 0 or kind == "local"
        for model in engine.versions():
            assert model.ledger.inflight == 0
            assert model.ledger.broken == 0
            assert not model._calls._looking
            assert not model._calls._flights
        (ensemble,) = engine.statistics("e")
        stats = ensemble.inference_stats
        assert stats.success.count + stats.fail.count == storm.asked["e"]
        assert stats.compute_infer.count == stats.success.count - stats.cache_hit.count
