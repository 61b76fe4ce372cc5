"""Ensembles with decoupled models on virtual time: order, room, failures in their place, leaving, accounting."""

from __future__ import annotations

from contextlib import aclosing

import numpy as np
import pytest
import trio
from despina.engine.model.ensemble.stream_run import SILENT_S_MAX
from despina.schema.fault import DeadlineExceeded, ModelFailure, ShuttingDown, Unavailable
from despina.schema.tensor import Tensor
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import chain, request, value_of, write_ensemble, write_model

DECOUPLED = "model_transaction_policy { decoupled: true }"


def number_in(job):
    return int(job.request.inputs["IN"].numpy().ravel()[0])


def numbers(value):
    return [Tensor.of("OUT", np.full((1, 1), value, np.int32))]


class Script:
    """What models do by their names: `many*` answer 10 * their input + 0, 1, ... , `width` times; others once, with
    their input, after `nap(input)`. A number in `bad` fails there."""

    def __init__(self):
        self.width = 3
        self.bad = {}
        self.nap = lambda name, number: 0
        self.sent = {}
        self.jobs = []
        self.most = {}

    async def __call__(self, batch):
        async with trio.open_nursery() as nursery:
            for job in batch.jobs:
                nursery.start_soon(self.one, job)

    async def one(self, job):
        name, number = job.request.model_name, number_in(job)
        self.jobs.append(job)
        if not name.startswith("many"):
            await trio.sleep(self.nap(name, number))
            if self.bad.get(name) == number:
                job.fail(ModelFailure(f"bad {number}"))
            else:
                job.respond(numbers(number))
            return
        width = self.width if isinstance(self.width, int) else self.width(name, number)
        for index in range(width):
            for _ in range(self.nap(name, index)):
                if not job.is_cancelled():
                    await trio.sleep(1)
            if self.bad.get(name) == index:
                job.send_fault(ModelFailure(f"bad {index}"), final=True)
                return
            if not await job.send_async(numbers(10 * number + index)):
                break
            self.sent[name] = self.sent.get(name, 0) + 1
        await job.send_async(None, final=True)


class Listener:
    def __init__(self, *, consume=True):
        self.consume, self.answers, self.ended = consume, [], trio.Event()

    def __call__(self, stream, answer):
        self.stream = stream
        self.answers.append(answer)
        if answer.final:
            self.ended.set()
            self.ended_at = trio.current_time()
        elif self.consume:
            stream.consumed()

    @property
    def values(self):
        return [value_of(answer.response) for answer in self.answers if answer.response is not None]

    @property
    def faults(self):
        return [answer.fault.message for answer in self.answers if answer.fault is not None]


def write_all(repository):
    for name in ("many", "many2"):
        write_model(repository, name, more=DECOUPLED, instances=4)
    for name in ("a", "b"):
        write_model(repository, name, instances=4)
    for name, steps in {
        "first": ("many", "a"),
        "last": ("a", "many"),
        "twice": ("many", "a", "many2", "b"),
        "outer": ("first", "b"),
        "outer2": ("first", "last"),
    }.items():
        write_ensemble(repository, name, steps=chain(*steps))


@pytest.fixture
def script(backend):
    backend.execute = script = Script()
    return script


@pytest.fixture
async def engine(virtual_time, repository, backend, opened, script):
    write_all(repository)
    async with opened(stream_responses_max=4, exit_timeout_secs=5) as engine:
        yield engine


def counts(engine, name):
    statistics = engine.model(name).statistics
    return statistics.success_count, {k: v for k, v in statistics.failures.items() if v}


async def ask(engine, name, value=1, *, deadline=0.0):
    listener = Listener()
    engine.model(name).submit_stream(request(name, value), listener, deadline)
    await listener.ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    return listener


def assert_idle(engine):
    for model in engine.versions():
        assert (model.ledger.inflight, model.ledger.pins) == (0, 0), model.name


async def test_each_answer_goes_on_by_itself(virtual_time, engine, script):
    """Goal: three answers of the first step are three requests to the second, and three answers in their order, the
    last of them final; the ensemble says that it is decoupled, and counts one request."""
    listener = await ask(engine, "first")
    assert listener.values == [10, 11, 12]
    assert [answer.final for answer in listener.answers][-1]
    assert sum(answer.final for answer in listener.answers) == 1
    assert counts(engine, "first") == counts(engine, "many") == (1, {})
    assert counts(engine, "a") == (3, {})
    config = engine.model("first").config
    assert config.model_transaction_policy.decoupled
    assert_idle(engine)


@pytest.mark.parametrize(("name", "values"), [("last", [10, 11, 12]), ("outer", [10, 11, 12])])
async def test_wherever_the_decoupled_model_is(virtual_time, engine, script, name, values):
    listener = await ask(engine, name)
    assert listener.values == values
    assert_idle(engine)


