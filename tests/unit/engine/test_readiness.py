"""Models that have a say in whether they are ready: asked one question at a time, within five seconds."""

from __future__ import annotations

import pytest
import trio
from despina.engine.execute.readiness import ANSWER_S_MAX

from tests.fakes import SCALAR_IO, FakeTask, write_model


class Said:
    """What the instances say, by name, and how often they were asked."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.lasts_s = 0.0

    def question(self, name):
        async def ready():
            self.asked.append(name)
            await trio.sleep(self.lasts_s)
            return self.answers.get(name, True)

        return ready


@pytest.fixture
def said(monkeypatch):
    """The instances of all models have a say."""
    said = Said()
    made = FakeTask.__init__

    def make(self, backend, model, context):
        made(self, backend, model, context)
        self.ready = said.question(context.name)

    monkeypatch.setattr(FakeTask, "__init__", make)
    return said


async def test_one_that_says_no(virtual_time, repository, opened, said):
    """Any instance may get the next request, so all have to agree; it serves all the same."""
    write_model(repository, "m", instances=2)
    async with opened() as engine:
        assert await engine.says_ready("m")
        assert sorted(said.asked) == ["m_0_0", "m_0_1"]
        said.answers["m_0_1"] = False
        assert not await engine.says_ready("m")
        assert engine.is_model_ready("m")
        assert not await engine.says_ready("nobody")


async def test_who_asks_meanwhile_shares_the_answer(virtual_time, repository, opened, said):
    write_model(repository, "m")
    said.lasts_s = 1
    async with opened() as engine:
        heard = []

        async def ask(after_s):
            await trio.sleep(after_s)
            heard.append(await engine.says_ready("m"))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number / 10)
        assert heard == [True] * 5
        assert len(said.asked) == 1
        await engine.says_ready("m")
        assert len(said.asked) == 2


async def test_no_answer_in_time(virtual_time, repository, opened, said):
    """It is a no after five seconds; who asks then gets the answer that is still to come."""
    write_model(repository, "m")
    said.lasts_s = 8
    async with opened() as engine:
        began = trio.current_time()
        assert not await engine.says_ready("m")
        assert trio.current_time() - began == pytest.approx(ANSWER_S_MAX)
        assert await engine.says_ready("m")
        assert trio.current_time() - began == pytest.approx(8)
        assert len(said.asked) == 1


async def test_unloaded_while_it_is_asked(virtual_time, repository, opened, said):
    """Who asks is told no, at the latest then."""
    write_model(repository, "m")
    said.lasts_s = 1000
    async with opened(model_control_mode="explicit") as engine:
        await engine.load("m")
        heard = []

        async def ask():
            heard.append(await engine.says_ready("m"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await engine.unload("m")
        assert heard == [False]


async def test_an_ensemble_of_one_that_says_no(virtual_time, repository, opened, said):
    write_model(repository, "m")
    maps = 'input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "OUT" }'
    step = f'model_name: "m" model_version: -1 {maps}'
    (repository / "e" / "1").mkdir(parents=True)
    (repository / "e" / "config.pbtxt").write_text(
        f'platform: "ensemble" max_batch_size: 8 {SCALAR_IO} ensemble_scheduling {{ step [{{ {step} }}] }}'
    )
    async with opened() as engine:
        assert await engine.says_ready("e")
        said.answers["m_0_0"] = False
        assert not await engine.says_ready("e")
