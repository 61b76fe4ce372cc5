"""Which models execute first of those that wait for the trio thread."""

import time

import pytest
import trio

from tests.fakes import answer, request, write_model

INLINE = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }'
PRIORITIES = {"min": "PRIORITY_MIN", "usual": "PRIORITY_DEFAULT", "max": "PRIORITY_MAX"}


@pytest.fixture
def models(repository, backend):
    """One of each priority, executed on the trio thread."""
    backend.asynchronous, backend.movable = False, True
    for name, priority in PRIORITIES.items():
        optimization = f"optimization {{ priority: {priority} }}"
        write_model(repository, name, more=f"dynamic_batching {{}} {INLINE} {optimization}")
    return backend


def executed(backend):
    return [one.model for one in backend.executed]


async def idle(engine):
    """Until every instance's thread has looked for work in vain."""
    with trio.fail_after(10):
        while not all(engine.model(name).scheduler.idle for name in PRIORITIES):  # noqa: ASYNC110  threads do
            await trio.sleep(0.001)


async def test_of_a_pass(models, opened):
    """Goal: what a door has found in one pass: the model of the highest priority first, whoever came first."""
    answered = []
    async with opened() as engine:
        await idle(engine)
        for names in (["min", "usual", "max"], ["max", "min", "usual"], ["usual", "max", "min"], ["min", "min"]):
            models.executed.clear()
            engine.inline.begin_pass()
            for name in names:
                engine.model(name).submit(request(name), answered.append)
            engine.inline.end_pass()
            assert executed(models) == sorted(set(names), key=["max", "usual", "min"].index)
    assert len(answered) == 11


async def test_of_callers(models, opened):
    """Goal: callers in process that come together wait for the runner's task: the same order."""
    async with opened() as engine:
        await idle(engine)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                for name in PRIORITIES:
                    nursery.start_soon(engine.infer_request, request(name))
        assert len(executed(models)) >= 3
        models.executed.clear()
        engine.inline.begin_pass()
        for name in PRIORITIES:
            engine.model(name).submit(request(name), lambda _: None)
        engine.inline.in_pass = False  # the pass ends without executing: it is the task's
        engine.inline._wake()
        with trio.fail_after(5):
            while len(executed(models)) < 3:
                await trio.lowlevel.checkpoint()
    assert executed(models) == ["max", "usual", "min"]


async def test_nobody_waits_for_ever(models, opened):
    """Goal: a model of the highest priority that uses up its slices lets the others have their turns in between."""

    def execute(batch):
        if batch.jobs[0].request.model_name == "max":
            time.sleep(0.006)
        answer(batch)

    models.execute_sync = execute
    async with opened() as engine:
        await idle(engine)
        answered = []
        engine.inline.begin_pass()
        for name, count in (("min", 1), ("usual", 1), ("max", 40)):
            for _ in range(count):
                engine.model(name).submit(request(name), lambda job: answered.append(job.request.model_name))
        engine.inline.end_pass()
        with trio.fail_after(10):
            while len(answered) < 42:
                await trio.lowlevel.checkpoint()
    assert answered.index("usual") < 10
    assert "min" in answered
