"""Virtual time and engines over the scripted backend."""

from __future__ import annotations

from contextlib import asynccontextmanager

import despina
import pytest
import trio
import trio.testing

from tests.fakes import FakeBackend, inline_run_sync


@pytest.fixture
def virtual_time(monkeypatch):
    """A clock that jumps to the next deadline whenever nothing can run; blocking work runs inline, or it would not be
    waited for."""
    monkeypatch.setattr(trio.to_thread, "run_sync", inline_run_sync)
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def repository(tmp_path):
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def opened(repository, backend):
    """`async with opened(**options) as engine`: an engine over `repository` with `backend`."""

    @asynccontextmanager
    async def open_it(**options):
        async with despina.open_engine(repository, backends={"fake": backend}, **options) as engine:
            yield engine

    return open_it
