"""Faults planted at every boundary of the engine: they stay where they happen, and a neighbour is served meanwhile."""

import threading

import pytest
import trio
from despina.engine.observe.statistics import ModelStats
from despina.engine.port.settings import Restart, TraceSettings
from despina.engine.request import ledger as ledgers
from despina.engine.request.stream import StreamJob
from despina.engine.schedule.dynamic import DynamicBatcher
from despina.schema.fault import Fault, Internal
from despina.schema.tensor import Tensor

from tests.fakes import answer, request, value_of, write_model

HOW = ("task", "prompt", "thread", "inline")
DECOUPLED = "model_transaction_policy { decoupled: true }"


@pytest.fixture
def two_models(repository, backend, opened):
    """`two_models(how, **options)`: an engine with `m` and its neighbour `n`, executed in that way."""

    def open_it(how, **options):
        backend.asynchronous = how in ("task", "prompt")
        backend.prompt = how == "prompt"
        backend.movable = how == "inline"
        forced = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }' if how == "inline" else ""
        for name in ("m", "n"):
            write_model(repository, name, more=forced)
        return opened(restart=Restart(backoff_min_s=0.01, jitter=0), **options)

    return open_it


def failing(times, real=None, only=lambda *_: True):
    """Raises MemoryError the first `times` that it is called, then does what `real` does."""
    left = [times]

    def call(*arguments, **options):
        if left[0] and only(*arguments):
            left[0] -= 1
            raise MemoryError("planted")
        return real(*arguments, **options) if real is not None else None

    return call


async def served(engine, model="m", value=7):
    """Answered within a few tries: an instance may have to come back first."""
    for _ in range(200):
        try:
            with trio.fail_after(5):
                assert value_of(await engine.infer_request(request(model, value=value))) == value
                return
        except Fault:
            await trio.sleep(0.01)
    raise AssertionError("never served again")


async def hears(engine, kind, model="m"):
    with trio.fail_after(5), pytest.raises(kind) as caught:
        await engine.infer_request(request(model))
    return caught.value


@pytest.mark.interpreted
@pytest.mark.parametrize("how", HOW)
async def test_the_end_of_a_batch_fails(two_models, monkeypatch, caplog, how):
    """Goal: counting a batch raises: its callers hear a fault, the log has the traceback, everybody else is served."""
    async with two_models(how) as engine:
        model = engine.model("m")
        monkeypatch.setattr(
            ModelStats, "executed", failing(1, ModelStats.executed, lambda stats, *_: stats is model.statistics)
        )
        await served(engine, "n")
        fault = await hears(engine, Internal)
        assert fault.message == "the answer of model 'm' could not be handed over; the server's log says why"
        await served(engine, "n")
        await served(engine, "m")
        assert (model.ledger.inflight, model.ledger.broken) == (0, 1)
        assert model.status()[0].facts["broken"] == 1
    assert "MemoryError: planted" in caplog.text


@pytest.mark.parametrize("how", HOW)
async def test_client_memory_fails(two_models, monkeypatch, how):
    """Goal: the same where outputs are placed."""
    async with two_models(how) as engine:
        engine.model("m").ledger.shares = True
        monkeypatch.setattr(ledgers, "place", failing(1))
        await hears(engine, Internal)
        await served(engine, "n")
        await served(engine, "m")
        assert engine.model("m").ledger.inflight == 0


@pytest.mark.parametrize("how", HOW)
async def test_a_traced_output_that_cannot_be_encoded(repository, two_models, backend, tmp_path, how):
    """Goal: with trace level TENSORS, an output whose bytes cannot be made is that request's fault alone."""

    def behave(batch):
        answer(batch)
        for job in batch.jobs:
            if job.request.id == "bad":
                job.response.outputs[0] = Tensor("OUT", "BYTES", [1, 1], array=_NoBytes())

    async def execute(batch):
        behave(batch)

    backend.execute, backend.execute_sync = execute, behave
    trace = TraceSettings(level=("TENSORS",), rate=1, file=str(tmp_path / "trace"))
    async with two_models(how, trace=trace) as engine:
        with pytest.raises(Fault):
            await engine.infer_request(request(id="bad"))
        await served(engine, "n")
        await served(engine, "m")
        assert engine.model("m").ledger.inflight == 0


class _NoBytes:
    shape = (1, 1)

    def __getattr__(self, name):
        raise TypeError("nothing that has bytes")


@pytest.mark.parametrize("how", HOW)
async def test_telling_the_caller_fails(two_models, how):
    """Goal: a door's bug in one answer takes no other answer with it."""
    async with two_models(how) as engine:
        model = engine.model("m")
        told = trio.Event()

        def broken(_):
            told.set()
            raise RuntimeError("a door's bug")

        model.submit(request(), broken)
        with trio.fail_after(5):
            await told.wait()
        await served(engine, "n")
        await served(engine, "m")
        assert model.ledger.inflight == 0


