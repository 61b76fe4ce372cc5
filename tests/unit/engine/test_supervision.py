"""Instances whose executor dies: who is told, what is not ready, and that they come back."""

import copy
import itertools
import threading

import pytest
import trio
from despina.engine.execute.feed import Feed
from despina.engine.execute.supervision import wait_after
from despina.engine.execute.thread import ThreadInstance
from despina.engine.port.settings import Restart, Stop, TraceSettings
from despina.schema.fault import ExecutorDied, Fault, NotFound, NotReady, Unavailable
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeBackend, answer, request, value_of, write_model

EXECUTORS = ("task", "prompt", "thread", "inline")
SOON = Restart(backoff_min_s=0.01, jitter=0)


def scripted(backend, how, behave):
    """The same behaviour for each kind of executor. Returns the model parameter that forces the kind."""
    backend.asynchronous = how in ("task", "prompt")
    backend.prompt = how == "prompt"
    backend.movable = how == "inline"

    async def execute(batch):
        behave(batch)

    backend.execute, backend.execute_sync = execute, behave
    return 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }' if how == "inline" else ""


def dying(*ids):
    """Answers all but requests of these ids, which end the executor."""

    def behave(batch):
        if any(job.request.id in ids for job in batch.jobs):
            raise ExecutorDied("instance m_0_0 was killed by signal 9")
        answer(batch)

    return behave


async def until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  real threads and back-off bring it about
            await trio.sleep(0.005)


@pytest.mark.parametrize("how", EXECUTORS)
async def test_it_comes_back(repository, opened, backend, caplog, how):
    """Goal: the batch in execution hears of it; the model is not ready, and is when the next executor is open."""
    write_model(repository, "m", more=scripted(backend, how, dying("dies")))
    async with opened(restart=Restart(backoff_min_s=0.2, jitter=0)) as engine:
        assert value_of(await engine.infer_request(request(value=1))) == 1
        for _ in range(2):
            with pytest.raises(ExecutorDied, match="killed by signal 9"):
                await engine.infer_request(request(id="dies"))
            await until(lambda: not engine.is_model_ready("m"))
            assert not engine.is_ready()
            assert "instance m_0_0 is down: instance m_0_0 was killed by signal 9" in engine.health().problems[0]
            assert "down" in engine.status()[2].doing
            await until(lambda: engine.is_model_ready("m"))
            assert engine.is_ready()
            assert value_of(await engine.infer_request(request(value=2))) == 2
        assert backend.instances_open == 1
        assert engine.model("m").statistics.failures["BACKEND"] == 2
    assert backend.instances_open == 0
    assert "is opened anew in 0.2 s" in caplog.text


@pytest.mark.parametrize("how", EXECUTORS)
async def test_what_waits_is_kept(repository, opened, backend, how):
    """Goal: requests behind a death, and those that come while the instance is down, are answered by the next."""
    write_model(repository, "m", more=scripted(backend, how, dying("dies")))
    answers = []
    async with opened(restart=SOON) as engine, trio.open_nursery() as nursery:

        async def call(value, id=""):
            try:
                answers.append(value_of(await engine.infer_request(request(value=value, id=id))))
            except ExecutorDied:
                answers.append("died")

        nursery.start_soon(call, 0, "dies")
        for value in range(1, 6):
            nursery.start_soon(call, value)
        await until(lambda: len(answers) == 6)
    assert sorted(answers, key=str) == [1, 2, 3, 4, 5, "died"]


async def test_what_waits_is_refused_by_setting(virtual_time, repository, opened, backend):
    """Goal: with `queue_while_down` "refuse" what waits and what comes hears so at once, until an instance is back."""
    write_model(repository, "m", max_batch_size=1, more=scripted(backend, "task", dying("dies")))
    heard = []
    async with opened(restart=Restart(backoff_min_s=5, jitter=0), queue_while_down="refuse") as engine:

        async def call(id):
            try:
                await engine.infer_request(request(id=id))
            except Fault as fault:
                heard.append((id, type(fault), trio.current_time()))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for id in ("dies", "waits"):
                nursery.start_soon(call, id)
                await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match=r"\[request id: late\] model 'm' version 1: instance m_0_0 is down"):
            await engine.infer_request(request(id="late"))
        assert heard == [("dies", ExecutorDied, began), ("waits", Unavailable, began)] or heard == [
            ("dies", ExecutorDied, began)
        ]
        await trio.sleep(6)
        await engine.infer_request(request())


