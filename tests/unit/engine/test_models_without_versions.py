"""Models of which nothing could be loaded: what the registry keeps of them, and what clients hear. As the reference
server has it, but for the reason, which it tells the log only."""

import pytest
import trio
from despina.schema.fault import Fault, NotFound

from tests.fakes import touch, write_model

UNREAD = "max_batch_size"
VERSIONLESS = "No model version was found"


@pytest.fixture
def broken(repository):
    """One of each kind, beside a good one."""
    write_model(repository, "good")
    write_model(repository, "unread", config='backend: "fake" max_batch_size: "x"')
    write_model(repository, "empty", versions=())
    write_model(repository, "policy", more="version_policy { specific { versions: [9] } }")


def not_loaded(engine):
    """Model -> why, of all that the start-up table shows without a version."""
    return {name: entry.why_not_loaded() for name, entry in engine.registry.models.items() if not entry.versions}


async def listed(engine):
    return [(entry.name, entry.state) for entry in await engine.index()]


@pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
async def test_they_are_known_with_the_reason(virtual_time, opened, broken, mode):
    """Goal: the registry knows them all; the index has the name of what could not be read, and no line for the others,
    which alone keep the server from being ready."""
    load_model = "*" if mode == "explicit" else ()
    async with opened(model_control_mode=mode, load_model=load_model, exit_on_error=False) as engine:
        found = not_loaded(engine)
        assert UNREAD in found.pop("unread")
        assert found == {"empty": VERSIONLESS, "policy": VERSIONLESS}
        assert await listed(engine) == [("good", "READY"), ("unread", "")]
        assert engine.health().problems == ("model 'empty' has no version", "model 'policy' has no version")
        assert not engine.is_ready()
        for name, what in (("unread", "not found"), ("empty", "no available versions")):
            with pytest.raises(NotFound, match=what):
                engine.model(name)


async def test_what_cannot_be_read_does_not_count_for_readiness(virtual_time, repository, opened):
    """Goal: to clients it is a model that was never loaded."""
    write_model(repository, "unread", config="{{{")
    async with opened(exit_on_error=False) as engine:
        assert engine.is_ready()
        assert list(not_loaded(engine)) == ["unread"]


async def test_they_go_with_their_directories(virtual_time, repository, opened, broken):
    """Goal: a poll forgets those that are gone, and loads those that have become good."""
    async with opened(model_control_mode="poll", repository_poll_secs=60, exit_on_error=False) as engine:
        for name in ("unread", "empty"):
            (repository / name).rename(repository.parent / name)
        touch(write_model(repository, "policy") / "config.pbtxt", 1)
        await trio.sleep(61)
        assert not_loaded(engine) == {}
        assert [model.name for model in engine.versions()] == ["good", "policy"]
        assert engine.is_ready()


async def test_names_that_somebody_thought_of_are_not_kept(virtual_time, opened):
    """Goal: failing loads of models that do not exist do not fill the registry."""
    async with opened(model_control_mode="explicit") as engine:
        for options in ({}, {"config": "{}"}, {"config": "{", "files": {"1/x": b""}}):
            with pytest.raises(Fault):
                await engine.load("nobody", **options)
        assert engine.registry.models == {}


async def test_a_model_that_serves_keeps_serving_when_it_cannot_be_read(virtual_time, repository, opened):
    """Goal: what is wrong with its new configuration is noted, and gone with the next good one."""
    path = write_model(repository, "m")
    async with opened(model_control_mode="explicit") as engine:
        await engine.load("m")
        (path / "config.pbtxt").write_text("{{{")
        touch(path / "config.pbtxt", 1)
        with pytest.raises(Fault):
            await engine.load("m")
        assert engine.registry.models["m"].unread
        assert engine.is_ready()
        assert engine.is_model_ready("m")
        touch(write_model(repository, "m", max_batch_size=4) / "config.pbtxt", 2)
        await engine.load("m")
        assert engine.registry.models["m"].unread == ""
