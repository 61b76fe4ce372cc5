"""Where batches execute: on a task, on a thread, inline; what a backend may do wrong; warm-up; stuck threads."""

import threading

import pytest
import trio
from despina.engine.execute.feed import Feed
from despina.schema.fault import (
    DeadlineExceeded,
    Fault,
    Internal,
    InvalidArgument,
    ModelFailure,
    ShuttingDown,
    Unavailable,
)

from tests.fakes import FakeBackend, answer, request, value_of, write_model

EXPLICIT = {"model_control_mode": "explicit", "load_model": "m"}
THREADS = ("task", "prompt", "thread", "movable", "inline")


def scripted(backend, how, behave):
    """The same behaviour for each kind of instance. Returns the model parameter that forces the kind."""
    backend.asynchronous = how in ("task", "prompt")
    backend.prompt = how == "prompt"
    backend.movable = how in ("movable", "inline")

    async def execute(batch):
        behave(batch)

    backend.execute, backend.execute_sync = execute, behave
    forced = {"inline": "inline", "movable": "thread"}.get(how)
    return f'parameters {{ key: "DESPINA_EXECUTOR" value {{ string_value: "{forced}" }} }}' if forced else ""


@pytest.mark.parametrize("how", THREADS)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("boom"), (ModelFailure, "RuntimeError: boom")),
        (ValueError(), (ModelFailure, "ValueError")),
        (InvalidArgument("as it is"), (InvalidArgument, "as it is")),
        (SystemExit(2), (ModelFailure, "SystemExit: 2")),
        (None, (Internal, "the backend did not answer this request")),
    ],
)
async def test_what_a_backend_raises_reaches_the_caller(repository, backend, opened, how, error, expected):
    """Goal: any exception, SystemExit too, or no answer at all: one fault for the caller; the instance lives on."""
    broken = True

    def behave(batch):
        if not broken:
            answer(batch)
        elif error is not None:
            raise error

    write_model(repository, "m", more=scripted(backend, how, behave))
    async with opened() as engine:
        for _ in range(3):
            with pytest.raises(Fault) as caught:
                await engine.infer_request(request())
            assert (type(caught.value), caught.value.message) == expected
        broken = False
        assert value_of(await engine.infer_request(request(value=4))) == 4
        model = engine.model("m")
        assert (model.statistics.success_count, model.statistics.failures["BACKEND"]) == (1, 3)
        assert (model.statistics.execution_count, model.statistics.inference_count) == (4, 1)
        assert model.ledger.inflight == 0
    assert backend.instances_open == 0


@pytest.mark.parametrize("how", THREADS)
async def test_a_failure_within_a_batch_is_its_own(repository, backend, opened, how):
    """Goal: one job failed, one not answered, one answered before the model raised: each caller gets its own."""

    def behave(batch):
        for job in batch.jobs:
            if job.request.id == "bad":
                job.fail(InvalidArgument("not you"))
            elif job.request.id == "good":
                job.respond([])
        raise RuntimeError("afterwards")

    outcomes = {}

    async def call(id):
        try:
            await engine.infer_request(request(id=id))
            outcomes[id] = "answered"
        except Fault as fault:
            outcomes[id] = fault.message

    write_model(
        repository,
        "m",
        more="dynamic_batching { preferred_batch_size: [3] max_queue_delay_microseconds: 5000000 } "
        + scripted(backend, how, behave),
        max_batch_size=3,
    )
    async with opened() as engine, trio.open_nursery() as nursery:
        for id in ("good", "bad", "other"):
            nursery.start_soon(call, id)
    assert outcomes == {"good": "answered", "bad": "not you", "other": "RuntimeError: afterwards"}
    assert [one.size for one in backend.executed] == [3]


async def test_each_thread_opens_executes_and_closes_its_own(repository, opened, backend):
    """Goal: two instances on two threads; no execution anywhere else; the threads end with the model."""
    backend.asynchronous = False
    where = set()
    backend.execute_sync = lambda batch: (where.add(threading.current_thread().name), answer(batch))
    write_model(repository, "m", instances=2)
    async with opened() as engine, trio.open_nursery() as nursery:
        for value in range(50):
            nursery.start_soon(engine.infer_request, request(value=value))
    assert where <= {"despina/m_0_0", "despina/m_0_1"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("despina/m_")]


