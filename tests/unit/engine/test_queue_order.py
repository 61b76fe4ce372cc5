"""The orders that a queue can be served in: turns of callers, newest first while it stands; against naive oracles."""

from itertools import islice

import attrs
import pytest
from despina.engine.port.settings import EngineSettings
from despina.engine.request.job import Job, JobState, move
from despina.engine.schedule.batching import BatchRule
from despina.engine.schedule.dynamic import DynamicBatcher
from despina.engine.schedule.lines import ArrivalLine, FairLine
from despina.engine.schedule.order import ARRIVAL, QueueOrder, order_of
from despina.engine.schedule.standing import INTERVAL_COSTS, INTERVAL_S, TARGET_S, StandingQueue
from despina.schema.fault import Unavailable
from despina.schema.inference import InferenceRequest
from despina.schema.model_config import parse_config
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule


def job(caller="", rows=1, *, id="", queued_at=0.0):
    parameters = {"caller": caller} if caller else None
    made = Job(InferenceRequest("m", {}, id=id, parameters=parameters), lambda _: None)
    made.batch_size, made.queued_at = rows, queued_at
    return made


def caller(job):
    return (job.request.parameters or {}).get("caller", "")


def ids(jobs):
    return [each.request.id for each in jobs]


class NaiveRounds:
    """Deficit round robin, read aloud: callers as they came; in each round, one row more for each."""

    def __init__(self):
        self.queues = []
        """[caller, credit, jobs], whose turn it is first."""

    def append(self, job):
        for queue in self.queues:
            if queue[0] == caller(job):
                queue[2].append(job)
                return
        self.queues.append([caller(job), 1, [job]])

    def pop(self, newest):
        while True:
            queue = self.queues[0]
            head = queue[2][-1 if newest else 0]
            rows = head.batch_size if head.state is JobState.QUEUED else 0
            if rows <= queue[1]:
                queue[1] -= rows
                queue[2].remove(head)
                if not queue[2]:
                    self.queues.pop(0)
                return head
            queue[1] += 1
            self.queues.append(self.queues.pop(0))

    def remove(self, job):
        for queue in self.queues:
            if job in queue[2]:
                queue[2].remove(job)
        self.queues = [queue for queue in self.queues if queue[2]]

    def sweep(self):
        for queue in self.queues:
            queue[2] = [job for job in queue[2] if job.state is JobState.QUEUED]
        self.queues = [queue for queue in self.queues if queue[2]]

    def jobs(self):
        return [job for queue in self.queues for job in queue[2]]


class FairLines(RuleBasedStateMachine):
    """Goal: whatever comes, goes, leaves or is swept out, a fair line serves as the naive rounds do, and its look ahead
    says what its pops give."""

    def __init__(self):
        super().__init__()
        self.line = FairLine(caller)
        self.naive = NaiveRounds()
        self.newest = False

    @rule(whose=st.sampled_from("abcd"), rows=st.sampled_from([1, 1, 1, 2, 3, 7]))
    def come(self, whose, rows):
        made = job(whose, rows)
        self.line.append(made)
        self.naive.append(made)

    @precondition(lambda self: len(self.line))
    @rule(count=st.integers(1, 4))
    def take(self, count):
        for _ in range(min(count, len(self.line))):
            expected = next(self.line.in_order(self.newest), None)
            popped = self.line.pop() if self.newest else self.line.popleft()
            assert popped is self.naive.pop(self.newest)
            assert popped is expected or popped.state is not JobState.QUEUED

    @precondition(lambda self: len(self.line))
    @rule()
    def put_back(self):
        popped = self.line.pop() if self.newest else self.line.popleft()
        self.line.give_back(popped, self.newest)
        assert next(self.line.in_order(self.newest)) is popped
        assert (self.line.pop() if self.newest else self.line.popleft()) is popped
        assert self.naive.pop(self.newest) is popped

    @precondition(lambda self: len(self.line))
    @rule(data=st.data())
    def leave(self, data):
        chosen = data.draw(st.sampled_from(self.naive.jobs()))
        if chosen.state is JobState.QUEUED:
            move((chosen,), JobState.CANCELLED)

    @precondition(lambda self: len(self.line))
    @rule(data=st.data())
    def remove(self, data):
        chosen = data.draw(st.sampled_from(self.naive.jobs()))
        assert chosen in self.line
        self.line.remove(chosen)
        self.naive.remove(chosen)
        assert chosen not in self.line

    @rule()
    def sweep(self):
        self.line.sweep()
        self.naive.sweep()

    @rule()
    def turn_round(self):
        self.newest = not self.newest

    @invariant()
    def same(self):
        assert sorted(map(id, self.line)) == sorted(map(id, self.naive.jobs()))
        assert len(self.line) == len(self.naive.jobs())
        assert self.line.callers == len(self.naive.queues)

    def teardown(self):
        expected = list(self.line.in_order(self.newest))
        popped = []
        while len(self.line):
            popped.append(self.line.pop() if self.newest else self.line.popleft())
            assert popped[-1] is self.naive.pop(self.newest)
        assert expected == popped


