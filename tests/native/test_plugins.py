"""Repository agents and response caches in C++: examples/native."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import trio
from despina.schema.fault import Internal, InvalidArgument

from tests.native.conftest import SOURCES, TENSORS, compile_plugin

IDENTITY = 'backend: "identity" max_batch_size: 8' + TENSORS.format("TYPE_FP32")


def stamped(stamp, key="stamp"):
    agent = f'name: "stamping" parameters {{ key: "{key}" value: "{stamp}" }}'
    return IDENTITY + f"model_repository_agents {{ agents [ {{ {agent} }} ] }}"


@pytest.fixture(scope="session")
def repoagent_directory(include, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repoagents")
    compile_plugin(SOURCES / "stamping.cc", folder / "stamping" / "libtritonrepoagent_stamping.so", include)
    return str(folder)


@pytest.fixture(scope="session")
def cache_directory(include, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    compile_plugin(SOURCES / "keeping.cc", folder / "keeping" / "libtritoncache_keeping.so", include)
    return str(folder)


async def test_an_agent_refuses_and_brings_files(repository, opened, repoagent_directory, caplog):
    """Goal: what the agent says refuses the load; where it has put the files, they are read from, until the unload.
    What it logs is in the log."""
    caplog.set_level(logging.INFO, "despina")
    repository("good", stamped("valid"))
    repository("bad", stamped("forged"))
    repository("lost", IDENTITY + 'model_repository_agents { agents [ { name: "nobody" } ] }')
    async with opened(load_model=(), repoagent_directory=repoagent_directory) as engine:
        for _ in range(2):
            await engine.load("good")
            result = await engine.infer("good", {"INPUT0": np.ones((1, 1), np.float32)})
            assert result["OUTPUT0"][0, 0] == 1
            await engine.unload("good")
        assert "a valid stamp" in caplog.text
        for name, text in (
            ("bad", "the model's stamp is not valid"),
            ("lost", "unable to find 'libtritonrepoagent_nobody.so' for repo agent 'nobody', searched: "),
        ):
            with pytest.raises(Internal, match=f"failed to load '{name}', failed to poll from model repository"):
                await engine.load(name)
            assert text in caplog.text
    assert not (repository.path / "good" / "stamp.txt").exists()


async def test_a_cache_keeps_answers(repository, opened, cache_directory):
    """Goal: once an answer is kept, equal requests are not executed; another one is; the bytes are the same."""
    repository("identity", IDENTITY + "response_cache { enable: true }")
    options = {"cache_directory": cache_directory, "cache_config": {"keeping": {"color": "blue"}}}
    async with opened(**options) as engine:
        asked = 0

        async def ask(value):
            nonlocal asked
            asked += 1
            given = np.full((1, 50_000), value, np.float32)
            result = await engine.infer("identity", {"INPUT0": given})
            np.testing.assert_array_equal(result["OUTPUT0"], given)
            return engine.statistics("identity")[0]

        with trio.fail_after(20):
            while (await ask(1)).inference_stats.cache_hit.count == 0:
                pass  # the library is asked by a thread: an answer is kept after it was given
        statistics = await ask(2)
        assert statistics.inference_stats.cache_hit.count == 1
        assert statistics.inference_count == asked - 1


async def test_a_cache_that_does_not_open_keeps_the_engine_from_starting(repository, opened, cache_directory):
    repository("identity", IDENTITY)
    for config, text in (
        ({"keeping": {}}, "the cache must be blue"),
        ({"nobody": {}}, "unable to find cache 'nobody'"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            async with opened(cache_directory=cache_directory, cache_config=config):
                pass