async def test_a_cheap_movable_model_moves_inline_and_back(repository, opened, backend):
    """Goal: after some cheap executions requests run on the trio thread; when they become dear they leave it."""
    backend.asynchronous, backend.movable = False, True
    write_model(repository, "m")
    home, where, dear = threading.get_ident(), [], False

    def execute(batch):
        where.append(threading.get_ident() == home)
        if dear:
            end = threading.Event()
            end.wait(0.02)
        answer(batch)

    backend.execute_sync = execute
    async with opened() as engine:
        for value in range(200):
            assert value_of(await engine.infer_request(request(value=value))) == value
            if where[-1]:
                break
        assert where[-1], "never moved inline"
        dear = True
        for _ in range(100):
            await engine.infer_request(request())
            if not where[-1]:
                break
        assert not where[-1], "never left the trio thread"


@pytest.mark.parametrize("batching", ["", "dynamic_batching {}"])
@pytest.mark.parametrize("instances", [1, 2])
async def test_inline_executions_lose_and_mix_nothing(repository, opened, backend, batching, instances):
    """Goal: many callers of an inline model, answers that submit anew among them, each get their own answer."""
    parameter = scripted(backend, "inline", answer)
    write_model(repository, "m", instances=instances, more=f"{batching} {parameter}")
    told = []
    async with opened() as engine:
        model = engine.model("m")

        def again(job):
            value = value_of(job.response)
            told.append(value)
            if value < 300:
                model.submit(request(value=value + 100), again)

        async with trio.open_nursery() as nursery:
            for value in range(100):
                model.submit(request(value=value), again)
                nursery.start_soon(engine.infer_request, request(value=value))
        while model.ledger.inflight:
            await trio.lowlevel.checkpoint()
        assert sorted(told) == list(range(400))
        assert (model.ledger.inflight, model.pending) == (0, 0)
        with trio.fail_after(5):  # a thread that took part lies down after its answers are out
            while len(model.scheduler.idle) != instances:  # noqa: ASYNC110
                await trio.sleep(0.001)


async def test_executor_parameter(virtual_time, repository, opened, backend):
    """Goal: anything but inline, thread, auto is refused at load."""
    write_model(repository, "m", more='parameters { key: "DESPINA_EXECUTOR" value { string_value: "gpu" } }')
    async with opened(model_control_mode="explicit") as engine:
        with pytest.raises(InvalidArgument, match="expected inline, thread or auto, got 'gpu'"):
            await engine.load("m")
    assert backend.opened == backend.closed


async def test_a_deadline_passes_while_a_thread_executes(repository, opened, backend):
    """Goal: the caller is told although the thread is busy; the thread's result is dropped, counted once."""
    backend.asynchronous = False
    release = threading.Event()
    backend.execute_sync = lambda batch: (release.wait(10), answer(batch))
    write_model(repository, "m")
    async with opened() as engine:
        with pytest.raises(DeadlineExceeded):
            await engine.infer_request(request(), deadline=trio.current_time() + 0.02)
        release.set()
        assert value_of(await engine.infer_request(request(value=2))) == 2
        model = engine.model("m")
        assert (model.statistics.success_count, model.statistics.failures["CANCELED"]) == (1, 1)
        assert model.ledger.inflight == 0


async def test_a_thread_that_never_returns_is_abandoned(repository, opened, backend):
    """Goal: at the exit timeout its callers are told, the engine ends, and the thread's late answer hurts nobody."""
    backend.asynchronous = False
    begun, release = threading.Event(), threading.Event()
    backend.execute_sync = lambda batch: (begun.set(), release.wait(10), answer(batch))
    write_model(repository, "m")
    outcomes = []

    async def call(engine):
        try:
            await engine.infer_request(request())
        except ShuttingDown as fault:
            outcomes.append(fault.message)

    async with trio.open_nursery() as nursery:
        with pytest.raises(Internal, match="Exit timeout expired"):  # noqa: PT012
            async with opened(exit_timeout_secs=0.05) as engine:
                nursery.start_soon(call, engine)
                await trio.to_thread.run_sync(begun.wait)
    assert outcomes == ["the model was unloaded while it executed"]
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("despina/m_"):
            await trio.to_thread.run_sync(thread.join, 10)
    assert backend.instances_open == 0