TestFairLines = FairLines.TestCase


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5)), max_size=60))
def test_nobody_gets_more_than_his_share(asks):
    """Goal: while two callers both wait, neither has had more rows than the other but for one request and a row."""
    line = FairLine(caller)
    waiting = {"a": 0, "b": 0}
    for whose, rows in asks:
        line.append(job(whose, rows))
        waiting[whose] += 1
    served = {"a": 0, "b": 0}
    while waiting["a"] and waiting["b"]:
        assert abs(served["a"] - served["b"]) <= 5 + 1
        popped = line.popleft()
        served[caller(popped)] += popped.batch_size
        waiting[caller(popped)] -= 1


def test_who_sends_little_does_not_wait_for_who_sends_much():
    """Goal: the first request of a caller is in the next batch, whatever waits of others; no name is a name, too."""
    box = DynamicBatcher(BatchRule(rows_max=4), 1000, lambda: 0.0, order=QueueOrder(caller="caller"))
    for index in range(20):
        box.put(job("loud", id=f"loud {index}"))
    box.put(job("quiet", id="quiet"))
    box.put(job(id="nobody"))
    batch, _, _ = box.take("i", 0.0)
    assert ids(batch.jobs) == ["loud 0", "quiet", "nobody", "loud 1"]


def test_what_is_too_late_is_nobodys_turn():
    """Goal: a caller most of whose requests can no longer be in time still has his share of those that can."""
    box = DynamicBatcher(BatchRule(rows_max=1), 1000, lambda: 10.0, order=QueueOrder(caller="caller"))
    for index in range(6):
        late = job("late", id=f"late {index}")
        late.deadline = 10.5 if index % 3 < 2 else 20.0
        box.put(late)
        box.put(job("other", id=f"other {index}"))
    assert [ids(box.take("i", 1.0)[0].jobs)[0] for _ in range(4)] == ["late 2", "other 0", "late 5", "other 1"]


def test_many_callers_with_large_requests_cost_no_rounds_by_the_row():
    """Goal: a look at ten thousand callers who each want a thousand rows is two rounds, not a thousand."""
    line = FairLine(caller)
    for index in range(10_000):
        line.append(job(f"c{index}", 1000))
    looked = 0

    class Counting(dict):
        def get(self, *key):
            nonlocal looked
            looked += 1
            return super().get(*key)

    for entry in line._ring:
        entry.jobs[0].request.parameters = Counting(caller=entry.key)
    assert [caller(each) for each in islice(line.in_order(False), 3)] == ["c0", "c1", "c2"]
    first = line.popleft()
    assert (caller(first), looked <= 10) == ("c0", True)
    assert all(entry.credit == 1000 for entry in line._ring)


# --- Newest first


@attrs.frozen
class Took:
    now: float
    waited_s: float | None
    waiting: int


def stands(history, patience_s, cost_s):
    """Read aloud: some time after the queue was last empty, everybody taken over an interval had waited too long."""
    drained = max((index for index, took in enumerate(history) if not took.waiting), default=-1)
    telling = [took for took in history[drained + 1 :] if took.waited_s is not None]
    long = [took.waited_s >= max(TARGET_S, cost_s) + patience_s for took in telling]
    interval_s = max(INTERVAL_S, INTERVAL_COSTS * cost_s)
    return any(
        all(long[start : end + 1]) and telling[end].now - telling[start].now >= interval_s
        for end in range(len(telling))
        for start in range(end)
    )


@given(
    st.lists(
        st.builds(
            Took,
            st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.2]),
            st.sampled_from([None, 0.0, 0.004, 0.006, 0.02, 0.05]),
            st.sampled_from([0, 1, 2, 3, 5]),
        ),
        max_size=30,
    ),
    st.sampled_from([0.0, 0.01]),
    st.sampled_from([0.0, 0.002, 0.015]),
)
def test_a_queue_stands_when_nobody_finds_it_nearly_empty(steps, patience_s, cost_s):
    """Goal: the policy agrees with the definition over the whole history, at each step."""
    queue = StandingQueue(patience_s, cost_s)
    history = []
    now = 100.0
    for step in steps:
        now += step.now
        history.append(Took(now, step.waited_s, step.waiting))
        queue.took(now, step.waited_s, step.waiting)
        assert queue.newest_first == stands(history, patience_s, cost_s)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("order", [QueueOrder(adaptive=True), QueueOrder(adaptive=True, caller="caller")])