async def test_the_others_serve_meanwhile(virtual_time, repository, opened, backend):
    """Goal: a model with another instance stays ready; the server says what is wrong."""
    write_model(repository, "m", max_batch_size=1, instances=2, more=scripted(backend, "task", dying("dies")))
    async with opened(restart=Restart(backoff_min_s=5, jitter=0)) as engine:
        with pytest.raises(ExecutorDied):
            await engine.infer_request(request(id="dies"))
        await trio.testing.wait_all_tasks_blocked()
        assert engine.is_model_ready("m")
        assert len(engine.health().problems) == 1
        for value in range(20):
            assert value_of(await engine.infer_request(request(value=value))) == value
        await trio.sleep(6)
        assert engine.health().problems == ()
        assert backend.instances_open == 2


@pytest.mark.parametrize("strategy", [Stop(), Restart(limit=2, backoff_min_s=0.1, jitter=0)])
async def test_a_model_without_any_instance_left(virtual_time, repository, opened, backend, strategy):
    """Goal: after the last death allowed the model is out of service, with the reason; the others serve on."""
    write_model(repository, "m", more=scripted(backend, "task", dying("dies")))
    write_model(repository, "other")
    async with opened(restart=strategy) as engine:
        for _ in range(1 if isinstance(strategy, Stop) else 3):
            with pytest.raises(ExecutorDied):
                await engine.infer_request(request(id="dies"))
            await trio.sleep(1)
        with pytest.raises((NotFound, NotReady)):
            await engine.infer_request(request())
        (entry,) = [entry for entry in await engine.index() if entry.name == "m"]
        assert entry.state == "UNAVAILABLE"
        assert "no instance is left: instance m_0_0 was killed by signal 9" in entry.reason
        assert value_of(await engine.infer_request(request("other", value=3))) == 3
    assert backend.instances_open == 0


async def test_an_executor_that_does_not_open_again(virtual_time, repository, opened, backend):
    """Goal: a failure to open anew is another death: tried again, with back-off."""
    write_model(repository, "m", more=scripted(backend, "task", dying("dies")))
    async with opened(restart=Restart(backoff_min_s=1, backoff_max_s=4, jitter=0)) as engine:
        backend.instance_error = RuntimeError("no memory")
        with pytest.raises(ExecutorDied):
            await engine.infer_request(request(id="dies"))
        await trio.sleep(8.5)  # at 1, 3 and 7 seconds
        assert "instance m_0_0 is down: RuntimeError: no memory" in engine.health().problems[0]
        backend.instance_error = None
        await trio.sleep(3)
        assert engine.is_ready()
        assert value_of(await engine.infer_request(request(value=1))) == 1


async def test_unloading_while_it_is_down(virtual_time, repository, opened, backend):
    """Goal: nobody waits for the back-off."""
    write_model(repository, "m", more=scripted(backend, "task", dying("dies")))
    options = {"model_control_mode": "explicit", "load_model": "m"}
    async with opened(restart=Restart(backoff_min_s=1000, backoff_max_s=1000), **options) as engine:
        with pytest.raises(ExecutorDied):
            await engine.infer_request(request(id="dies"))
        began = trio.current_time()
        await engine.unload("m")
        await engine.load("m")
        assert trio.current_time() - began < 10
        assert value_of(await engine.infer_request(request(value=1))) == 1


@pytest.mark.parametrize("how", EXECUTORS)
async def test_instances_come_and_go(repository, opened, backend, how):
    """Goal: a running model gets more instances and loses some; nothing that is under way is touched."""
    path = write_model(repository, "m", max_batch_size=1, instances=1, more=scripted(backend, how, answer))
    other = FakeBackend()
    async with opened() as engine:
        model = engine.model("m")
        (one,) = model._contexts
        more = [type(one)(name=f"m_0_{index}", kind="CPU", device_id=0) for index in range(4)]
        assert path.is_dir()
        answers = []

        async def call(value):
            answers.append(value_of(await engine.infer_request(request(value=value))) == value)

        async with trio.open_nursery() as nursery:
            for value in itertools.chain(range(50)):
                nursery.start_soon(call, value)
            config = copy.copy(model.config)
            await model.change_instances(more, config)
            assert backend.models[0].config is config, "what new instances are told"
            assert backend.instances_open == 4
            for value in range(50):
                nursery.start_soon(call, value)
            await model.change_instances(more[2:3], model.config)
            assert backend.instances_open == 1
            for value in range(50):
                nursery.start_soon(call, value)
        assert answers == [True] * 150
        backend.instance_error = RuntimeError("no more")
        with pytest.raises(Fault, match="RuntimeError: no more"):
            await model.change_instances(more, model.config)
        assert backend.instances_open == 1
        assert value_of(await engine.infer_request(request(value=9))) == 9
    assert backend.instances_open == 0
    assert other.instances_open == 0


