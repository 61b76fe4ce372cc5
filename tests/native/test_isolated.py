"""Backends in C++ in processes of their own: `native_isolation`."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import trio
from despina.engine.port.settings import Restart
from despina.native.pages import merged, metrics_page
from despina.schema.fault import ExecutorDied, Internal, InvalidArgument, Unavailable

from tests.native.conftest import SOURCES, TENSORS, compile_plugin
from tests.native.test_backends import ADDING, COUNTDOWN, failing

ISOLATED = ' parameters { key: "native_isolation" value { string_value: "process" } } '
IDENTITY = 'backend: "identity" max_batch_size: 8 dynamic_batching {}' + ISOLATED + TENSORS.format("TYPE_FP32")
CRASHING = 'backend: "crashing" max_batch_size: 0' + ISOLATED + TENSORS.format("TYPE_INT8")
REPEATING = """
backend: "repeating" max_batch_size: 4
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
sequence_batching {
  iterative_sequence: true
  state [ { input_name: "OLD" output_name: "NEW" data_type: TYPE_INT32 dims: [ 1 ]
            initial_state: { name: "zero" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ]
}
"""
SOURCE = Path(__file__).with_name("repeating.cc")
SEGFAULT, ABORT, EXIT, HANG = ({"INPUT0": np.array([ending, 7], np.int8)} for ending in (1, 2, 3, 4))
FINE = {"INPUT0": np.array([0, 7], np.int8)}
SOON = Restart(backoff_min_s=0.02)


def named(how):
    return f"The process of model 'crashing', instance 'crashing_0', is not healthy: it {how}"


@pytest.fixture(autouse=True)
def of_others():
    """The processes that were there before the test."""
    OTHERS[:] = []
    OTHERS[:] = children()


OTHERS: list[str] = []


def children():
    """The processes that this one has, and theirs, but for the one that forks them; those of the test alone."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            found += (Path("/proc") / child / "task" / child / "children").read_text().split()
    return [process for process in found if process not in OTHERS]


def called(process):
    return Path("/proc", process, "comm").read_text().strip()


async def until(condition):
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # of processes there is no event
            await trio.sleep(0.02)


async def test_answers_byte_for_byte_and_shares_batches(repository, opened, caplog):
    """Goal: outputs are the inputs' bytes, small and large; requests share executions, timed by the backend; what the
    library logs is in the server's log."""
    repository("identity", IDENTITY)
    with caplog.at_level(logging.INFO, "despina"):
        async with opened() as engine:
            arrays = [np.full((1, size), size, np.float32) for size in (1, 4, 4, 4, 300_000)]

            async def ask(index):
                result = await engine.infer("identity", {"INPUT0": arrays[index]})
                np.testing.assert_array_equal(result["OUTPUT0"], arrays[index])

            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for index in range(len(arrays)):
                        nursery.start_soon(ask, index)
            (statistics,) = engine.statistics("identity")
            assert statistics.inference_count == 10
            assert statistics.execution_count < 10
            assert statistics.inference_stats.compute_infer.ns > 0
    assert "identity is there" in caplog.text


async def test_a_crash_costs_one_batch(repository, opened):
    """Goal: whoever is in the batch reads which model, which instance and which signal; a neighbour goes on; the model
    is not ready meanwhile; a new process serves, and of the old one nothing is left."""
    repository("crashing", CRASHING)
    repository("identity", IDENTITY)
    async with opened(restart=SOON) as engine:
        files = len(os.listdir("/proc/self/fd"))
        for request, how in (
            (SEGFAULT, "was ended by SIGSEGV"),
            (ABORT, "was ended by SIGABRT"),
            (EXIT, "exited with status 3"),
        ):
            assert (await engine.infer("crashing", FINE))["OUTPUT0"].tolist() == [0, 7]
            with pytest.raises(ExecutorDied, match=named(how)):
                await engine.infer("crashing", request)
            assert not engine.is_model_ready("crashing")
            result = await engine.infer("identity", {"INPUT0": np.ones((1, 2), np.float32)})
            assert result["OUTPUT0"].tolist() == [[1, 1]]
            await until(lambda: engine.is_model_ready("crashing"))
        assert len(os.listdir("/proc/self/fd")) <= files
        assert len(children()) == 2
    await until(lambda: not children())


async def test_a_setting_of_the_backend_isolates_all_of_its_models(repository, opened):
    """Goal: no configuration needs to be changed; a model's own parameter goes first."""
    repository("crashing", CRASHING.replace(ISOLATED, ""))
    repository("here", CRASHING.replace("process", "none"))
    async with opened(backend_config={"crashing": {"native_isolation": "process"}}) as engine:
        (process,) = children()
        assert called(process) == "crashing_0"
        with pytest.raises(ExecutorDied, match=named("was ended by SIGSEGV")):
            await engine.infer("crashing", SEGFAULT)
        assert (await engine.infer("here", FINE))["OUTPUT0"].tolist() == [0, 7]


async def test_a_process_that_somebody_else_ends(repository, opened):
    """Goal: the kernel's out-of-memory killer, say, while nothing executes: a new one comes by itself."""
    repository("crashing", CRASHING)
    async with opened(restart=SOON) as engine:
        (process,) = children()
        assert called(process) == "crashing_0"
        os.kill(int(process), signal.SIGKILL)
        await until(lambda: not engine.is_model_ready("crashing"))
        assert any("SIGKILL" in problem for problem in engine.health().problems)
        await until(lambda: engine.is_model_ready("crashing"))
        assert (await engine.infer("crashing", FINE))["OUTPUT0"].tolist() == [0, 7]


async def test_an_execution_that_hangs_is_ended(repository, opened):
    limit = ' parameters { key: "DESPINA_EXECUTION_SECONDS_MAX" value { string_value: "0.3" } }'
    repository("crashing", CRASHING + limit)
    async with opened(restart=SOON) as engine:
        with pytest.raises(ExecutorDied, match=named("was ended, for one execution took longer than 0.3 s")):
            await engine.infer("crashing", HANG)


async def test_a_crash_while_it_initializes_fails_the_load(repository, opened):
    repository("crashing", CRASHING + 'parameters { key: "crashes" value { string_value: "initialize" } }')
    async with opened(load_model=()) as engine:
        text = "The process of model 'crashing' is not healthy: it was ended by SIGSEGV"
        with pytest.raises(InvalidArgument, match=text):
            await engine.load("crashing")


async def test_what_fails_without_a_crash_is_told_as_in_the_servers_process(repository, opened):
    for where in ("initialize", "instance", "execute", "silence"):
        repository(where, failing(where) + ISOLATED)
    repository("wrong", failing("request") + ISOLATED.replace("process", "thread"))
    async with opened(load_model=("execute", "silence")) as engine:
        for name, text in (
            ("initialize", "Unavailable: the model does not initialize"),
            ("instance", "Unavailable: the instance does not initialize"),
            ("wrong", "native_isolation must be 'none' or 'process', got 'thread'"),
        ):
            with pytest.raises(InvalidArgument, match=text):
                await engine.load(name)
        for name, text in (
            ("execute", "nothing of the batch is executed"),
            ("silence", "the backend let go of the request without a final response"),
        ):
            for _ in range(2):
                with pytest.raises((Unavailable, Internal), match=text):
                    await engine.infer(name, {"INPUT0": np.zeros((1, 3), np.int8)})


async def test_streams_states_completion_and_late_answers(repository, opened):
    """Goal: everything that a library can do in the server's process, it can do in its own."""
    repository("countdown", COUNTDOWN + ISOLATED)
    repository("adding", ADDING + ISOLATED)
    repository("late", 'backend: "late"' + ISOLATED + TENSORS.format("TYPE_INT8"))
    repository("completing", 'backend: "completing"' + ISOLATED, version="7")
    async with opened() as engine:

        async def count(number):
            answers = engine.stream("countdown", {"COUNT": np.array([number], np.int32)})
            assert [int(result["INDEX"][0]) async for result in answers] == list(range(number))[::-1]

        async def ask(number):
            result = await engine.infer("late", {"INPUT0": np.full(3, number, np.int8)})
            assert list(result["OUTPUT0"]) == [number] * 3
            assert result.parameters == {"late": "yes"}

        async with trio.open_nursery() as nursery:
            for number in (0, 1, 5, 60):
                nursery.start_soon(count, number)
                nursery.start_soon(ask, number)
        sums = []
        for value in (1, 2, 3):
            given = {"VALUE": np.array([[value]], np.int32)}
            asked = {"sequence_id": 9, "sequence_start": value == 1, "sequence_end": value == 3}
            sums.append(int((await engine.infer("adding", given, **asked))["SUM"][0, 0]))
        assert sums == [1, 3, 6]
        config = engine.model("completing").config
        assert (config.max_batch_size, config.dynamic_batching.preferred_batch_size) == (4, [4])
        result = await engine.infer("completing", {"INPUT0": np.zeros((1, 3), np.int8)})
        words = result["OUTPUT0"][0, 0].decode().split()
        assert words == ["completing", "completing", "7", "completing_0", str(repository.path / "completing")]


@pytest.mark.parametrize("isolation", ["", ISOLATED])
async def test_requests_that_are_executed_again(repository, opened, include, backend_directory, isolation):
    """Goal: a request that is released for another execution comes back with its state, until it is answered."""
    library = backend_directory / "repeating" / "libtriton_repeating.so"
    if not library.exists():
        await trio.to_thread.run_sync(compile_plugin, SOURCE, library, include, SOURCES)
    repository("repeating", REPEATING + isolation)
    async with opened() as engine:

        async def ask(count):
            result = await engine.infer("repeating", {"IN": np.array([[count]], np.int32)})
            assert int(result["OUT"][0, 0]) == count

        async with trio.open_nursery() as nursery:
            for count in (1, 2, 5, 3):
                nursery.start_soon(ask, count)
        assert engine.statistics("repeating")[0].inference_stats.success.count == 4


async def test_a_stream_whose_caller_leaves_ends(repository, opened):
    """Goal: the library learns of it, in its process: unloading waits for its thread, and it comes."""
    repository("countdown", COUNTDOWN + ISOLATED)
    async with opened() as engine:
        answers = engine.stream("countdown", {"COUNT": np.array([4_000_000], np.int32)})
        await anext(answers)
        await answers.aclose()
        with trio.fail_after(20):
            await engine.stop()
    await until(lambda: not children())


async def test_a_crash_ends_streams_that_are_under_way(repository, opened):
    repository("countdown", COUNTDOWN + ISOLATED)
    async with opened(restart=SOON) as engine:
        answers = engine.stream("countdown", {"COUNT": np.array([4_000_000], np.int32)})
        await anext(answers)
        (process,) = children()
        os.kill(int(process), signal.SIGSEGV)
        with (
            trio.fail_after(20),
            pytest.raises(ExecutorDied, match="model 'countdown', instance 'countdown_0', is not"),
        ):
            async for _ in answers:
                pass


async def test_metrics_of_a_library_are_on_the_servers_page(repository, opened):
    """Goal: those of all its processes, added up; they go with the processes."""
    repository("identity", IDENTITY + "instance_group [ { count: 2 } ]")
    repository("other", IDENTITY)
    async with opened() as engine:
        assert b"identity_batches 0\n" in metrics_page()
        for number in range(6):
            await engine.infer(("identity", "other")[number % 2], {"INPUT0": np.ones((1, 2), np.float32)})
        await until(lambda: b"identity_batches 6\n" in metrics_page())
        assert metrics_page().count(b"# TYPE identity_batches counter\n") == 1
    assert b"identity_batches" not in metrics_page()


def test_pages_are_merged():
    head = "# HELP {0} Of {0}.\n# TYPE {0} {1}\n"
    one = head.format("a", "counter") + 'a{x="1 2"} 3\n' + head.format("b", "gauge") + "b 0.5\n"
    two = head.format("b", "gauge") + "b 7\n" + head.format("a", "counter") + 'a{x="1 2"} 4.5\na{x="3"} 1\n'
    expected = head.format("a", "counter") + 'a{x="1 2"} 7.5\na{x="3"} 1\n' + head.format("b", "gauge") + "b 7\n"
    assert merged([one, two]) == expected
    assert merged([one]) == one


@pytest.mark.parametrize("isolation", ["", ISOLATED])
async def test_a_library_says_whether_it_is_ready(repository, opened, isolation):
    """Goal: `ModelInstanceReady` counts as `is_ready` of Python models does; it keeps no request away."""
    repository("failing", failing("unready") + isolation)
    repository("other", failing("request") + isolation)
    async with opened() as engine:
        assert engine.is_model_ready("failing")
        assert not await engine.says_ready("failing")
        assert await engine.says_ready("other")
        with pytest.raises(Unavailable, match="this request is not answered"):
            await engine.infer("failing", {"INPUT0": np.zeros((1, 3), np.int8)})
