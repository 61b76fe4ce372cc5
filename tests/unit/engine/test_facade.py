"""The engine as programs hold it: arrays in, arrays out, from trio and from threads."""

import threading

import despina
import numpy as np
import pytest
import trio
from despina.engine.port.settings import EngineSettings
from despina.schema.fault import DeadlineExceeded, Internal, InvalidArgument, NotFound, ShuttingDown, Unavailable

from tests.fakes import FakeBackend, tensor_text, write_model

ONE = np.array([[7]], np.int32)


async def test_arrays_in_arrays_out(virtual_time, repository, backend, opened):
    """Goal: a result reads like a mapping of arrays, with what else the answer says."""
    write_model(repository, "m", versions=(3,))
    async with opened() as engine:
        result = await engine.infer("m", {"IN": ONE}, request_id="r", parameters={"x": 1})
        assert np.array_equal(result["OUT"], ONE)
        assert (list(result), len(result), "OUT" in result) == (["OUT"], 1, True)
        assert (result.id, result.model_name, result.model_version, result.parameters) == ("r", "m", 3, {})
        assert (result.tensor("OUT").datatype, tuple(result.tensor("OUT").shape)) == ("INT32", (1, 1))
        assert repr(result).startswith("Result('m', version 3,")
        with pytest.raises(KeyError) as caught:
            result["NO"]
        assert caught.value.args == ("no output 'NO' in the answer of model 'm', only ['OUT']",)


async def test_what_becomes_a_tensor(virtual_time, repository, backend, opened):
    """Goal: lists, strings and tensors are inputs; what has no datatype is refused."""
    tensors = tensor_text("input", "IN", "TYPE_STRING", [2]) + tensor_text("output", "OUT", "TYPE_STRING", [2])
    write_model(repository, "m", tensors=tensors)
    async with opened() as engine:
        for value in ([["a", "é"]], np.array([["a", "é"]]), np.array([[b"a", "é".encode()]], object)):
            result = await engine.infer("m", {"IN": value})
            assert result["OUT"].tolist() == [[b"a", "é".encode()]]
        tensor = despina.Tensor.of("IN", np.array([["a", "b"]]))
        assert (await engine.infer("m", {"IN": tensor}))["OUT"].tolist() == [[b"a", b"b"]]
        with pytest.raises(InvalidArgument, match="complex128"):
            await engine.infer("m", {"IN": np.array([1j])})


async def test_a_timeout_in_seconds(virtual_time, repository, backend, opened):
    """Goal: DeadlineExceeded when it passes, on virtual time."""
    write_model(repository, "m")
    backend.cost_s = 60
    async with opened() as engine:
        began = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await engine.infer("m", {"IN": ONE}, timeout=30)
        assert trio.current_time() - began == pytest.approx(30)
        assert len(await engine.infer("m", {"IN": ONE}, timeout=300)) == 1


async def test_a_stream_of_an_ordinary_model(virtual_time, repository, backend, opened):
    """Goal: one answer."""
    write_model(repository, "m")
    async with opened() as engine:
        answers = engine.stream("m", {"IN": ONE})
        assert [result["OUT"].item() async for result in answers] == [7]


async def test_a_caller_that_leaves_before_it_asks(virtual_time, repository, backend, opened):
    """Goal: a call inside a cancelled scope submits nothing."""
    write_model(repository, "m")
    async with opened() as engine:
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.infer("m", {"IN": ONE})
        assert scope.cancelled_caught
        assert engine.model("m").statistics.success_count == 0
    assert backend.ids == []


async def test_a_fault_is_raised_anew_for_each_caller(virtual_time, repository, backend, opened):
    """Goal: two callers of one failed batch do not share an exception and its traceback."""
    write_model(
        repository, "m", more="dynamic_batching { preferred_batch_size: [2] max_queue_delay_microseconds: 1000 }"
    )

    async def fail(_):
        raise InvalidArgument("no")

    backend.execute = fail
    caught = []

    async def call(engine):
        try:
            await engine.infer("m", {"IN": ONE})
        except InvalidArgument as fault:
            caught.append(fault)

    async with opened() as engine, trio.open_nursery() as nursery:
        nursery.start_soon(call, engine)
        nursery.start_soon(call, engine)
    assert len(backend.executed) == 1
    assert caught[0] is not caught[1]


async def test_descriptions(virtual_time, repository, backend, opened):
    """Goal: server and model metadata, with the batch dimension where there is one."""
    write_model(repository, "batching")
    write_model(repository, "single", max_batch_size=0)
    async with opened(id="me") as engine:
        assert engine.is_live()
        server = engine.metadata()
        assert (server.name, "statistics" in server.extensions) == ("me", True)
        metadata = engine.model_metadata("batching")
        assert (metadata.versions, metadata.platform) == (["1"], "fake")
        assert [(each.name, each.datatype, each.shape) for each in metadata.inputs] == [("IN", "INT32", [-1, 1])]
        assert [each.shape for each in engine.model_metadata("single").outputs] == [[1]]
        with pytest.raises(NotFound):
            engine.model_metadata("nobody")


async def test_statistics_by_name_and_version(virtual_time, repository, backend, opened):
    """Goal: all, of a model, of a version; the words for none."""
    write_model(repository, "a", versions=(1, 2), more="version_policy { all {} }")
    write_model(repository, "b")
    async with opened() as engine:
        assert [(each.name, each.version) for each in engine.statistics()] == [("a", "1"), ("a", "2"), ("b", "1")]
        assert [each.version for each in engine.statistics("a")] == ["1", "2"]
        assert [each.version for each in engine.statistics("a", 2)] == ["2"]
        with pytest.raises(InvalidArgument, match="requested model 'x' is not available"):
            engine.statistics("x")
        with pytest.raises(InvalidArgument, match="requested model version is not available for model 'a'"):
            engine.statistics("a", 3)