@pytest.mark.parametrize("how", HOW)
async def test_forming_a_batch_fails(two_models, monkeypatch, how):
    """Goal: a scheduler that raises ends the instance, which comes back; the request is answered by the next one."""
    async with two_models(how) as engine:
        await served(engine)
        batcher = engine.model("m").scheduler
        real = DynamicBatcher.take
        monkeypatch.setattr(DynamicBatcher, "take", failing(2, real, lambda which, *_: which is batcher))
        await served(engine, "n")
        await served(engine, "m")
        await served(engine, "n")
        assert engine.is_ready()


@pytest.mark.interpreted
async def test_a_limit_in_time_fails(virtual_time, repository, opened, backend, monkeypatch, caplog):
    """Goal: one deadline that cannot be kept stops no other's."""
    write_model(repository, "m")
    gate = trio.Event()

    async def held(batch):
        await gate.wait()
        answer(batch)

    backend.execute = held
    async with opened() as engine:
        ledger = engine.model("m").ledger
        monkeypatch.setattr(ledger, "refuse", failing(1, ledger.refuse))
        heard = []

        async def call(id, after_s):
            try:
                await engine.infer_request(request(id=id), deadline=trio.current_time() + after_s)
            except Fault as fault:
                heard.append((id, type(fault).__name__, trio.current_time()))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.infer_request, request())
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, "first", 1)
            nursery.start_soon(call, "second", 2)
            await trio.sleep(3)
            assert heard == [("second", "DeadlineExceeded", began + 2)]
            gate.set()
    assert "a limit in time could not be kept" in caplog.text


@pytest.mark.interpreted
@pytest.mark.parametrize("how", ["task", "prompt", "thread"])
@pytest.mark.parametrize("where", ["_count", "_place"])
async def test_delivering_a_stream_fails(repository, opened, backend, monkeypatch, how, where):
    """Goal: an answer that cannot be handed over is an error among the answers; the stream ends, others go on."""
    backend.asynchronous = how in ("task", "prompt")
    backend.prompt = how == "prompt"
    write_model(repository, "m", more=DECOUPLED)
    write_model(repository, "n")

    def streamed(batch):
        for job in batch.jobs:
            if isinstance(job, StreamJob):
                for _ in range(2):
                    job.send([Tensor.of("OUT", job.request.inputs["IN"].numpy())])
                job.send(None, final=True)
            else:
                answer(batch)

    async def execute(batch):
        streamed(batch)

    backend.execute, backend.execute_sync = execute, streamed
    async with opened() as engine:
        real = getattr(StreamJob, where)
        monkeypatch.setattr(StreamJob, where, failing(1, real))
        with trio.fail_after(5), pytest.raises(Internal, match="an answer of model 'm' could not be handed over"):
            async for _ in engine.stream_request(request("m")):
                pass
        await served(engine, "n")
        with trio.fail_after(5):
            assert [value_of(one) async for one in engine.stream_request(request("m", value=3))] == [3, 3]
            while engine.model("m").ledger.inflight:  # noqa: ASYNC110  the model's thread ends the first
                await trio.sleep(0.01)
        assert engine.model("m").statistics.failures["BACKEND"] == 1


async def test_a_posted_call_fails(two_models):
    """Goal: whatever a thread posts, an exception in it ends nothing but itself."""
    async with two_models("thread") as engine:
        ledger = engine.model("m").ledger
        thread = threading.Thread(target=ledger.post, args=(failing(1),))
        thread.start()
        await trio.sleep(0.05)
        assert ledger.broken == 1
        await served(engine, "n")
        await served(engine, "m")


@pytest.mark.parametrize("how", ["thread"])
async def test_an_open_that_hangs_can_be_cancelled(repository, backend, opened, caplog, how):
    """Goal: an embedding program that gives up gets its task back, although a model's `initialize` never returns."""
    never = threading.Event()
    backend.asynchronous = False
    model = write_model(repository, "m")
    assert model.is_dir()
    real = type(backend).open_model

    def open_model(self, context):
        made = real(self, context)
        made.open_instance = lambda _: never.wait(30)
        return made

    backend.open_model = open_model.__get__(backend)
    try:
        with trio.fail_after(5), trio.move_on_after(0.2) as patience:
            async with opened(exit_timeout_secs=0.2):
                raise AssertionError("opened")
        assert patience.cancelled_caught
        assert "its thread is abandoned" in caplog.text
    finally:
        never.set()


async def test_threads_carry_the_context(repository, backend, opened):
    """Goal: what an embedding program has set in its context is seen where its models execute."""
    import contextvars

    seen = []
    variable = contextvars.ContextVar("variable", default="nothing")
    backend.asynchronous = False

    def look(batch):
        seen.append(variable.get())
        answer(batch)

    backend.execute_sync = look
    variable.set("something")
    write_model(repository, "m")
    async with opened() as engine:
        await engine.infer_request(request())
    assert seen == ["something"]


async def test_flags_are_put_back(two_models, monkeypatch):
    """Goal: what fails beside an execution on the trio thread takes neither the answer nor the instance with it."""
    async with two_models("inline") as engine:
        await served(engine)
        cost = type(engine.model("m").placement._cost)
        planted = failing(2, cost.learn)
        monkeypatch.setattr(cost, "learn", planted)
        for value in range(20):
            await served(engine, "m", value)
            await served(engine, "n", value)
        assert not engine.model("m").placement._running
        assert engine.model("m").ledger.inflight == 0