async def test_decoupled_models_in_line(virtual_time, engine, script):
    """Goal: what the second makes of each answer of the first comes in the order of causes."""
    expected = [10 * (10 + i) + j for i in range(3) for j in range(3)]
    assert (await ask(engine, "twice")).values == expected
    assert (await ask(engine, "outer2")).values == expected
    assert counts(engine, "twice") == counts(engine, "outer2") == (1, {})
    assert_idle(engine)


async def test_order_is_that_of_causes_whatever_is_ready_first(virtual_time, engine, script):
    """Goal: a step that is slow for the first answer does not let the others overtake it."""
    script.nap = lambda name, number: (30 - number) if name == "a" else 0
    listener = await ask(engine, "first")
    assert listener.values == [10, 11, 12]
    script.nap = lambda name, number: (number * 7) % 5
    script.width = 4
    assert (await ask(engine, "twice")).values == [10 * (10 + i) + j for i in range(4) for j in range(4)]


async def test_no_answer_is_an_end(virtual_time, engine, script):
    """Goal: a decoupled model that has nothing to say ends the request, empty; in the middle of a line, too."""
    script.width = 0
    for name in ("first", "last", "outer", "twice", "outer2"):
        listener = await ask(engine, name)
        assert [(answer.response, answer.fault, answer.final) for answer in listener.answers] == [(None, None, True)]
    script.width = lambda name, number: {"many": 3}.get(name, 2 if number == 11 else 0)
    assert (await ask(engine, "twice")).values == [110, 111]
    assert_idle(engine)


async def test_a_failure_comes_in_its_place(virtual_time, engine, script):
    """Goal: what was caused before it is answered, then the one error, prefixed, then nothing; whatever is slower."""
    script.width = 5
    script.bad = {"a": 12}
    script.nap = lambda name, number: 20 if name == "a" and number < 12 else 0
    listener = await ask(engine, "first")
    assert (listener.values, listener.faults) == ([10, 11], ["in ensemble 'first', bad 12"])
    assert [answer.final for answer in listener.answers] == [False, False, True]
    assert counts(engine, "first") == (0, {"OTHER": 1})
    listener = await ask(engine, "outer")
    assert (listener.values, listener.faults) == ([10, 11], ["in ensemble 'outer', in ensemble 'first', bad 12"])
    script.bad = {"many": 2}
    script.nap = lambda name, number: 20 if name == "a" else 0
    listener = await ask(engine, "first")
    assert (listener.values, listener.faults) == ([10, 11], ["in ensemble 'first', bad 2"])
    await trio.sleep(100)
    assert_idle(engine)


async def test_a_reader_that_is_slow_holds_the_models_back(virtual_time, engine, script):
    """Goal: of a thousand answers only as many are made as there is room for on the way, and one more for each that is
    read; all of them come."""
    script.width = 1000
    listener = Listener(consume=False)
    stream = engine.model("first").submit_stream(request("first", 0), listener)
    await trio.testing.wait_all_tasks_blocked()
    room = script.sent["many"]
    assert room <= 6
    for read in range(1, 50):
        stream.consumed()
        await trio.testing.wait_all_tasks_blocked()
        assert script.sent["many"] == room + read
    listener.consume = True
    stream.consumed(len(listener.answers) - 49)
    await listener.ended.wait()
    assert listener.values == list(range(1000))


async def test_a_slow_reader_of_models_in_line(virtual_time, engine, script):
    """Goal: room is bounded at each of them."""
    script.width = 100
    listener = Listener(consume=False)
    stream = engine.model("twice").submit_stream(request("twice", 0), listener)
    await trio.testing.wait_all_tasks_blocked()
    assert script.sent["many"] <= 6
    assert script.sent["many2"] <= 6
    listener.consume = True
    stream.consumed(len(listener.answers))
    await listener.ended.wait()
    assert listener.values == [10 * i + j for i in range(100) for j in range(100)]
    assert_idle(engine)


@pytest.mark.parametrize("name", ["first", "last", "twice", "outer", "outer2"])
@pytest.mark.parametrize("after_s", [0.5, 1.5, 3.5, 7.5])
async def test_a_caller_that_leaves_takes_all_along(virtual_time, engine, script, name, after_s):
    """Goal: at any moment, models learn that nobody wants their answers, nothing begins after it, all is counted."""
    script.width = 1000
    script.nap = lambda *_: 1
    listener = Listener()
    stream = engine.model(name).submit_stream(request(name), listener)
    await trio.sleep(after_s)
    stream.cancel()
    stream.cancel()
    heard, began = len(listener.answers), len(script.jobs)
    assert all(job.is_cancelled() for job in script.jobs if job.state.name == "EXECUTING")
    await trio.sleep(20)
    assert (len(listener.answers), len(script.jobs)) == (heard, began)
    assert counts(engine, name) == (0, {"CANCELED": 1})
    assert_idle(engine)


