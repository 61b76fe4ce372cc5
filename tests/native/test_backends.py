"""Backends in C++, unmodified libraries, under the engine: examples/native."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import trio
from despina.schema.fault import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ModelFailure,
    NotFound,
    Unavailable,
    Unsupported,
)

from tests.native.conftest import SOURCES, TENSORS, compile_plugin

IDENTITY = 'backend: "identity" max_batch_size: 8 dynamic_batching {}' + TENSORS.format("TYPE_FP32")
COUNTDOWN = """
backend: "countdown" max_batch_size: 0 model_transaction_policy { decoupled: true }
input [ { name: "COUNT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "INDEX" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
ADDING = """
backend: "adding" max_batch_size: 1
input [ { name: "VALUE" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "SUM" data_type: TYPE_INT32 dims: [ 1 ] } ]
sequence_batching {
  state [ { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_INT32 dims: [ 1 ]
            initial_state: { name: "zero" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ]
}
"""


def failing(where):
    parameter = f'parameters {{ key: "fails" value {{ string_value: "{where}" }} }}'
    return f'backend: "failing" max_batch_size: 4 dynamic_batching {{}} {parameter}' + TENSORS.format("TYPE_INT8")


async def test_answers_byte_for_byte_and_shares_batches(repository, opened):
    """Goal: outputs are the inputs' bytes, small and large; requests share executions, timed by the backend."""
    repository("identity", IDENTITY)
    repository("waits", IDENTITY.replace("{}", "{ preferred_batch_size: 3 max_queue_delay_microseconds: 9000000 }", 1))
    async with opened() as engine:

        async def ask(model, array):
            np.testing.assert_array_equal((await engine.infer(model, {"INPUT0": array}))["OUTPUT0"], array)

        for size in (1, 300_000):
            await ask("identity", np.full((1, size), size, np.float32))
        async with trio.open_nursery() as nursery:
            for value in range(3):
                nursery.start_soon(ask, "waits", np.full((1, 4), value, np.float32))
        (statistics,) = engine.statistics("waits")
        assert (statistics.inference_count, statistics.execution_count) == (3, 1)
        assert statistics.inference_stats.compute_infer.ns > 0


async def test_text_and_no_elements_come_through(repository, opened):
    repository("text", 'backend: "identity"' + TENSORS.format("TYPE_STRING"))
    async with opened() as engine:
        for words in ([], ["", "two", "drei"]):
            result = await engine.infer("text", {"INPUT0": np.array(words, object)})
            assert list(result["OUTPUT0"]) == [word.encode() for word in words]


async def test_reshaped_tensors(repository, opened):
    """Goal: the library sees the shapes of `reshape`, clients those of `dims`."""
    repository(
        "reshaped",
        """
        backend: "identity" max_batch_size: 2
        input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]
        output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]
        """,
    )
    async with opened() as engine:
        result = await engine.infer("reshaped", {"INPUT0": np.ones((2, 1), np.float32)})
        assert result["OUTPUT0"].shape == (2, 1)


async def test_the_nearest_library_is_taken(repository, opened, backend_directory):
    """Goal: with the version, with the model, in the backends' directory, in this order; `runtime` names another."""
    repository("late", 'backend: "late"' + TENSORS.format("TYPE_INT8"))
    repository("other", 'backend: "late" runtime: "libtriton_mine.so"' + TENSORS.format("TYPE_INT8"))
    repository("missing", 'backend: "late" runtime: "libtriton_none.so"' + TENSORS.format("TYPE_INT8"))
    repository("escaping", 'backend: "late" runtime: "../libtriton_none.so"' + TENSORS.format("TYPE_INT8"))
    repository("unknown", 'backend: "nobody"' + TENSORS.format("TYPE_INT8"))
    identity = backend_directory / "identity" / "libtriton_identity.so"
    shutil.copy(identity, repository.path / "late" / "1" / "libtriton_late.so")
    shutil.copy(identity, repository.path / "other" / "libtriton_mine.so")
    async with opened(load_model=["late", "other"]) as engine:
        ones = {"INPUT0": np.ones(2, np.int8)}
        for name in ("late", "other"):
            assert (await engine.infer(name, ones)).parameters == {}  # libtriton_late.so would set one
        with pytest.raises(
            InvalidArgument, match=r"unable to find backend library 'libtriton_none.so' for model 'miss"
        ):
            await engine.load("missing")
        with pytest.raises(InvalidArgument, match=r"runtime: expected a relative path without '..'"):
            await engine.load("escaping")
        with pytest.raises(
            InvalidArgument, match="unable to find backend library for backend 'nobody', try specifying"
        ):
            await engine.load("unknown")


async def test_what_is_no_backend_is_refused(repository, opened):
    repository("broken", 'backend: "broken"' + TENSORS.format("TYPE_INT8"))
    (repository.path / "broken" / "libtriton_broken.so").write_bytes(b"not a library")
    async with opened(load_model=()) as engine:
        with pytest.raises(InvalidArgument, match="unable to load shared library"):
            await engine.load("broken")


async def test_completes_its_configuration_and_knows_itself(repository, opened):
    """Goal: what the library sets is brought into order and served; instances know names, versions and folders."""
    repository("completing", 'backend: "completing" instance_group [ { count: 2 } ]', version="7")
    async with opened() as engine:
        config = engine.model("completing").config
        assert (config.max_batch_size, config.dynamic_batching.preferred_batch_size) == (4, [4])
        assert [list(item.dims) for item in (*config.input, *config.output)] == [[-1], [1]]
        result = await engine.infer("completing", {"INPUT0": np.zeros((1, 3), np.int8)})
        words = result["OUTPUT0"][0, 0].decode().split()
        assert words[:3] == ["completing", "completing", "7"]
        assert words[3].startswith("completing")
        assert words[4] == str(repository.path / "completing")


@pytest.mark.parametrize(("where", "text"), [("initialize", "model"), ("instance", "instance")])
async def test_failing_to_initialize_fails_the_load(repository, opened, where, text):
    repository("failing", failing(where))
    async with opened(load_model=()) as engine:
        with pytest.raises(InvalidArgument, match=f"Unavailable: the {text} does not initialize"):
            await engine.load("failing")


@pytest.mark.parametrize(
    ("where", "fault", "text"),
    [
        ("execute", Unavailable, "nothing of the batch is executed"),
        ("request", Unavailable, "this request is not answered"),
        ("silence", ModelFailure, "the backend let go of the request without a final response"),
    ],
)
async def test_failing_to_execute_fails_requests(repository, opened, where, fault, text):
    """Goal: an error of `execute` answers all of the batch, an error response one; a request that is forgotten is told
    so. The model goes on."""
    repository("failing", failing(where))
    async with opened() as engine:
        for _ in range(2):
            with pytest.raises(fault, match=text):
                await engine.infer("failing", {"INPUT0": np.zeros((1, 3), np.int8)})


async def test_an_output_that_has_not_its_shapes_size_is_an_error(repository, opened, include):
    """Goal: a library that has failed without a word gives outputs without bytes: the client is told, each time."""
    repository("short", 'backend: "short" max_batch_size: 4' + TENSORS.format("TYPE_INT8"))
    source, library = Path(__file__).with_name("short.cc"), repository.path / "short" / "libtriton_short.so"
    await trio.to_thread.run_sync(compile_plugin, source, library, include, SOURCES)
    async with opened() as engine:
        for _ in range(2):
            with pytest.raises(ModelFailure, match=r"shape \[1, 3\] of INT8 needs 3 bytes, the backend gave 0"):
                await engine.infer("short", {"INPUT0": np.zeros((1, 3), np.int8)})


async def test_streams_from_a_thread_of_the_librarys(repository, opened):
    """Goal: many streams at one time, each in its order and with its end; none of the library's threads is lost."""
    repository("countdown", COUNTDOWN)
    async with opened() as engine:

        async def count(number):
            answers = engine.stream("countdown", {"COUNT": np.array([number], np.int32)})
            found = [int(result["INDEX"][0]) async for result in answers]
            assert found == list(range(number))[::-1]

        async with trio.open_nursery() as nursery:
            for number in (0, 1, 5, 100):
                nursery.start_soon(count, number)


async def test_a_library_learns_that_the_caller_has_left(repository, opened):
    """Goal: a stream of an hour ends soon after its caller: unloading waits for the library's thread, and it comes."""
    repository("countdown", COUNTDOWN)
    async with opened() as engine:
        answers = engine.stream("countdown", {"COUNT": np.array([4_000_000], np.int32)})
        await anext(answers)
        await answers.aclose()
        with trio.fail_after(20):
            await engine.unload("countdown")
            await engine.stop()  # when the model is closed


async def test_answers_after_execute(repository, opened):
    """Goal: the instance takes the next batch while earlier requests are with the library's threads."""
    repository("late", 'backend: "late"' + TENSORS.format("TYPE_INT8"))
    async with opened() as engine:

        async def ask(number):
            result = await engine.infer("late", {"INPUT0": np.full(3, number, np.int8)})
            assert list(result["OUTPUT0"]) == [number] * 3
            assert result.parameters == {"late": "yes"}

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        with pytest.raises(DeadlineExceeded):
            await engine.infer("late", {"INPUT0": np.zeros(3, np.int8)}, timeout=0.001)


async def test_a_model_stays_while_its_library_has_a_request(repository, opened):
    """Goal: the caller's deadline has passed, and the engine stops, while a thread of the library's is to answer yet:
    it does so before the model goes. Several times, for a thread that finds nothing left ends the process."""
    repository("late", 'backend: "late"' + TENSORS.format("TYPE_INT8"))
    for _ in range(5):
        async with opened() as engine:
            with pytest.raises(DeadlineExceeded):
                await engine.infer("late", {"INPUT0": np.zeros(3, np.int8)}, timeout=0.001)


async def test_a_request_that_cannot_be_given_to_the_library_fails_alone(repository, opened):
    """Goal: the C API's parameters have 64 bits; a larger one is refused, its neighbour in the batch and the requests
    after them are answered."""
    repository("waits", IDENTITY.replace("{}", "{ preferred_batch_size: 2 max_queue_delay_microseconds: 9000000 }", 1))
    async with opened() as engine:

        async def ask(parameters):
            return await engine.infer("waits", {"INPUT0": np.ones((1, 1), np.float32)}, parameters=parameters)

        async def ask_too_much():
            with pytest.raises(InvalidArgument, match="the request cannot be given to the backend: int too big"):
                await ask({"large": 2**70})

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_too_much)
                nursery.start_soon(ask, {})


async def test_states_of_sequences(repository, opened):
    repository("adding", ADDING)
    async with opened() as engine:
        sums = []
        for value in (1, 2, 3):
            given = {"VALUE": np.array([[value]], np.int32)}
            result = await engine.infer(
                "adding", given, sequence_id=9, sequence_start=value == 1, sequence_end=value == 3
            )
            sums.append(int(result["SUM"][0, 0]))
        assert sums == [1, 3, 6]


async def test_models_of_a_library_come_and_go(repository, opened):
    """Goal: the library is finalized with its last model, and may be loaded again."""
    repository("one", IDENTITY)
    repository("two", IDENTITY)
    async with opened() as engine:
        for _ in range(2):
            for name in ("one", "two"):
                await engine.load(name)
                await engine.infer(name, {"INPUT0": np.ones((1, 1), np.float32)})
            for name in ("one", "two"):
                await engine.unload(name)


async def test_a_library_that_was_replaced_is_loaded_anew(repository, opened, backend_directory):
    """Goal: libraries stay in memory, but another file of that name takes the place of one that no model has."""
    repository("mine", 'backend: "mine"' + TENSORS.format("TYPE_INT8"))
    path = repository.path / "mine" / "libtriton_mine.so"
    for name, parameters in (("identity", {}), ("late", {"late": "yes"})):
        shutil.copy(backend_directory / name / f"libtriton_{name}.so", path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
        async with opened() as engine:
            assert (await engine.infer("mine", {"INPUT0": np.ones(2, np.int8)})).parameters == parameters


def test_codes_become_faults():
    from despina.backends.native.faults import check, fault_of

    kinds = [type(fault_of(code, "x")) for code in range(9)]
    assert kinds[1:4] == [ModelFailure, NotFound, InvalidArgument]
    assert kinds[5:8] == [Unsupported, kinds[6], Cancelled]
    assert issubclass(ModelFailure, Internal)
    check((-1, None))
    with pytest.raises(Unavailable, match="y"):
        check((4, "y"))
