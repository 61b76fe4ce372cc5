"""Steps of ensembles whose models are bound to their threads: what follows on one is begun by the thread that has
executed it, while the trio thread waits; all else is the trio thread's, and everything is counted as ever."""

import threading
import time

import pytest
import trio
from despina.engine.execute import inline
from despina.schema.fault import Cancelled, ModelFailure, QueueFull

from tests.fakes import answer, chain, request, value_of, write_ensemble, write_model
from tests.unit.engine.test_attending import learned


@pytest.fixture
def bound(repository, backend, monkeypatch):
    """A backend on threads that may not move; ensemble `e` of models `m`, `n` and `m` again, in line. The trio thread
    waits for as long as it takes."""
    backend.asynchronous, backend.movable = False, False
    for name in ("m", "n"):
        write_model(repository, name, more="dynamic_batching {}")
    write_ensemble(repository, "e", steps=chain("m", "n", "m"))
    monkeypatch.setattr(inline, "ATTEND_S", 10)
    return backend


class Asked:
    """Notes which thread asks a model, and may refuse."""

    def __init__(self, model):
        self.by = []
        self.refusal = None
        self._submit, model.submit = model.submit, self

    def __call__(self, *arguments, **more):
        self.by.append(threading.current_thread().name)
        if self.refusal is not None:
            raise self.refusal
        return self._submit(*arguments, **more)


class Told:
    """A caller: the calls that are over, and the thread on which it hears so."""

    def __init__(self):
        self.calls = []
        self.threads = set()

    def __call__(self, call):
        self.calls.append(call)
        self.threads.add(threading.get_ident())


def in_a_pass(engine, *requests, **options):
    """A caller's requests, found by a door in one pass: what has become of them by its end."""
    told = Told()
    engine.inline.begin_pass()
    calls = [engine.model("e").submit(one, told, **options) for one in requests]
    engine.inline.end_pass()
    return told, calls


def counts(engine, *names):
    models = [engine.model(name) for name in names]
    return [
        (one.statistics.success_count, {k: v for k, v in one.statistics.failures.items() if v}, one.ledger.inflight)
        for one in models
    ]


@pytest.mark.interpreted
async def test_a_step_follows_on_the_thread_of_the_one_before(bound, opened):
    """Goal: one wake-up for the whole ensemble; the caller hears on the trio thread; counts are exact."""
    where = []

    def behave(batch):
        where.append(threading.current_thread().name)
        answer(batch)

    async with opened() as engine:
        await learned(engine, "m", "n")
        before = counts(engine, "m", "n")
        bound.execute_sync = behave
        asked = [Asked(engine.model(name)) for name in ("m", "n")]
        told, _ = in_a_pass(engine, request("e", 5))
        (call,) = told.calls
        assert value_of(call.response) == 5
        assert told.threads == {threading.get_ident()}
        assert where == ["despina/m_0_0", "despina/n_0_0", "despina/m_0_0"]
        assert asked[0].by == [threading.current_thread().name, "despina/n_0_0"]
        assert asked[1].by == ["despina/m_0_0"]
        assert counts(engine, "e", "m", "n") == [
            (1, {}, 0),
            (before[0][0] + 2, {}, 0),
            (before[1][0] + 1, {}, 0),
        ]
        assert engine.model("e").ledger.broken == 0


async def test_requests_share_batches_within_steps(bound, opened):
    async with opened() as engine:
        await learned(engine, "m", "n")
        bound.executed.clear()
        told, _ = in_a_pass(engine, *(request("e", value) for value in range(4)))
        assert sorted(value_of(call.response) for call in told.calls) == [0, 1, 2, 3]
        assert [one.size for one in bound.executed] == [4, 4, 4]


@pytest.mark.interpreted
async def test_what_needs_the_trio_thread_is_left_to_it(bound, opened):
    """Goal: deadlines are kept by trio's clock."""
    async with opened() as engine:
        await learned(engine, "m", "n")
        asked = Asked(engine.model("n"))
        told, _ = in_a_pass(engine, request("e", 5), deadline=trio.current_time() + 60)
        assert value_of(told.calls[0].response) == 5
        assert asked.by == [threading.current_thread().name]


