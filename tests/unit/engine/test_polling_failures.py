"""What polls do about models that fail: nothing, until somebody has touched them."""

import pytest
import trio
from despina.schema.fault import InvalidArgument, Unavailable

from tests.fakes import touch, write_model

POLL = {"model_control_mode": "poll", "repository_poll_secs": 60, "exit_on_error": False}


@pytest.mark.parametrize("where", ["model", "instance"])
async def test_a_broken_model_is_executed_once(virtual_time, repository, backend, opened, where):
    """Goal: ten polls later it has been tried once; after a touch once more; then it is good, and stays loaded."""
    path = write_model(repository, "m")
    if where == "model":
        backend.open_errors["m", 1] = RuntimeError("boom")
    else:
        backend.instance_error = RuntimeError("boom")
    async with opened(**POLL) as engine:
        await trio.sleep(601)
        assert len(backend.contexts) == 1
        touch(path / "1", 1)
        await trio.sleep(601)
        assert len(backend.contexts) == 2
        backend.open_errors.clear()
        backend.instance_error = None
        await trio.sleep(60)
        assert list(engine.versions()) == []
        touch(path / "1", 2)
        await trio.sleep(601)
        assert [model.name for model in engine.versions()] == ["m"]
        assert len(backend.contexts) == 3


async def test_what_cannot_be_read_is_said_once(virtual_time, repository, opened, caplog):
    """Goal: a broken configuration does not fill the log; an older file counts as a change, too."""
    path = write_model(repository, "m", config="{{{")
    async with opened(**POLL) as engine:
        await trio.sleep(601)
        assert caplog.text.count("Poll failed for model directory 'm'") == 1
        write_model(repository, "m")
        touch(path / "config.pbtxt", -3600)
        await trio.sleep(60)
        assert [model.name for model in engine.versions()] == ["m"]


async def test_a_broken_reload_is_tried_once_and_the_old_one_serves(virtual_time, repository, backend, opened):
    """Goal: the same for a model that serves, and going back to what served reloads nothing by itself."""
    path = write_model(repository, "m")
    async with opened(**POLL) as engine:
        backend.open_errors["m", 1] = RuntimeError("boom")
        touch(path / "1", 1)
        await trio.sleep(601)
        assert len(backend.contexts) == 2
        assert [model.name for model in engine.versions()] == ["m"]


async def test_away_and_back_is_a_new_try(virtual_time, repository, backend, opened):
    """Goal: a directory that was gone at one poll is tried again though its times are the same."""
    path = write_model(repository, "m")
    backend.open_errors["m", 1] = RuntimeError("boom")
    async with opened(**POLL) as engine:
        path.rename(repository.parent / "away")
        await trio.sleep(61)
        (repository.parent / "away").rename(path)
        backend.open_errors.clear()
        await trio.sleep(61)
        assert [model.name for model in engine.versions()] == ["m"]


async def test_what_is_unavailable_for_now_is_tried_again(virtual_time, repository, backend, opened):
    """Goal: a fault that says to come back later is not remembered."""
    write_model(repository, "m")
    backend.open_errors["m", 1] = Unavailable("no licence is free")
    async with opened(**POLL) as engine:
        await trio.sleep(121)
        assert len(backend.contexts) == 3
        backend.open_errors.clear()
        await trio.sleep(60)
        assert [model.name for model in engine.versions()] == ["m"]


async def test_explicit_loads_always_try(virtual_time, repository, backend, opened):
    """Goal: whoever asks for a load gets one."""
    write_model(repository, "m")
    backend.open_errors["m", 1] = RuntimeError("boom")
    async with opened(model_control_mode="explicit") as engine:
        for _ in range(3):
            with pytest.raises(InvalidArgument):
                await engine.load("m")
        assert len(backend.contexts) == 3
