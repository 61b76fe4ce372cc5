"""Models that do not come back from being opened. Real threads: that is what hangs."""

import threading
from contextlib import suppress

import pytest
import trio
from despina.engine.model.version import ModelVersion
from despina.schema.fault import InvalidArgument, ShuttingDown

from tests.fakes import request, value_of, write_model


@pytest.fixture
def hangs(backend):
    """Lets opening model `hung` hang; let go after the test."""
    gate = backend.open_gates["hung"] = threading.Event()
    yield gate
    gate.set()


async def until(condition):
    """Waits for what a thread of its own accord does."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 (a thread has no event for us)
            await trio.sleep(0.001)


async def test_a_load_that_hangs_fails_in_time(repository, backend, opened, hangs, caplog):
    """Goal: the load is answered, a neighbour served and loaded meanwhile; what comes back late is closed."""
    for name in ("hung", "m", "other"):
        write_model(repository, name)
    async with opened(model_control_mode="explicit", load_model="m", model_load_timeout_secs=0.5) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("hung")
        assert caught.value.message == (
            "load failed for model 'hung': version 1 is at UNAVAILABLE state: Internal: opening model 'hung' version 1 "
            "has not come back within 0.5 s;\n"
        )
        assert "its thread is abandoned" in caplog.text
        assert value_of(await engine.infer_request(request(value=5))) == 5
        await engine.load("other")
        assert backend.closed == []
        hangs.set()
        await until(lambda: backend.closed == [("hung", 1)])


@pytest.mark.parametrize("when", ["at start", "later"])
async def test_an_engine_with_a_load_that_hangs_can_be_cancelled(repository, backend, opened, hangs, caplog, when):
    """Goal: cancelling is over in about the exit timeout, says in the log what it leaves, and leaves nothing open."""
    write_model(repository, "hung")
    options = {"load_model": "hung"} if when == "at start" else {}
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def run():
                async with opened(model_control_mode="explicit", exit_timeout_secs=0.05, **options) as engine:
                    await engine.load("hung")

            nursery.start_soon(run)
            await trio.to_thread.run_sync(backend.opening.acquire)
            nursery.cancel_scope.cancel()
    assert "opening model 'hung' version 1 has not come back within 0.05 s: its thread is abandoned" in caplog.text
    hangs.set()
    await until(lambda: backend.closed == [("hung", 1)])


async def test_stopping_tells_who_waits_for_a_load_that_hangs(repository, backend, opened, hangs):
    """Goal: leaving the engine's block does not wait for it, and its sender hears why."""
    write_model(repository, "hung")
    heard = []

    async def load(engine):
        try:
            await engine.load("hung")
        except ShuttingDown as fault:
            heard.append(fault.message)

    with trio.fail_after(5):
        async with (
            trio.open_nursery() as nursery,
            opened(model_control_mode="explicit", exit_timeout_secs=0.05) as engine,
        ):
            nursery.start_soon(load, engine)
            await trio.to_thread.run_sync(backend.opening.acquire)
    assert heard == ["Server not ready"]


async def test_threads_that_hang_are_bounded(repository, backend, opened, hangs):
    """Goal: repeating a load that hangs does not use up threads without end: then loads are refused, not queued."""
    write_model(repository, "hung")
    write_model(repository, "m")
    faults = []
    async with opened(model_control_mode="explicit", model_load_timeout_secs=0.01, model_load_thread_count=2) as engine:
        for name in ("hung",) * 6 + ("m",):
            with pytest.raises(InvalidArgument) as caught:
                await engine.load(name)
            faults.append(caught.value.message)
        assert len(backend.contexts) == 4
        assert "4 models that were given up are still being opened" in faults[-1]
        hangs.set()
        await until(lambda: len(backend.closed) == 4)
        with trio.fail_after(5):
            while not engine.is_model_ready("m"):
                with suppress(InvalidArgument):  # a busy machine may not open it within 10 ms, either
                    await engine.load("m")
        assert value_of(await engine.infer_request(request(value=5))) == 5


async def test_instances_that_do_not_open_in_time_fail_the_load(virtual_time, repository, backend, opened, monkeypatch):
    """Goal: the limit holds for the second part of opening, too; the version is told to end."""
    write_model(repository, "m")
    ended = []

    async def hang(self, task_status):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time() - began)

    monkeypatch.setattr(ModelVersion, "run", hang)
    async with opened(model_control_mode="explicit", model_load_timeout_secs=60) as engine:
        began = trio.current_time()
        with pytest.raises(InvalidArgument, match="the instances have not opened within 60 s"):
            await engine.load("m")
    assert ended == [60]