@pytest.mark.interpreted
async def test_a_step_that_is_refused_there(bound, opened):
    """Goal: the caller hears on the trio thread, once."""
    async with opened() as engine:
        await learned(engine, "m", "n")
        asked = Asked(engine.model("n"))
        asked.refusal = QueueFull("no place")
        told, _ = in_a_pass(engine, request("e", 5))
        (call,) = told.calls
        assert call.fault.message == "in ensemble 'e', no place"
        assert asked.by == ["despina/m_0_0"]
        assert told.threads == {threading.get_ident()}
        assert counts(engine, "e") == [(0, {"OTHER": 1}, 0)]
        asked.refusal = None
        assert value_of(await engine.infer_request(request("e", 6))) == 6


async def test_a_step_that_fails_there(bound, opened):
    def behave(batch):
        if batch.jobs[0].request.model_name == "n":
            raise ModelFailure("broken")
        answer(batch)

    async with opened() as engine:
        await learned(engine, "m", "n")
        bound.execute_sync = behave
        told, _ = in_a_pass(engine, request("e", 5))
        (call,) = told.calls
        assert call.fault.message == "in ensemble 'e', broken"
        assert told.threads == {threading.get_ident()}
        assert [one[1] for one in counts(engine, "e", "n")] == [{"OTHER": 1}, {"BACKEND": 1}]


@pytest.mark.interpreted
async def test_a_bug_there_is_told_here(bound, opened, monkeypatch):
    """Goal: whatever breaks between two steps ends the request, and no thread."""
    async with opened() as engine:
        await learned(engine, "m", "n")
        asked = Asked(engine.model("n"))
        asked.refusal = RuntimeError("a bug")
        told, _ = in_a_pass(engine, request("e", 5))
        assert "a bug" in told.calls[0].fault.message
        assert told.threads == {threading.get_ident()}
        asked.refusal = None
        assert value_of(await engine.infer_request(request("e", 6))) == 6


async def test_the_trio_thread_sleeps_for_nobody(bound, opened):
    """Goal: if the next model is at work for others, and this one has nothing more to do, the pass goes on."""
    gate = threading.Event()
    begun = threading.Event()

    def behave(batch):
        if batch.jobs[0].request.model_name == "n" and not begun.is_set():
            begun.set()
            assert gate.wait(30)
        answer(batch)

    async with opened() as engine:
        await learned(engine, "m", "n")
        bound.execute_sync = behave
        engine.model("n")._feed.cost.inline = False  # nobody waits for it
        others = Told()
        engine.model("n").submit(request("n", 1), others)
        with trio.fail_after(30):
            while not begun.is_set():  # noqa: ASYNC110  a thread sets it
                await trio.sleep(0.001)
        began = time.monotonic()
        told, _ = in_a_pass(engine, request("e", 5))
        assert time.monotonic() - began < 5
        assert not told.calls
        gate.set()
        with trio.fail_after(30):
            while not told.calls:  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert value_of(told.calls[0].response) == 5
        assert len(others.calls) == 1


@pytest.mark.interpreted
async def test_a_caller_that_leaves_meanwhile(bound, opened, monkeypatch):
    """Goal: the first step runs on, the second does not begin; both ends are counted."""
    gate = threading.Event()
    monkeypatch.setattr(inline, "ATTEND_S", 0.01)

    def behave(batch):
        assert gate.wait(30)
        answer(batch)

    async with opened() as engine:
        await learned(engine, "m", "n")
        bound.execute_sync = behave
        asked = Asked(engine.model("n"))
        told, (call,) = in_a_pass(engine, request("e", 5))
        call.cancel()
        gate.set()
        with trio.fail_after(30):
            while engine.model("m").ledger.inflight:  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert not told.calls
        assert isinstance(call.fault, Cancelled)
        assert not asked.by
        assert [one[1] for one in counts(engine, "e", "m")] == [{"CANCELED": 1}, {"CANCELED": 1}]


async def test_unloaded_meanwhile(bound, opened):
    """Goal: who waits for the last request to end is told by the trio thread."""
    async with opened(model_control_mode="explicit", load_model=["e"]) as engine:
        await learned(engine, "m", "n")
        model = engine.model("m")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.unload, "e")
            told, _ = in_a_pass(engine, *(request("e", value) for value in range(3)))
        assert len(told.calls) == 3
        await engine.unload("m")
        assert model.ledger.inflight == 0
