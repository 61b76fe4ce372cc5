"""The repository's channel: how many commands run, how many wait, and what everybody hears."""

import pytest
import trio
from despina.engine.repository.commands import COMMANDS_MAX, COMMANDS_RUNNING_MAX
from despina.engine.repository.loading import Loading
from despina.schema.fault import ShuttingDown, Unavailable

from tests.fakes import write_model


class Held:
    def __init__(self):
        self.names = []
        """Of the loads that have begun."""
        self.let_go = trio.Event()


@pytest.fixture
def held(monkeypatch):
    """Loads do nothing until they are let go."""
    held = Held()

    async def read(self, name, config, files, *, again):
        held.names.append(name)
        await held.let_go.wait()

    monkeypatch.setattr(Loading, "read", read)
    return held


async def test_commands_are_bounded(virtual_time, opened, held):
    """Goal: so many run, so many wait, and the next sender is refused at once; then all are carried out."""
    outcomes = []

    async def load(engine, number):
        try:
            await engine.load(f"m{number}")
            outcomes.append("loaded")
        except Unavailable as fault:
            outcomes.append(fault.message)

    async with opened(model_control_mode="explicit") as engine:
        status = lambda: engine.status()[0]  # noqa: E731
        assert (status().doing, status().depth, status().oldest_s) == ("waits for commands", 0, 0)
        async with trio.open_nursery() as nursery:
            for number in range(COMMANDS_RUNNING_MAX + 3):
                nursery.start_soon(load, engine, number)
            await trio.sleep(2)
            assert len(held.names) == COMMANDS_RUNNING_MAX
            now = status()
            assert (now.depth, now.facts["running"]) == (COMMANDS_RUNNING_MAX + 3, COMMANDS_RUNNING_MAX)
            assert (now.bound, now.oldest_s) == (COMMANDS_MAX + COMMANDS_RUNNING_MAX, 2)
            assert {f"load {name}" for name in held.names} == set(now.doing.split(", "))
            for number in range(COMMANDS_RUNNING_MAX + 3, COMMANDS_MAX + COMMANDS_RUNNING_MAX + 5):
                nursery.start_soon(load, engine, number)
            await trio.testing.wait_all_tasks_blocked()
            assert status().depth == status().bound
            assert outcomes == [f"{COMMANDS_MAX} commands wait for the model repository already; try again later"] * 5
            held.let_go.set()
        assert outcomes[5:] == ["loaded"] * (COMMANDS_MAX + COMMANDS_RUNNING_MAX)
        assert status().depth == 0


async def test_polls_that_fill_every_place_do_not_wait_for_themselves(virtual_time, repository, opened):
    """Goal: the loads of a poll need no place of their own."""
    async with opened(model_control_mode="poll", repository_poll_secs=0) as engine:
        for number in range(3):
            write_model(repository, f"m{number}")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(2 * COMMANDS_RUNNING_MAX):
                    nursery.start_soon(engine.poll)
        assert len(list(engine.versions())) == 3


async def test_commands_that_were_never_taken_are_answered(virtual_time, opened, held):
    """Goal: when the engine goes, so do they: nobody waits for ever."""
    heard = []

    async def load(engine, number):
        try:
            await engine.load(f"m{number}")
        except ShuttingDown as fault:
            heard.append(fault.message)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, opened(model_control_mode="explicit") as engine:
            for number in range(COMMANDS_RUNNING_MAX + 3):
                nursery.start_soon(load, engine, number)
            await trio.testing.wait_all_tasks_blocked()
    assert heard == ["Server not ready"] * (COMMANDS_RUNNING_MAX + 3)


async def test_a_start_with_more_models_than_places(virtual_time, repository, opened):
    """Goal: the bounds are on senders, not on how many models there may be."""
    count = COMMANDS_MAX + COMMANDS_RUNNING_MAX + 10
    for number in range(count):
        write_model(repository, f"m{number}")
    async with opened() as engine:
        assert len(list(engine.versions())) == count
