"""Loads that change nothing but instances, or nothing at all: what serves is not opened again."""

import pytest
import trio
from despina.engine.model.version import ModelVersion
from despina.engine.repository.changes import only_configuration_differs, only_instances_differ
from despina.schema.fault import InvalidArgument
from despina.schema.wire.generated.inference import (
    ModelConfig,
    ModelInstanceGroup,
    ModelInstanceGroupKind,
    ModelVersionPolicy,
    ModelVersionPolicyLatest,
)

from tests.fakes import Keeper, request, touch, value_of, write_model

EXPLICIT = {"model_control_mode": "explicit"}


@pytest.fixture
def changes(monkeypatch):
    """What versions were told about their instances: (version, names), instead of their doing it."""
    told = []

    async def change(self, contexts, config):
        told.append((self.version, [context.name for context in contexts]))
        self.config = config

    monkeypatch.setattr(ModelVersion, "change_instances", change)
    return told


def rewrite(repository, seconds, **options):
    """Writes the model's configuration anew, and nothing else."""
    touch(write_model(repository, "m", versions=(), **options) / "config.pbtxt", seconds)


async def test_other_counts_change_instances_only(virtual_time, repository, backend, opened, changes):
    """Goal: the same version serves with more instances, then fewer; its statistics go on, and it says what it has."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        served = engine.model("m")
        await engine.infer_request(request())
        keeper = Keeper()
        engine.generation.keep(keeper)
        rewrite(repository, 1, instances=3)
        await engine.load("m")
        assert changes.pop() == (1, ["m_0_0", "m_0_1", "m_0_2"])
        assert [group.count for group in engine.model("m").config.instance_group] == [3]
        assert keeper.told, "doors remember configurations"
        rewrite(repository, 2, instances=1)
        await engine.load("m")
        assert changes.pop() == (1, ["m_0_0"])
        await engine.load("m")
        assert changes == []
        assert engine.model("m") is served
        assert served.statistics.success_count == 1
        assert backend.opened == [("m", 1)]


async def test_a_touched_configuration_that_says_the_same_reloads_nothing(
    virtual_time, repository, backend, opened, changes
):
    """Goal: a comment, or the same text once more, is no reason to open a model again; nor is the same override."""
    path = write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        rewrite(repository, 1, more="# hello")
        await engine.load("m")
        await engine.load("m", config=override(1))
        await engine.load("m", config=override(2))
        assert changes == [(1, ["m_0_0"]), (1, ["m_0_0"]), (1, ["m_0_0", "m_0_1"])]
        assert len(backend.opened) == 1
        touch(path / "1", 2)
        await engine.load("m")
        assert len(backend.opened) == 2


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_instances_come_and_go_under_load(repository, backend, opened, asynchronous):
    """Goal: real threads, nothing stubbed: requests that never stop coming are all answered while the same version gets
    three instances, then two; then those two are closed."""
    backend.asynchronous = asynchronous
    write_model(repository, "m", more="dynamic_batching {}")
    answered = []
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")

        async def call(value):
            answered.append(value_of(await engine.infer_request(request(value=value))) == value)

        async with trio.open_nursery() as nursery:
            for round_, count in enumerate((3, 2)):
                for value in range(50):
                    nursery.start_soon(call, value)
                rewrite(repository, 1 + round_, instances=count, more="dynamic_batching {}")
                await engine.load("m")
                assert backend.instances_open == count
        assert answered == [True] * 100
        assert backend.opened == [("m", 1)]
        assert {status.name for status in engine.status() if "instance" in status.name} == {
            "m:1 instance m_0_0",
            "m:1 instance m_0_1",
        }
        backend.instance_error = RuntimeError("no more memory")
        rewrite(repository, 4, instances=3, more="dynamic_batching {}")
        with pytest.raises(
            InvalidArgument, match="version 1 is at READY state: Internal: RuntimeError: no more memory"
        ):
            await engine.load("m")
        assert value_of(await engine.infer_request(request(value=5))) == 5
        assert engine.is_ready()
    assert backend.instances_open == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda path, write: write(max_batch_size=4, instances=2),
        lambda path, write: (write(instances=2), touch(path / "1", 1)),
        lambda path, write: (write(instances=2), (path / "labels.txt").write_text("a")),
        lambda path, write: (write(instances=2), (path / "2").mkdir()),
    ],
    ids=["another option", "a version's files", "another file", "a new version"],
)
async def test_anything_else_is_a_reload(virtual_time, repository, backend, opened, changes, change):
    """Goal: with a change beside the instances, a new version is opened and takes over."""
    path = write_model(repository, "m", versions=(1,))
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        change(path, lambda **options: rewrite(repository, 1, **options))
        await engine.load("m")
        assert changes == []
        assert len(backend.opened) == 2


async def test_uploaded_files_are_always_opened(virtual_time, repository, backend, opened, changes):
    """Goal: no times stand for uploaded files, so they are never taken for what serves; nor is a plain load after."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        for _ in range(2):
            await engine.load("m", config=override(1), files={"1/x": b""})
        await engine.load("m")
        assert changes == []
        assert len(backend.opened) == 4