async def test_a_block_raises_what_it_raised(virtual_time, repository, backend, opened):
    """Goal: the engine's nursery does not wrap the errors of the block."""
    write_model(repository, "m")
    with pytest.raises(ZeroDivisionError):
        async with opened():
            1 / 0  # noqa: B018
    with pytest.raises(ExceptionGroup) as caught:
        async with opened():
            raise ExceptionGroup("two", [ValueError(), KeyError()])
    assert len(caught.value.exceptions) == 2 or len(caught.value.exceptions[0].exceptions) == 2
    assert backend.instances_open == 0


async def test_leaving_by_cancellation_finishes_what_is_inside(virtual_time, repository, backend, opened):
    """Goal: a cancelled block still stops the engine in order; others' requests are answered."""
    write_model(repository, "m")
    backend.cost_s = 5
    done = []

    async def call(engine):
        done.append(await engine.infer("m", {"IN": ONE}))

    async with trio.open_nursery() as outside:
        with trio.move_on_after(1):
            async with opened() as engine:
                outside.start_soon(call, engine)
                await trio.sleep_forever()
    assert len(done) == 1
    assert backend.instances_open == 0


@pytest.mark.parametrize(
    "options",
    [
        {"model_control_mode": "sometimes"},
        {"repository_poll_secs": -1},
        {"exit_timeout_secs": -1},
        {"model_load_thread_count": 0},
        {"queue_size_max": 0},
        {"no_such_option": 1},
    ],
)
def test_options_that_cannot_be(options):
    """Goal: refused at once, not when they are first used."""
    with pytest.raises((ValueError, TypeError)):
        EngineSettings(model_repository="x", **options)


def test_a_word_that_no_option_has():
    """Goal: who embeds the engine reads what would be right, and nothing else."""
    with pytest.raises(ValueError, match=r"^'queue_order' must be one of arrival, adaptive, got 'newest'$"):
        EngineSettings(model_repository="x", queue_order="newest")


def test_blocking_from_many_threads(repository):
    """Goal: the same engine for threads: answers, and each thread its own."""
    write_model(repository, "m", more="dynamic_batching {}")
    backend = FakeBackend()
    failures = []

    def work(engine, base):
        for value in range(base, base + 20):
            result = engine.infer("m", {"IN": np.array([[value]], np.int32)})
            if result["OUT"].item() != value:
                failures.append(value)

    with despina.blocking.open_engine(repository, backends={"fake": backend}) as engine:
        threads = [threading.Thread(target=work, args=(engine, base * 100)) for base in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert engine.is_live()
        assert engine.is_ready()
        assert engine.statistics("m")[0].inference_count == 160
        assert [entry.state for entry in engine.index()] == ["READY"]
        assert engine.model_metadata("m").name == engine.model("m").name == "m"
        assert [result["OUT"].item() for result in engine.stream("m", {"IN": ONE})] == [7]
    assert failures == []
    assert backend.instances_open == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "despina/engine"]


def test_blocking_errors(repository):
    """Goal: faults reach the calling thread as they are; the engine goes on."""
    write_model(repository, "m")
    backend = FakeBackend()
    with despina.blocking.open_engine(repository, backends={"fake": backend}, model_control_mode="explicit") as engine:
        with pytest.raises(NotFound):
            engine.infer("m", {"IN": ONE})
        with pytest.raises(Internal):
            engine.load("nobody")
        engine.load("m")
        backend.cost_s = 0.1
        with pytest.raises(DeadlineExceeded):
            engine.infer("m", {"IN": ONE}, timeout=0.02)
        engine.unload("m")
        with pytest.raises(Unavailable):
            engine.model("m", 1)


def test_blocking_start_that_fails(repository):
    """Goal: what keeps the engine from starting is raised where it was opened, bare."""
    write_model(repository, "m")
    backend = FakeBackend()
    backend.open_errors["m", 1] = RuntimeError("boom")
    with (
        pytest.raises(Internal, match="failed to load all models"),
        despina.blocking.open_engine(repository, backends={"fake": backend}),
    ):
        pass
    with pytest.raises(TypeError), despina.blocking.open_engine(repository, no_such_option=1):
        pass


def test_a_blocking_block_raises_what_it_raised(repository):
    """Goal: the engine is stopped and the error goes on."""
    with pytest.raises(ZeroDivisionError), despina.blocking.open_engine(repository, backends={}):
        1 / 0  # noqa: B018
    assert not [thread for thread in threading.enumerate() if thread.name == "despina/engine"]


async def test_an_engine_that_has_stopped_says_so(repository, opened):
    """Goal: whoever asks too late hears ShuttingDown, not that his model was never there."""
    write_model(repository, "m")
    async with opened() as engine:
        pass
    with pytest.raises(ShuttingDown):
        await engine.infer("m", {"IN": ONE})
    with pytest.raises(ShuttingDown):
        engine.model("m")


async def test_masked_inputs_are_refused(repository, backend, opened):
    """Goal: what a caller has masked is never sent; he is told what to do."""
    write_model(repository, "m")
    async with opened() as engine:
        with pytest.raises(TypeError, match="a masked array"):
            await engine.infer("m", {"IN": np.ma.masked_array([[1]], [[True]], np.int32)})
