"""Repository agents: what they are told of a model's life, in which order, and what they may do to its files."""

import hashlib
import tempfile
import threading

import despina
import pytest
import trio
from despina.engine.port.agent import AgentAction
from despina.engine.repository.agents import Agents, LoadedModel
from despina.schema.fault import Fault, Internal, InvalidArgument, NotFound, Unsupported
from despina.schema.wire.generated.inference import ModelConfig

from tests.fakes import config_text, request, touch, value_of, write_model

LOAD, LOADED, FAILED, UNLOAD, UNLOADED = (
    AgentAction.LOAD,
    AgentAction.LOAD_COMPLETE,
    AgentAction.LOAD_FAIL,
    AgentAction.UNLOAD,
    AgentAction.UNLOAD_COMPLETE,
)
NOT_READ = "failed to load 'm', failed to poll from model repository"


def agents_text(*agents):
    """`(name, {key: value})` each, as a configuration has them."""
    text = "model_repository_agents {\n"
    for name, parameters in agents:
        pairs = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
        text += f'agents [ {{ name: "{name}" {pairs} }} ]\n'
    return text + "}\n"


class Scripted:
    """Notes what it is told, and does in it what the test wants."""

    def __init__(self, name, heard, **deeds):
        self.name = name
        self.heard = heard
        self.deeds = deeds

    def act(self, action, model):
        self.heard.append((self.name, action))
        deed = self.deeds.get(action.name.lower())
        if deed is not None:
            deed(model)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def with_agents(repository, backend):
    def open_it(**agents):
        return despina.open_engine(repository, backends={"fake": backend}, agents=agents, model_control_mode="explicit")

    return open_it


def write(repository, *agents, **options):
    config = config_text(**options) + agents_text(*[(name, {}) if isinstance(name, str) else name for name in agents])
    return write_model(repository, "m", config=config)


async def settle():
    await trio.testing.wait_all_tasks_blocked()


async def test_agents_hear_of_a_models_life_in_order(virtual_time, repository, heard, with_agents):
    """Goal: LOAD and UNLOAD in the configuration's order, the others in reverse; LOAD_COMPLETE once it serves, UNLOAD
    when no look-up finds it, UNLOAD_COMPLETE when it is closed."""
    write(repository, "one", "two")
    async with with_agents(one=Scripted("one", heard), two=Scripted("two", heard)) as engine:
        await engine.load("m")
        assert heard == [("one", LOAD), ("two", LOAD), ("two", LOADED), ("one", LOADED)]
        heard.clear()
        await engine.unload("m")
        await settle()
        assert heard == [("one", UNLOAD), ("two", UNLOAD), ("two", UNLOADED), ("one", UNLOADED)]
        heard.clear()
        await engine.load("m")
        heard.clear()
    assert [action for _, action in heard] == [UNLOAD, UNLOAD, UNLOADED, UNLOADED]


async def test_a_reload_begins_before_the_old_one_ends(virtual_time, repository, heard, with_agents):
    """Goal: each load is one life, also where only instance groups differ: agents are told of every load."""
    path = write(repository, "one")
    async with with_agents(one=Scripted("one", heard)) as engine:
        await engine.load("m")
        write(repository, "one", more="instance_group [ { count: 2 kind: KIND_CPU } ]\n")
        touch(path / "config.pbtxt", 5)
        await engine.load("m")
        await settle()
        assert [action for _, action in heard] == [LOAD, LOADED, LOAD, LOADED, UNLOAD, UNLOADED]


@pytest.mark.parametrize("refusal", [InvalidArgument("not this one"), RuntimeError("broken"), SystemExit(3)])
async def test_an_agent_that_refuses_fails_the_load(virtual_time, repository, heard, with_agents, caplog, refusal):
    """Goal: the log says why; the agents that had heard of the load hear that it failed, the others nothing."""

    def refuse(model):
        raise refusal

    write(repository, "one", "two", "three")
    agents = {name: Scripted(name, heard) for name in ("one", "three")}
    async with with_agents(two=Scripted("two", heard, load=refuse), **agents) as engine:
        with pytest.raises(Internal) as caught:
            await engine.load("m")
        assert caught.value.message == NOT_READ
        assert heard == [("one", LOAD), ("two", LOAD), ("two", FAILED), ("one", FAILED)]
        assert f"Poll failed for model directory 'm': {_text(refusal)}" in caplog.text


def _text(error):
    return error.message if isinstance(error, Fault) else f"{type(error).__name__}: {error}"


