"""The repository index: what is in the directories now, without holding up anybody."""

import threading

import pytest
import trio
from despina.engine.repository.repositories import Repositories

from tests.fakes import request, value_of, write_model


async def names(engine):
    return [entry.name for entry in await engine.index()]


async def test_directories_are_read_off_the_trio_thread(repository, opened, monkeypatch):
    """Goal: real threads: while the file system hangs, requests are answered and whoever waits may leave."""
    write_model(repository, "m")
    held, entered = threading.Event(), threading.Event()
    look = Repositories.names

    def hang(self):
        entered.set()
        assert held.wait(30)
        return look(self)

    async with opened() as engine:
        monkeypatch.setattr(Repositories, "names", hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.index)
            await trio.to_thread.run_sync(entered.wait)
            assert value_of(await engine.infer_request(request(value=4))) == 4
            nursery.cancel_scope.cancel()
        assert not held.is_set()
        held.set()


@pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
async def test_new_directories_are_seen_at_once(virtual_time, repository, opened, mode):
    """Goal: the index is no memory of an earlier look, whatever the mode; no load is needed in between."""
    write_model(repository, "a")
    async with opened(model_control_mode=mode) as engine:
        assert await names(engine) == ["a"]
        write_model(repository, "b")
        assert await names(engine) == ["a", "b"]
        (repository / "b").rename(repository.parent / "elsewhere")
        assert await names(engine) == ["a"]
