"""Versions that end by themselves: after they have opened, before or after they are put in service."""

import pytest
import trio
from despina.engine.model.version import ModelVersion
from despina.schema.fault import InvalidArgument, NotFound

from tests.fakes import request, touch, value_of, write_model


@pytest.fixture
def ends(monkeypatch):
    """(model, version) -> an event; once it is set, that version's actor ends with an error."""
    events = {}
    run = ModelVersion.run

    async def run_until(self, task_status):
        event = events.get((self.name, self.version))
        if event is None:
            await run(self, task_status)
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(run, self)
            task_status.started()
            await event.wait()
            raise RuntimeError("no instance is left")

    monkeypatch.setattr(ModelVersion, "run", run_until)
    return events


async def test_a_version_that_ends_before_the_swap_is_not_served(
    virtual_time, repository, backend, opened, ends, monkeypatch
):
    """Goal: version 1 has opened and ends while version 2 is still being opened: the load fails, with its reason, and
    what served goes on serving."""
    path = write_model(repository, "m", versions=(1, 2), more="version_policy { all {} }")
    async with opened(model_control_mode="explicit") as engine:
        await engine.load("m")
        ends["m", 1] = trio.Event()
        gate = trio.Event()
        run = ModelVersion.run

        async def run_late(self, task_status):
            if self.version == 2:
                await gate.wait()
            await run(self, task_status)

        monkeypatch.setattr(ModelVersion, "run", run_late)
        touch(path / "1", 1)
        faults = []

        async def load():
            with pytest.raises(InvalidArgument) as caught:
                await engine.load("m")
            faults.append(caught.value.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            ends["m", 1].set()
            await trio.testing.wait_all_tasks_blocked()
            assert faults == []
            gate.set()
        assert faults == [
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: RuntimeError: no instance is "
            "left;\n"
        ]
        assert [(model.version, model.accepting) for model in engine.versions()] == [(1, True), (2, True)]
        assert value_of(await engine.infer_request(request(value=3, model_version=1))) == 3
    assert sorted(backend.opened) == sorted(backend.closed)


async def test_a_version_that_ends_in_service_is_taken_out(virtual_time, repository, backend, opened, ends):
    """Goal: look-ups do not find it, the index says why, and a load brings it back."""
    write_model(repository, "m")
    ends["m", 1] = trio.Event()
    async with opened(model_control_mode="explicit") as engine:
        await engine.load("m")
        ends.pop(("m", 1)).set()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NotFound):
            await engine.infer_request(request())
        (entry,) = await engine.index()
        assert (entry.state, entry.reason) == ("UNAVAILABLE", "Internal: RuntimeError: no instance is left")
        await engine.load("m")
        assert value_of(await engine.infer_request(request(value=3))) == 3


@pytest.mark.parametrize("opens", [True, False])
async def test_what_serves_ends_while_its_successor_opens(
    virtual_time, repository, backend, opened, ends, monkeypatch, opens
):
    """Goal: the successor serves all the same; if it does not open, the index says why."""
    path = write_model(repository, "m")
    ends["m", 1] = trio.Event()
    async with opened(model_control_mode="explicit") as engine:
        await engine.load("m")
        predecessor_ends = ends.pop(("m", 1)).set
        touch(path / "1", 1)
        gate, run = trio.Event(), ModelVersion.run

        async def run_late(self, task_status):
            await gate.wait()
            if not opens:
                raise RuntimeError("no memory")
            await run(self, task_status)

        monkeypatch.setattr(ModelVersion, "run", run_late)
        faults = []

        async def load():
            try:
                await engine.load("m")
            except InvalidArgument as fault:
                faults.append(fault.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            predecessor_ends()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        (entry,) = await engine.index()
        if opens:
            assert (faults, entry.state) == ([], "READY")
            assert value_of(await engine.infer_request(request(value=3))) == 3
        else:
            assert "version 1 is at UNAVAILABLE state: Internal: RuntimeError: no memory" in faults[0]
            assert (entry.state, entry.reason) == ("UNAVAILABLE", "Internal: RuntimeError: no memory")


async def test_polls_leave_what_has_ended_alone(virtual_time, repository, backend, opened, ends):
    """Goal: a model whose actor has ended in error is not started again at each poll, but when its files change."""
    path = write_model(repository, "m")
    ends["m", 1] = trio.Event()
    async with opened(model_control_mode="poll", repository_poll_secs=60) as engine:
        ends.pop(("m", 1)).set()
        await trio.sleep(601)
        assert (list(engine.versions()), len(backend.opened)) == ([], 1)
        touch(path / "1", 1)
        await trio.sleep(60)
        assert value_of(await engine.infer_request(request(value=3))) == 3
