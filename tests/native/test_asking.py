"""What libraries ask the server that has loaded them, where no C program has made it: `TRITONBACKEND_ModelServer`."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import trio
from despina.frontends.log_settings import LogSettings
from despina.native.loading import extension
from despina.native.messages import levels_changed
from despina.schema.fault import Internal, NotFound, Unavailable, Unsupported

from tests.native.conftest import SOURCES, TENSORS, compile_plugin
from tests.native.test_backends import COUNTDOWN, failing

ISOLATED = ' parameters { key: "native_isolation" value { string_value: "process" } } '
IDENTITY = 'backend: "identity" max_batch_size: 8' + TENSORS.format("TYPE_INT8")
CONTROLS = 'backend: "controls" max_batch_size: 0' + TENSORS.format("TYPE_STRING")


def asking(asked, more=""):
    parameter = f'parameters {{ key: "asks" value {{ string_value: "{asked}" }} }}'
    return f'backend: "asking" max_batch_size: 8 instance_group [ {{ count: 2 }} ] {parameter} {more}' + TENSORS.format(
        "TYPE_INT8"
    )


@pytest.fixture(scope="session")
def controls(include, backend_directory):
    library = backend_directory / "controls" / "libtriton_controls.so"
    compile_plugin(SOURCES.parents[1] / "tests" / "native" / "controls.cc", library, include, SOURCES)


@pytest.mark.parametrize("isolation", ["", ISOLATED])
async def test_models_ask_other_models(repository, opened, isolation):
    """Goal: answers come byte for byte, from many threads at one time; chains of models; errors keep code and text. All
    of it also in processes of the models' own."""
    repository("identity", IDENTITY)
    repository("asking", asking("identity", isolation))
    repository("chain", asking("asking", isolation))
    repository("of_nobody", asking("nobody", isolation))
    repository("of_failing", asking("failing", isolation))
    repository("failing", failing("request"))
    async with opened() as engine:

        async def ask(name, number):
            given = np.full((1, 40_000), number, np.int8)
            np.testing.assert_array_equal((await engine.infer(name, {"INPUT0": given}))["OUTPUT0"], given)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, ("asking", "chain")[number % 2], number)
        given = {"INPUT0": np.zeros((1, 3), np.int8)}
        with pytest.raises(NotFound, match="Request for unknown model: 'nobody' is not found"):
            await engine.infer("of_nobody", given)
        with pytest.raises(Unavailable, match="this request is not answered"):
            await engine.infer("of_failing", given)
        assert engine.statistics("identity")[0].inference_count == 10


@pytest.mark.usefixtures("controls")
@pytest.mark.parametrize("isolation", ["", ISOLATED])
async def test_libraries_ask_about_models_and_load_them(repository, opened, isolation):
    """Goal: what the C API tells a program, it tells a library; what is the program's alone is refused by name."""
    repository("controls", CONTROLS + isolation)
    repository("identity", IDENTITY)
    repository("countdown", COUNTDOWN)
    repository("unready", failing("unready"))
    async with opened(load_model=("controls", "unready", "countdown")) as engine:

        async def ask(words):
            return (await engine.infer("controls", {"INPUT0": np.array([words], object)}))["OUTPUT0"][0].decode()

        assert await ask("count 100") == "100"
        assert await ask("live ") == "true"
        assert await ask("ready ") == "true"
        assert await ask("model-ready identity") == "false"
        assert await ask("load identity") == ""
        assert await ask("model-ready identity") == "true"
        assert await ask("model-ready unready") == "false"
        assert await ask("decoupled identity") == "false"
        assert await ask("batches identity") == "true"
        assert json.loads(await ask("metadata "))["name"] == "triton"
        assert json.loads(await ask("model-metadata identity"))["versions"] == ["1"]
        assert json.loads(await ask("config identity"))["max_batch_size"] == 8
        assert json.loads(await ask("statistics controls"))["model_stats"][0]["inference_count"] > 5
        names = {"controls", "identity", "unready", "countdown"}
        assert {model["name"] for model in json.loads(await ask("index "))} == names
        assert 'nv_inference_count{model="controls",version="1"}' in await ask("metrics ")
        assert await ask("unload identity") == ""
        with pytest.raises(NotFound, match="'identity' has no available versions"):
            await ask("config identity")
        with pytest.raises(Internal, match="failed to load 'nobody', failed to poll from model repository"):
            await ask("load nobody")
        with pytest.raises(Unsupported, match="a library cannot stop it"):
            await ask("stop ")
        with pytest.raises(Unavailable, match="poll"):
            await ask("poll ")


@pytest.mark.parametrize("isolation", ["", ISOLATED])
async def test_what_is_under_way_may_still_ask_while_the_engine_stops(repository, opened, isolation):
    """Goal: requests that were accepted are answered, though the models that they need are to go, too."""
    repository("late", 'backend: "late" max_batch_size: 8' + TENSORS.format("TYPE_INT8"))
    repository("asking", asking("late", isolation))
    answered = 0
    async with opened() as engine:

        async def ask():
            nonlocal answered
            await engine.infer("asking", {"INPUT0": np.zeros((8, 3), np.int8)})
            answered += 1

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
            await trio.sleep(0.03)
            await engine.stop()
    assert answered == 8


async def test_what_is_made_for_libraries_goes_with_the_engine(repository, opened):
    """Goal: engines that come and go leave no threads behind."""
    repository("identity", IDENTITY)
    repository("asking", asking("identity"))
    counts = []
    for _ in range(3):
        async with opened() as engine:
            await engine.infer("asking", {"INPUT0": np.zeros((1, 3), np.int8)})
        del engine
        gc.collect()
        counts.append(len([thread for thread in threads() if thread.startswith("despina/answers")]))
    assert counts[0] == counts[-1]


def test_libraries_know_which_lines_are_written(native):
    """Goal: `LogIsEnabled` follows the server's settings, also while it runs."""
    extension()
    asked = ctypes.CDLL(str(native / "lib" / "libtritonserver.so")).TRITONSERVER_LogIsEnabled
    asked.restype = ctypes.c_bool
    logger = logging.getLogger("despina")
    before = logger.level
    try:
        for verbose in (1, 0):
            LogSettings(verbose=verbose).take_effect()
            assert [asked(level) for level in range(5)] == [True, True, True, bool(verbose), False]
    finally:
        logger.setLevel(before)
        levels_changed()


def threads():
    return [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