@pytest.mark.interpreted
async def test_a_thread_is_abandoned_between_taking_a_batch_and_executing_it(repository, opened, backend, monkeypatch):
    """Goal: what it has taken is nobody else's, so it is executed, and its callers are told after all."""
    backend.asynchronous = False
    taken, release = threading.Event(), threading.Event()
    take = Feed.take_from_thread

    def take_and_pause(self, instance):
        batch = take(self, instance)
        if batch is not None:
            taken.set()
            release.wait(10)
        return batch

    monkeypatch.setattr(Feed, "take_from_thread", take_and_pause)
    write_model(repository, "m")
    answers = []

    async def call(engine):
        answers.append(value_of(await engine.infer_request(request(value=3))))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            with pytest.raises(Internal, match="Exit timeout expired"):  # noqa: PT012
                async with opened(exit_timeout_secs=0.05) as engine:
                    nursery.start_soon(call, engine)
                    await trio.to_thread.run_sync(taken.wait)
            assert answers == []
            release.set()
    assert answers == [3]


def warmup(inputs, *, batch_size=2, count=3, name="first"):
    sample = f'name: "{name}" batch_size: {batch_size} count: {count} inputs {{ key: "IN" value {{ {inputs} }} }}'
    return f"model_warmup [{{ {sample} }}]"


@pytest.mark.interpreted
@pytest.mark.parametrize("how", ["task", "prompt", "thread"])
@pytest.mark.parametrize(
    ("inputs", "content"),
    [
        ("data_type: TYPE_INT32 dims: [1] zero_data: true", bytes(4)),
        ("data_type: TYPE_INT32 dims: [1] random_data: true", None),
        ('data_type: TYPE_INT32 dims: [1] input_data_file: "data"', b"\1\2\3\4"),
    ],
)
async def test_warm_up(repository, backend, opened, inputs, content, how):
    """Goal: every instance executes batch_size requests of one row, count times, before the model is ready."""
    seen = []
    scripted(backend, how, lambda batch: (seen.append(batch), answer(batch)))
    path = write_model(repository, "m", instances=2, more=warmup(inputs))
    (path / "warmup").mkdir()
    (path / "warmup" / "data").write_bytes(b"\1\2\3\4\5")
    async with opened() as engine:
        assert [(batch.size, len(batch.jobs), batch.reason) for batch in seen] == [(2, 2, "warmup")] * 6
        tensor = seen[0].jobs[0].request.inputs["IN"]
        assert (tensor.datatype, tensor.shape) == ("INT32", [1, 1])
        assert content is None or bytes(tensor.memory()) == content
        await trio.sleep(0.01)  # threads' executions are counted on the trio thread
        counted = engine.statistics("m")[0]
        assert (counted.execution_count, counted.inference_count, counted.inference_stats.success.count) == (6, 12, 12)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("raises", [True, False])
async def test_warm_up_fails(repository, backend, opened, raises, asynchronous):
    """Goal: a sample that fails, or whose execution raises, fails the load in the protocol's words."""

    def execute(batch):
        if raises:
            raise RuntimeError("cold")
        for job in batch.jobs:
            job.fail(InvalidArgument("cold"))

    scripted(backend, "task" if asynchronous else "thread", execute)
    write_model(repository, "m", more=warmup("data_type: TYPE_INT32 dims: [1] zero_data: true"))
    async with opened(model_control_mode="explicit") as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
        text = "RuntimeError: cold" if raises else "cold"
        assert caught.value.message == (
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Invalid argument: failed to run warmup "
            f"sample 'first': {text}; {text}; ;\n"
        )
    assert (len(backend.opened), len(backend.closed), backend.instances_open) == (1, 1, 0)


async def test_a_backend_nobody_has(virtual_time, repository, caplog):
    """Goal: an unknown backend is named; the log tells the nearest that exists."""
    import despina

    write_model(repository, "m", backend="fakee")
    async with despina.open_engine(
        repository, backends={"fake": FakeBackend()}, model_control_mode="explicit"
    ) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
    assert "unable to find backend library for backend 'fakee'" in caught.value.message
    assert "Did you mean 'fake'?" in caplog.text


async def test_unavailable_before_the_start():
    """Goal: an engine that does not run says so, to commands and to requests."""
    from despina.engine.engine import Engine
    from despina.engine.port.settings import EngineSettings
    from despina.schema.fault import NotFound

    engine = Engine(EngineSettings(model_repository="x", model_control_mode="explicit"))
    assert not engine.is_live()
    assert not engine.health().ready
    with pytest.raises(Unavailable, match="Server not ready"):
        await engine.load("m")
    with pytest.raises(Unavailable, match="Server not ready"):
        await engine.index()
    with pytest.raises(NotFound):
        await engine.infer_request(request())