async def test_agents_hear_that_the_backend_refuses(virtual_time, repository, heard, backend, with_agents):
    """Goal: LOAD_FAIL, and what served goes on under its own agents, who hear nothing."""
    path = write(repository, "one")
    async with with_agents(one=Scripted("one", heard)) as engine:
        await engine.load("m")
        heard.clear()
        backend.open_errors["m", 1] = InvalidArgument("no")
        touch(path / "1", 5)
        with pytest.raises(InvalidArgument):
            await engine.load("m")
        await settle()
        assert heard == [("one", LOAD), ("one", FAILED)]
        assert value_of(await engine.infer_request(request(value=4))) == 4


async def test_what_agents_raise_later_is_logged(virtual_time, repository, heard, with_agents, caplog):
    """Goal: the model serves and goes nevertheless, and the other agents hear all."""

    def fail(model):
        raise ValueError("cannot")

    write(repository, "one", "two")
    bad = {action.name.lower(): fail for action in AgentAction if action is not LOAD}
    async with with_agents(one=Scripted("one", heard, **bad), two=Scripted("two", heard, **bad)) as engine:
        await engine.load("m")
        assert engine.is_model_ready("m")
        await engine.unload("m")
        await settle()
    assert len(heard) == 8
    assert "an agent of model 'm' returns error on TRITONREPOAGENT_ACTION_UNLOAD: cannot" in caplog.text


async def test_an_agent_redirects_the_model(
    virtual_time, repository, heard, backend, with_agents, tmp_path, monkeypatch
):
    """Goal: files come from where the agent says, the configuration stays the model's own; the next agent sees the new
    place with the configuration there; the agent's directory is there as long as anything uses it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen = []

    def redirect(model):
        seen.append((model.name, model.location, dict(model.parameters), model.config.max_batch_size))
        there = model.acquire_directory()
        assert model.acquire_directory() == there
        write_model(there, "m", versions=[7], config=config_text(max_batch_size=2))
        model.update_location(there / "m")
        model.state = "mine"

    def look(model):
        seen.append((model.location.parent.parent.parent, model.config.max_batch_size, model.state))

    def late(model):
        assert model.state == "mine"
        assert (model.location / "7").is_dir()
        with pytest.raises(InvalidArgument) as caught:
            model.update_location(tmp_path)
        seen.append(caught.value.message)

    path = write(repository, ("one", {"a": "b"}), "two", max_batch_size=5)
    one = Scripted("one", heard, load=redirect, unload_complete=late)
    async with with_agents(one=one, two=Scripted("two", heard, load=look)) as engine:
        await engine.load("m")
        assert seen == [("m", path, {"a": "b"}, 5), (tmp_path / "temporary", 2, None)]
        assert [model.version for model in engine.versions()] == [7]
        assert engine.model("m").config.max_batch_size == 5
        assert backend.contexts[-1].model_path.parent.parent.parent == tmp_path / "temporary"
        await engine.unload("m")
        await settle()
        assert list((tmp_path / "temporary").iterdir()) == []
    assert seen[2] == (
        "location can only be updated during TRITONREPOAGENT_ACTION_LOAD, current action type is "
        "TRITONREPOAGENT_ACTION_UNLOAD_COMPLETE"
    )


async def test_agents_of_a_configuration_that_came_with_the_load(virtual_time, repository, heard, with_agents):
    """Goal: an override's agents are asked, for uploaded files, too."""
    write_model(repository, "m")
    tensor = '[{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}]'
    override = (
        f'{{"backend": "fake", "input": {tensor}, "output": {tensor},'
        ' "model_repository_agents": {"agents": [{"name": "one"}]}}'
    )
    async with with_agents(one=Scripted("one", heard)) as engine:
        await engine.load("m", config=override)
        await engine.load("m", config=override, files={"2/model.x": b""})
        await settle()
        assert heard == [("one", action) for action in (LOAD, LOADED, LOAD, LOADED, UNLOAD, UNLOADED)]


@pytest.mark.parametrize("where", ["nowhere", "config.pbtxt"])
async def test_a_model_is_redirected_to_directories_only(virtual_time, repository, heard, with_agents, caplog, where):
    path = write(repository, "one")
    one = Scripted("one", heard, load=lambda model: model.update_location(path / where))
    async with with_agents(one=one) as engine:
        with pytest.raises(Internal, match=NOT_READ):
            await engine.load("m")
    assert f"redirected it to '{path / where}', which is no directory of this machine" in caplog.text


async def test_an_agent_that_is_not_installed(virtual_time, repository, with_agents, caplog):
    write(repository, "nobody")
    async with with_agents() as engine:
        with pytest.raises(Internal, match=NOT_READ):
            await engine.load("m")
    assert "unable to find 'libtritonrepoagent_nobody.so' for repo agent 'nobody', searched: /opt/" in caplog.text


