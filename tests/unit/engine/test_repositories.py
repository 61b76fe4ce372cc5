"""Several repositories: names that are in two of them, and repositories that come and go while the engine runs."""

import despina
import pytest
from despina.engine.repository.local_repository import LocalRepository
from despina.engine.repository.repositories import Repositories
from despina.schema.fault import AlreadyExists, Internal, InvalidArgument, Unavailable, Unsupported

from tests.fakes import config_text, request, value_of, write_model

EXPLICIT = {"model_control_mode": "explicit"}


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other"
    path.mkdir()
    return path


def named(name):
    return f'name: "{name}"\n' + config_text()


async def states(engine):
    return [(entry.name, entry.state, entry.reason) for entry in await engine.index()]


async def test_models_of_several_repositories(virtual_time, repository, other, backend):
    """Goal: all are served, a repository that is named twice counts once, and one name in two of them is refused."""
    for place, name in ((repository, "a"), (other, "b"), (repository, "both"), (other, "both")):
        write_model(place, name)
    paths = [repository, other, repository]
    async with despina.open_engine(paths, backends={"fake": backend}, load_model=["a", "b"], **EXPLICIT) as engine:
        assert await states(engine) == [
            ("a", "READY", ""),
            ("b", "READY", ""),
            ("both", "UNAVAILABLE", "model appears in two or more repositories"),
        ]
        with pytest.raises(Internal) as caught:
            await engine.load("both")
        assert caught.value.message == "failed to load 'both', failed to poll from model repository"


async def test_a_registered_repository(virtual_time, repository, other, backend, opened):
    """Goal: nothing is loaded by registering; its models can be, and go on serving when it goes."""
    write_model(other, "b")
    async with opened(**EXPLICIT) as engine:
        await engine.register_model_repository(str(other))
        assert await states(engine) == [("b", "", "")]
        await engine.load("b")
        engine.unregister_model_repository(str(other))
        assert await states(engine) == []
        assert value_of(await engine.infer_request(request(model="b", value=6))) == 6
        with pytest.raises(Internal):
            await engine.load("b")
        await engine.register_model_repository(str(other))
        assert await states(engine) == [("b", "READY", "")]


def test_other_namespaces_are_not_looked_at(repository, other, monkeypatch):
    """Goal: a repository that is out of reach is in nobody's way who knows where his model is."""
    write_model(repository, "m")
    store = Repositories([str(repository), str(other)], namespacing=True)

    def gone(folders, directory):
        if folders.location == str(other):
            raise Unavailable("out of reach")
        return True

    monkeypatch.setattr(LocalRepository, "has", gone)
    assert store.fetch(f"{repository}::m").path == repository / "m"
    with pytest.raises(Unavailable):
        store.named("m")


async def test_names_are_mapped(virtual_time, repository, other, backend, opened, caplog):
    """Goal: a mapped directory has its new name only, whatever its configuration says; the rest keep theirs."""
    write_model(other, "old", config=named("old"))
    write_model(other, "kept", config=named("kept"))
    async with opened(**EXPLICIT) as engine:
        await engine.register_model_repository(str(other), {"new": "old"})
        assert await states(engine) == [("kept", "", ""), ("new", "", "")]
        await engine.load("new")
        assert engine.model("new").config.name == "new"
        assert value_of(await engine.infer_request(request(model="new", value=7))) == 7
        with pytest.raises(Internal):
            await engine.load("old")
        assert "failed to poll model 'old': model not found in any model repository." in caplog.text
        await engine.load("kept")


async def test_what_cannot_be_registered(virtual_time, repository, other, backend, opened, tmp_path):
    """Goal: each refusal, in its words, and nothing has changed after it."""
    third = tmp_path / "third"
    third.mkdir()

    async def refusal(kind, what, *arguments):
        async def do():
            result = what(*arguments)
            if result is not None:
                await result

        with pytest.raises(kind) as caught:
            await do()
        return caught.value.message

    async with opened(**EXPLICIT) as engine:
        register, unregister = engine.register_model_repository, engine.unregister_model_repository
        nowhere = str(tmp_path / "nowhere")
        assert await refusal(InvalidArgument, register, nowhere) == (
            f"failed to register '{nowhere}', repository not found"
        )
        assert await refusal(InvalidArgument, unregister, nowhere) == (
            f"failed to unregister '{nowhere}', repository not found"
        )
        assert await refusal(AlreadyExists, register, str(repository)) == (
            f"model repository '{repository}' has already been registered"
        )
        await register(str(other), {"new": "old"})
        assert await refusal(AlreadyExists, register, str(third), {"new": "x"}) == (
            "failed to register 'new', there is a conflicting mapping for 'new'"
        )
        unregister(str(other))
        await register(str(third), {"new": "x"})


async def test_repositories_come_and_go_by_command_only(virtual_time, repository, other, backend, opened):
    async with opened() as engine:
        with pytest.raises(Unsupported) as caught:
            await engine.register_model_repository(str(other))
        assert caught.value.message == ("repository registration is not allowed if model control mode is not EXPLICIT")
        with pytest.raises(Unsupported) as caught:
            engine.unregister_model_repository(str(repository))
        assert caught.value.message == (
            "repository unregistration is not allowed if model control mode is not EXPLICIT"
        )