@given(
    deaths=st.lists(st.floats(0, 1000), min_size=1, max_size=30).map(sorted),
    chance=st.floats(0, 1, exclude_max=True),
    limit=st.integers(1, 10),
    least=st.floats(0, 5),
    most=st.floats(0, 100),
)
def test_how_long_to_wait(deaths, chance, limit, least, most):
    """Goal: never more deaths in the window than allowed; between the bounds but for the jitter."""
    strategy = Restart(limit=limit, window_s=100, backoff_min_s=least, backoff_max_s=most, jitter=0.5)
    now = deaths[-1]
    wait_s = wait_after(strategy, deaths, now, chance)
    recent = sum(now - death <= 100 for death in deaths)
    if recent > limit:
        assert wait_s is None
    else:
        assert 0.5 * min(least, most) <= wait_s <= 1.5 * most
        assert wait_after(
            Restart(limit=limit, window_s=100, backoff_min_s=least, backoff_max_s=most, jitter=0), deaths, now, chance
        ) == min(most, least * 2 ** (recent - 1))
    assert wait_after(Stop(), deaths, now, chance) is None


async def test_other_instances_bring_back_what_stays_down(virtual_time, repository, opened, backend):
    """Goal: an instance that has died for good is opened anew when the instances change, and goes if it is not
    wanted any more; the last one that serves is not retired for one that does not."""
    write_model(repository, "m", max_batch_size=1, instances=2, more=scripted(backend, "task", dying("dies")))
    async with opened(restart=Stop(), model_control_mode="explicit", load_model="m") as engine:
        model = engine.model("m")
        with pytest.raises(ExecutorDied):
            await engine.infer_request(request(id="dies"))
        await trio.testing.wait_all_tasks_blocked()
        assert model.instances.serving == 1
        for instances in (1, 3):
            write_model(repository, "m", max_batch_size=1, instances=instances)
            await engine.load("m")
            assert engine.model("m") is model
            assert (model.instances.serving, engine.health().problems) == (instances, ())
            assert value_of(await engine.infer_request(request(value=4))) == 4
    assert backend.instances_open == 0


@pytest.mark.interpreted
async def test_an_instance_is_retired_while_it_looks_for_work(repository, opened, backend, monkeypatch):
    """Goal: it counts as idle once more, but nobody starts it in vain: the next request is answered."""
    backend.asynchronous = False
    write_model(repository, "m", max_batch_size=1, instances=2)
    looks, retired = threading.Event(), threading.Event()
    take = Feed.take_from_thread

    def late(self, instance):
        if instance.context.name == "m_0_1":
            looks.set()
            retired.wait(10)
        return take(self, instance)

    monkeypatch.setattr(Feed, "take_from_thread", late)
    retire = ThreadInstance.retire
    monkeypatch.setattr(ThreadInstance, "retire", lambda self: (retire(self), retired.set()))
    async with opened() as engine:
        model = engine.model("m")
        await trio.to_thread.run_sync(looks.wait)
        await model.change_instances(model._contexts[:1], model.config)
        await until(lambda: model.scheduler.idle)
        with trio.fail_after(5):
            assert value_of(await engine.infer_request(request(value=4))) == 4


async def test_every_actor_says_what_it_does(repository, opened, backend, tmp_path):
    """Goal: each actor of the page's picture has its line, with what waits for it and of how many."""
    write_model(repository, "m", instances=2)
    trace = TraceSettings(level=("TIMESTAMPS",), rate=1, file=str(tmp_path / "trace"))
    async with opened(trace=trace) as engine:
        await engine.infer_request(request())
        found = {status.name: status for status in engine.status()}
        assert sorted(found) == [
            "inline runner",
            "m:1 instance m_0_0",
            "m:1 instance m_0_1",
            "m:1 queue",
            "repository",
            "trace worker",
        ]
        assert found["m:1 queue"].bound == 100_000
        assert found["m:1 queue"].facts == {"single": 1, "broken": 0}
        assert found["m:1 instance m_0_0"].doing == "serving"