async def test_deadlines_and_the_end_of_serving(virtual_time, engine, script):
    """Goal: a deadline in the middle is said at once; so is the end of the ensemble, when its grace is over."""
    script.width = 1000
    script.nap = lambda *_: 1
    began = trio.current_time()
    listener = await ask(engine, "first", deadline=began + 5)
    assert isinstance(listener.answers[-1].fault, DeadlineExceeded)
    assert listener.ended_at - began == pytest.approx(5)
    assert counts(engine, "first") == (0, {"CANCELED": 1})
    stream = Listener()
    model = engine.model("first")
    model.submit_stream(request("first"), stream)
    await trio.sleep(3)
    await model.drain(2)
    assert isinstance(stream.answers[-1].fault, ShuttingDown)
    assert stream.answers[-1].final


async def test_a_step_that_waits_for_one_that_is_silent_is_given_up(virtual_time, engine, script):
    """Goal: two uses of one instance, of which one cannot end before the other begins, end in a fault that says so."""
    script.nap = lambda name, number: 10_000 if name == "many2" else 0
    script.width = lambda name, number: 10 if name == "many" else 1
    began = trio.current_time()
    listener = await ask(engine, "twice")
    assert isinstance(listener.answers[-1].fault, Unavailable)
    assert "step of model 'many2' has not answered within 300 s" in listener.faults[-1]
    assert listener.ended_at - began == pytest.approx(SILENT_S_MAX)


async def test_answers_of_a_step_before_do_not_hide_that_one_is_silent(virtual_time, repository, opened, script):
    """Goal: as above, where the step before the silent one goes on answering meanwhile."""
    write_all(repository)
    write_model(repository, "many3", more=DECOUPLED)
    write_ensemble(repository, "thrice", steps=chain("many", "many2", "many3"))
    script.nap = lambda name, index: {"many3": 10_000, "many2": 10}.get(name, 0)
    script.width = lambda name, number: 10
    async with opened(stream_responses_max=2, exit_timeout_secs=5) as engine:
        began = trio.current_time()
        listener = await ask(engine, "thrice")
        assert isinstance(listener.answers[-1].fault, Unavailable)
        assert "step of model 'many3' has not answered within 300 s, and step of model 'many2'" in listener.faults[-1]
        assert listener.ended_at - began == pytest.approx(10 + SILENT_S_MAX)


async def test_what_is_dropped_with_a_failure_does_not_begin(virtual_time, repository, opened, script):
    """Goal: requests that wait for a place in a step do not get it when the failure of one before drops them all."""
    write_all(repository)
    write_ensemble(repository, "narrow", steps=chain("many", "a"), max_inflight=1)
    script.width, script.bad = 4, {"a": 10}
    script.nap = lambda name, number: 5 if name == "a" else 0
    async with opened(stream_responses_max=4, exit_timeout_secs=5) as engine:
        listener = await ask(engine, "narrow")
        assert (listener.values, listener.faults) == ([], ["in ensemble 'narrow', bad 10"])
        await trio.sleep(20)
        assert sum(job.request.model_name == "a" for job in script.jobs) <= 2
        assert sum(counts(engine, "a")[1].values()) <= 2, "the one that failed, and one that had its place then"
        assert_idle(engine)


async def test_the_engines_own_callers(virtual_time, engine, script):
    """Goal: `stream` of the engine serves ensembles, and closing it leaves."""
    script.width = 100
    found = []
    async with aclosing(engine.stream_request(request("first", 0))) as answers:
        async for response in answers:
            found.append(value_of(response))
            if len(found) == 5:
                break
    assert found == [0, 1, 2, 3, 4]
    await trio.testing.wait_all_tasks_blocked()
    assert_idle(engine)


@given(
    name=st.sampled_from(["first", "last", "twice", "outer", "outer2"]),
    widths=st.lists(st.integers(0, 6), min_size=10, max_size=10),
    naps=st.lists(st.sampled_from([0, 0, 1, 3]), min_size=10, max_size=10),
    bad=st.one_of(st.none(), st.tuples(st.sampled_from(["a", "b", "many", "many2"]), st.integers(0, 15))),
    leaves=st.one_of(st.none(), st.floats(0, 20)),
    reads=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    credit=st.integers(1, 4),
)
def test_any_course_answers_what_a_loop_over_the_models_would(
    tmp_path_factory, name, widths, naps, bad, leaves, reads, credit
):
    """Goal: whatever is slow, fails, is read late or left: the answers are the beginning of what nested loops would
    say, all of it if nobody left; an error comes where they meet it; nothing is left in flight."""
    outcome = _played(tmp_path_factory.mktemp("models"), name, widths, naps, bad, leaves, reads, credit)
    expected, error = _looped(name, widths, bad)
    if outcome.left:
        assert outcome.values == expected[: len(outcome.values)]
    else:
        assert outcome.values == expected
        assert len(outcome.faults) == (1 if error else 0)