def test_newest_first_until_drained(order):
    """Goal: a burst is served in its order; a queue that stands, newest first, batch after batch, until it is empty."""
    clock = Clock()
    box = DynamicBatcher(BatchRule(rows_max=2), 1000, clock, order=order)
    for index in range(30):
        box.put(job(id=str(index)))
    taken = []
    for _ in range(15):
        clock.now += 0.02
        taken.append([int(each) for each in ids(box.take("i", 0.0)[0].jobs)])
    # The sixth after the first that had waited long is the first to find that it stands.
    assert taken[:6] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert taken[6:] == [[high, high - 1] for high in range(29, 12, -2)]
    box.put(job(id="a"))
    box.put(job(id="b"))
    assert ids(box.take("i", 0.0)[0].jobs) == ["a", "b"]


def test_a_queue_of_deadlines_does_not_stand():
    """Goal: who says when he leaves is served in order; who cannot be in time is not served."""
    clock = Clock()
    box = DynamicBatcher(BatchRule(rows_max=1), 1000, clock, order=QueueOrder(adaptive=True))
    for index in range(30):
        waits = job(id=str(index))
        waits.deadline = 100.0
        box.put(waits)
    for index in range(30):
        clock.now += 0.02
        assert ids(box.take("i", 0.0)[0].jobs) == [str(index)]


def test_a_stranger_is_put_back_where_he_came_from():
    """Goal: a late one leaves a batch, one of another shape comes up, and is the next to be served, from either end."""
    for newest in (False, True):
        clock = Clock()
        box = DynamicBatcher(BatchRule(rows_max=2), 1000, clock, order=QueueOrder(adaptive=True))
        first, late, stranger = job(id="first"), job(id="late"), job(id="stranger")
        first.key = late.key = "same"
        late.deadline, stranger.key = 0.5, "other"
        for each in reversed((first, late, stranger)) if newest else (first, late, stranger):
            box.put(each)
        box.levels.newest_first = newest
        clock.now = 1.0
        batch, missed, _ = box.take("i", 0.0)
        assert (ids(batch.jobs), ids(missed)) == (["first"], ["late"])
        assert ids(box.take("i", 0.0)[0].jobs) == ["stranger"]


# --- What is asked for


def settings(**options):
    return EngineSettings(model_repository="/models", **options)


def config(*parameters, more=""):
    text = "".join(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters)
    return parse_config(f'name: "m" max_batch_size: 4 {text} {more}'.encode())


def test_a_models_own_parameters_come_before_settings():
    """Goal: off by default; settings are for all; a model may ask for one or the other, or for neither."""
    assert order_of(config(), settings()) == ARRIVAL
    both = settings(queue_order="adaptive", fair_queueing="who")
    assert order_of(config(), both) == QueueOrder(True, "who")
    assert order_of(config(("DESPINA_QUEUE_ORDER", "arrival"), ("DESPINA_FAIR_QUEUEING", "")), both) == ARRIVAL
    own = config(("DESPINA_QUEUE_ORDER", "adaptive"), ("DESPINA_FAIR_QUEUEING", "x-key"))
    assert order_of(own, settings()) == QueueOrder(True, "x-key")
    assert isinstance(ARRIVAL.line(), ArrivalLine)


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("sequence_batching", "sequence_batching {}"),
        ("dynamic_batching.preserve_ordering", "dynamic_batching { preserve_ordering: true }"),
    ],
)
def test_where_order_is_asked_for_it_is_kept(what, more):
    """Goal: settings for all change nothing there, and the model's own wish for both fails the load by name."""
    assert order_of(config(more=more), settings(queue_order="adaptive", fair_queueing="who")) == ARRIVAL
    for parameter, value in (("DESPINA_QUEUE_ORDER", "adaptive"), ("DESPINA_FAIR_QUEUEING", "who")):
        with pytest.raises(Unavailable, match=f"parameter '{parameter}': '{what}' keeps the order of arrival"):
            order_of(config((parameter, value), more=more), settings())


def test_no_other_order():
    """Goal: a wrong word fails the load and names what was expected."""
    with pytest.raises(Unavailable, match="'DESPINA_QUEUE_ORDER': expected arrival or adaptive, got 'newest'"):
        order_of(config(("DESPINA_QUEUE_ORDER", "newest")), settings())
    with pytest.raises(ValueError, match="queue_order"):
        settings(queue_order="newest")