async def test_a_change_that_fails_leaves_what_serves(virtual_time, repository, backend, opened, monkeypatch):
    """Goal: the load fails in the protocol's words, the index tells the reason of a version that is READY, and the next
    load tries again."""
    write_model(repository, "m")
    error = RuntimeError("no more memory")

    async def change(self, contexts, config):
        if error is not None:
            raise ExceptionGroup("opening", [error])

    monkeypatch.setattr(ModelVersion, "change_instances", change)
    reason = "Internal: RuntimeError: no more memory"
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        rewrite(repository, 1, instances=2)
        for _ in range(2):
            with pytest.raises(InvalidArgument) as caught:
                await engine.load("m")
            assert caught.value.message == (f"load failed for model 'm': version 1 is at READY state: {reason};\n")
        assert [(entry.state, entry.reason) for entry in await engine.index()] == [("READY", reason)]
        assert value_of(await engine.infer_request(request(value=5))) == 5
        error = None
        await engine.load("m")
        assert [(entry.state, entry.reason) for entry in await engine.index()] == [("READY", "")]
        assert backend.opened == [("m", 1)]


async def test_groups_that_this_machine_cannot_have_are_refused(virtual_time, repository, backend, opened, changes):
    """Goal: a GPU that is not there fails the change, not the model."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        with pytest.raises(InvalidArgument, match="version 1 is at READY state: Invalid argument: instance group"):
            await engine.load(
                "m", config=override(1).replace("KIND_CPU", "KIND_GPU").replace("}]}", ', "gpus": [7]}]}')
            )
        assert value_of(await engine.infer_request(request(value=5))) == 5
        assert changes == []


async def test_a_change_that_hangs_fails_in_time(virtual_time, repository, opened, monkeypatch):
    """Goal: new instances have as long to open as those of a load."""
    write_model(repository, "m")

    async def change(self, contexts, config):
        await trio.sleep_forever()

    monkeypatch.setattr(ModelVersion, "change_instances", change)
    async with opened(model_load_timeout_secs=60, **EXPLICIT) as engine:
        await engine.load("m")
        rewrite(repository, 1, instances=2)
        began = trio.current_time()
        with pytest.raises(InvalidArgument, match="the instances have not opened within 60 s"):
            await engine.load("m")
        assert trio.current_time() - began == 60
        assert value_of(await engine.infer_request(request(value=5))) == 5


def override(count):
    """The configuration of `write_model`, in JSON, with that many instances."""
    return (
        '{"backend": "fake", "max_batch_size": 8, "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}], '
        '"output": [{"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]}], '
        f'"instance_group": [{{"count": {count}, "kind": "KIND_CPU"}}]}}'
    )


def group(**options):
    return [ModelInstanceGroup(kind=ModelInstanceGroupKind.CPU, **options)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, True),
        ({"instance_group": group(count=1)}, {"instance_group": group(count=2)}, True),
        ({"instance_group": group(count=1)}, {}, True),
        ({}, {"version_policy": ModelVersionPolicy(latest=ModelVersionPolicyLatest(num_versions=1))}, True),
        ({"max_batch_size": 1}, {"max_batch_size": 2}, False),
        ({"instance_group": group(count=1)}, {"instance_group": group(count=1), "backend": "x"}, False),
        ({}, {"default_model_filename": "x"}, False),
    ],
)
def test_configurations_that_differ_in_instances_only(old, new, expected):
    """Goal: groups and version policy may differ, nothing else; the configurations themselves are not touched."""
    first, second = ModelConfig(name="m", **old), ModelConfig(name="m", **new)
    assert only_instances_differ(first, second) is expected
    assert (first, second) == (ModelConfig(name="m", **old), ModelConfig(name="m", **new))


@pytest.mark.parametrize(
    ("known", "times", "expected"),
    [
        ({"": 1, "config.pbtxt": 1, "1": 1}, {"": 2, "config.pbtxt": 2, "1": 1}, True),
        ({"": 1, "1": 1}, {"": 2, "configs": 2, "1": 1}, True),
        ({"": 1, "1": 1}, {"": 1, "1": 2}, False),
        ({"": 1, "1": 2}, {"": 1, "1": 1}, False),
        ({"": 1, "1": 1}, {"": 1, "1": 1, "2": 1}, False),
        ({"": 1, "1": 1, "labels.txt": 1}, {"": 1, "1": 1}, False),
        ({}, {}, False),
        ({}, {"": 1}, False),
    ],
)
def test_files_beside_the_configuration(known, times, expected):
    """Goal: versions and files are compared, older or newer; the directory's own time and unknown times are not."""
    assert only_configuration_differs(times, known) is expected