def _models_of(name):
    return {
        "first": ["many", "a"],
        "last": ["a", "many"],
        "twice": ["many", "a", "many2", "b"],
        "outer": ["many", "a", "b"],
        "outer2": ["many", "a", "a", "many"],
    }[name]


class _Bad(Exception):
    pass


def _looped(name, widths, bad):
    found = []

    def go(models, value):
        if not models:
            found.append(value)
            return
        model, rest = models[0], models[1:]
        if not model.startswith("many"):
            if bad == (model, value):
                raise _Bad
            go(rest, value)
            return
        for index in range(widths[value % 10]):
            if bad == (model, index):
                raise _Bad
            go(rest, 10 * value + index)

    try:
        go(_models_of(name), 1)
    except _Bad:
        return found, True
    return found, False


class _Outcome(Listener):
    left = False


def _played(repository, name, widths, naps, bad, leaves, reads, credit):
    import despina

    from tests.fakes import FakeBackend, inline_run_sync

    script = Script()
    script.width = lambda _, number: widths[number % 10]
    script.nap = lambda model, number: naps[(number + len(model)) % 10]
    script.bad = dict([bad]) if bad else {}
    backend = FakeBackend()
    backend.execute = script
    write_all(repository)
    before, trio.to_thread.run_sync = trio.to_thread.run_sync, inline_run_sync

    async def main():
        outcome = _Outcome(consume=False)
        async with despina.open_engine(
            repository, backends={"fake": backend}, stream_responses_max=credit, exit_timeout_secs=5
        ) as engine:
            stream = engine.model(name).submit_stream(request(name, 1), outcome)

            async def read():
                turn = done = 0
                while not outcome.ended.is_set():
                    await trio.sleep(1)
                    turn += 1
                    count = min(1 + reads[turn % 5], sum(not a.final for a in outcome.answers) - done)
                    done += count
                    stream.consumed(count)

            with trio.move_on_after(leaves if leaves is not None else 5000) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read)
            outcome.left = scope.cancelled_caught
            assert outcome.left is False or leaves is not None, "it never ended"
            stream.cancel()
            await trio.sleep(100)
            assert_idle(engine)
        return outcome

    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio.to_thread.run_sync = before


@pytest.mark.parametrize("case", ["one instance twice", "one turn for both", "within another"])
async def test_steps_that_wait_for_each_other_are_given_up(virtual_time, repository, opened, script, case):
    """Goal: a decoupled model that waits for room, in the only instance or with the only turn that the step after it
    needs, is not waited for without end; the next request is served, and a caller who is slow is none of this."""
    turn = "rate_limiter { resources { name: 'R' global: true count: 1 } }" if case == "one turn for both" else ""
    write_model(repository, "many", more=DECOUPLED, group=turn)
    write_model(repository, "a", group=turn)
    write_ensemble(repository, "e", steps=chain("many", "many" if case == "one instance twice" else "a", "a"))
    write_ensemble(repository, "outer", steps=chain("e", "many"))
    name = "outer" if case == "within another" else "e"
    script.width = lambda _, number: 10 if number == 1 else 1
    async with opened(stream_responses_max=2, exit_timeout_secs=5, rate_limit="execution_count") as engine:
        began = trio.current_time()
        listener = await ask(engine, name)
        assert isinstance(listener.answers[-1].fault, Unavailable)
        assert "and step of model 'many' waits for it" in listener.faults[-1] or name == "outer"
        assert listener.ended_at - began <= (10 if name == "e" else SILENT_S_MAX + 10)
        assert (await ask(engine, name, 2)).faults == []
        assert_idle(engine)


async def test_a_slow_caller_is_waited_for(virtual_time, repository, opened, script):
    """Goal: steps that wait because our caller has not read are no circle, however long that takes."""
    for steps in (("many", "a"), ("many", "a", "many2", "b")):
        write_ensemble(repository, "e", steps=chain(*steps))
        write_all(repository)
        script.width = 10
        async with opened(stream_responses_max=2, exit_timeout_secs=5) as engine:
            listener = Listener(consume=False)
            stream = engine.model("e").submit_stream(request("e", 1), listener)
            for _ in range(200 if len(steps) > 2 else 12):
                await trio.sleep(2 * SILENT_S_MAX)
                stream.consumed()
            assert listener.ended.is_set()
            assert listener.faults == []