async def test_an_agent_that_hangs(repository, backend, monkeypatch, heard):
    """Goal: the load fails in time, others are loaded meanwhile, and the agent hears of the end once it is back."""
    monkeypatch.setattr("despina.engine.repository.loading.READ_S_MIN", 0.2)
    back = threading.Event()
    write(repository, "one")
    write_model(repository, "n")
    one = Scripted("one", heard, load=lambda model: back.wait(30))
    async with despina.open_engine(
        repository,
        backends={"fake": backend},
        agents={"one": one},
        model_control_mode="explicit",
        model_load_timeout_secs=0.2,
    ) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.load, "n")
            with pytest.raises(Internal, match=NOT_READ):
                await engine.load("m")
        assert engine.is_model_ready("n")
        assert heard == [("one", LOAD)]
        back.set()
        with trio.fail_after(10):
            while len(heard) < 2:  # noqa: ASYNC110  # it comes from a thread
                await trio.sleep(0.01)
        assert heard[1] == ("one", FAILED)


def test_actions_follow_each_other_as_promised(tmp_path):
    """Goal: every pair of actions, against the list of those that may follow each other."""
    allowed = {(LOAD, LOADED), (LOAD, FAILED), (LOADED, UNLOAD), (UNLOAD, UNLOADED)}
    agent = Scripted("one", [])
    for before in AgentAction:
        for after in AgentAction:
            model = LoadedModel("m", {}, ModelConfig(), tmp_path)
            model.action = before
            if (before, after) in allowed:
                model.tell(agent, after)
            else:
                with pytest.raises(InvalidArgument) as caught:
                    model.tell(agent, after)
                assert caught.value.message == (
                    f"Unexpected lifecycle state transition from {before.value} to {after.value}"
                )
    model = LoadedModel("m", {}, ModelConfig(), tmp_path)
    with pytest.raises(InvalidArgument) as caught:
        model.tell(agent, UNLOAD)
    assert caught.value.message == "Unexpected lifecycle start state TRITONREPOAGENT_ACTION_UNLOAD"


def test_directories_are_released_once(tmp_path):
    model = LoadedModel("m", {}, ModelConfig(), tmp_path)
    path = model.acquire_directory()
    model.release_directory()
    assert not path.exists()
    with pytest.raises(NotFound):
        model.release_directory()


# --- The built-in agent


def checked(path, parameters):
    """What the checksum agent says of a model with these parameters."""
    model = LoadedModel("m", parameters, ModelConfig(), path)
    try:
        model.tell(Agents()._get("checksum"), LOAD)
    except Fault as fault:
        return type(fault), fault.message
    return None


def test_checksums(tmp_path):
    """Goal: each answer of the agent, in its words."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.x").write_bytes(b"weights")
    right = hashlib.md5(b"weights").hexdigest()
    path = tmp_path / "1" / "model.x"
    assert checked(tmp_path, {}) is None
    assert checked(tmp_path, {"MD5:1/model.x": right}) is None
    assert checked(tmp_path, {"md5:1/model.x": right}) is None
    for wrong in ("0" * 32, right.upper(), ""):
        assert checked(tmp_path, {"MD5:1/model.x": wrong}) == (
            InvalidArgument,
            f"Mismatched MD5 hash for file {path}, expect: {wrong}, got: {right}",
        )
    assert checked(tmp_path, {"1/model.x": right}) == (InvalidArgument, "failed to parse key: 1/model.x")
    assert checked(tmp_path, {"SHA256:1/model.x": right}) == (Unsupported, "Unsupported checksum algorithm: SHA256")
    assert checked(tmp_path, {"MD5:2/model.x": right}) == (
        Internal,
        f"failed to open text file for read {tmp_path}/2/model.x: No such file or directory",
    )
    assert checked(tmp_path, {"MD5:1": right}) == (
        Internal,
        f"failed to open text file for read {tmp_path}/1: Is a directory",
    )


async def test_a_model_with_checksums(virtual_time, repository, opened, caplog):
    """Goal: it serves while its files are right; changed, they are refused and the old ones go on serving."""
    write(repository, ("checksum", {"MD5:1/model.x": hashlib.md5(b"weights").hexdigest()}))
    file = repository / "m" / "1" / "model.x"
    file.write_bytes(b"weights")
    async with opened(model_control_mode="explicit") as engine:
        await engine.load("m")
        file.write_bytes(b"others")
        touch(file, 5)
        with pytest.raises(Internal, match=NOT_READ):
            await engine.load("m")
        assert "Mismatched MD5 hash for file" in caplog.text
        assert engine.is_model_ready("m")


def test_agents_come_from_entry_points(monkeypatch, tmp_path):
    """Goal: any installed package may bring one; it is made once."""

    class Entry:
        name = "mine"

        def load(self):
            return lambda: Scripted("mine", [])

    monkeypatch.setattr("despina.engine.repository.agents.entry_points", lambda group: [Entry()])
    agents = Agents()
    assert agents.loaded() == {}
    assert agents._get("mine") is agents._get("mine")
    assert list(agents.loaded()) == ["mine"]
