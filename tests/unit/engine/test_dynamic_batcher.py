"""The dynamic batcher by itself: order, bounds, who wins, and that no arrival is missed."""

import threading
from collections import Counter

import pytest
from despina.engine.request.job import Job, JobState
from despina.engine.schedule.batching import BatchRule
from despina.engine.schedule.dynamic import TOMBSTONES_MIN, DynamicBatcher
from despina.schema.fault import QueueFull
from despina.schema.inference import InferenceRequest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

NEVER = 0.0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def batcher(*, rows_max=1, levels=(0,), size_max=1000, clock=None, **options):
    return DynamicBatcher(
        BatchRule(rows_max=rows_max, **options),
        size_max,
        clock or Clock(),
        prioritised=len(levels) > 1,
        size_max_of=lambda level: levels[level],
    )


def job(id="", *, level=0, rows=1, key=None, deadline=NEVER, queued_at=100.0):
    made = Job(InferenceRequest("m", {}, id=id), lambda _: None)
    made.level, made.batch_size, made.key, made.deadline, made.queued_at = level, rows, key, deadline, queued_at
    return made


def taken(box, instance="i", cost_s=0.0):
    batch, late, wake_at = box.take(instance, cost_s)
    return [each.request.id for each in batch.jobs] if batch else None, [each.request.id for each in late], wake_at


def test_levels_in_order_and_first_come_within():
    """Goal: strictly by level, then by arrival."""
    box = batcher(levels=(0, 0, 0))
    for id, level in (("c1", 2), ("a1", 0), ("b1", 1), ("a2", 0), ("c2", 2)):
        box.put(job(id, level=level))
    assert [taken(box)[0] for _ in range(6)] == [["a1"], ["a2"], ["b1"], ["c1"], ["c2"], None]


def test_the_delayed_come_last_in_their_level():
    """Goal: behind what came later on the level, before the next level; a job that has left cannot be delayed."""
    box = batcher(levels=(0, 0))
    jobs = [job(id, level=level) for id, level in (("a", 0), ("b", 0), ("low", 1))]
    for each in jobs:
        box.put(each)
    assert box.delay(jobs[0])
    assert not box.delay(jobs[0])
    assert box.leave(jobs[1], JobState.CANCELLED)
    assert not box.delay(jobs[1])
    box.put(job("c"))
    assert [taken(box)[0] for _ in range(4)] == [["c"], ["a"], ["low"], None]
    assert (box.live, box.levels.tombstones) == (0, 0)


def test_bounds():
    """Goal: per level and in all; what is delayed counts, what has left does not; the refused is over."""
    box = batcher(levels=(2, 0), size_max=4)
    first = [job(f"a{index}") for index in range(2)]
    for each in first:
        box.put(each)
    refused = job("a2")
    with pytest.raises(QueueFull, match=r"^\[request id: a2\] Exceeds maximum queue size$"):
        box.put(refused)
    assert refused.state is JobState.REJECTED
    assert not box.leave(refused, JobState.CANCELLED)
    box.delay(first[0])
    with pytest.raises(QueueFull):
        box.put(job())
    box.put(job(level=1))
    box.put(job(level=1))
    with pytest.raises(QueueFull):
        box.put(job(level=1))
    box.leave(first[1], JobState.CANCELLED)
    box.put(job())
    assert box.live == 4


def test_who_finds_nothing_is_idle_and_is_started_by_the_next_arrival():
    """Goal: each idle instance is handed out once, last in first out; wake gives one only if somebody waits."""
    box = batcher()
    assert taken(box, "x") == (None, [], NEVER)
    assert taken(box, "y") == (None, [], NEVER)
    assert box.wake() is None
    assert box.put(job("a")) == "y"
    assert box.wake() == "x"
    assert box.put(job("b")) is None
    assert taken(box, "x")[0] == ["a"]


def test_claims():
    """Goal: an idle instance may be claimed only while nobody waits, and rests only if nobody came meanwhile."""
    box = batcher()
    taken(box, "x")
    assert box.claim() == "x"
    assert box.claim() is None
    assert box.put(job("a")) is None
    assert not box.rest("x")
    assert taken(box, "x")[0] == ["a"]
    assert box.rest("x")
    assert box.idle == ["x"]
    box.idle.clear()
    box.put(job("b"))
    box.idle.append("z")
    assert box.claim() is None


def test_what_was_taken_ahead_may_be_given_back():
    """Goal: it is first in line again, in order, and may leave; who finds nothing to take ahead is not idle."""
    box = batcher()
    waiting = [job(id) for id in "abc"]
    for each in waiting:
        box.put(each)
    box.put(job("late", deadline=99.0))
    assert taken(box)[0] == ["a"]
    ahead = [box.ahead.take_ahead(0.0)[0] for _ in "bc"]
    batch, late = box.ahead.take_ahead(0.0)
    assert batch is None
    assert [each.request.id for each in late] == ["late"]
    assert (box.live, box.idle) == (0, [])
    assert not box.leave(waiting[1], JobState.CANCELLED)
    for batch in reversed(ahead):
        box.ahead.give_back(batch.jobs)
    assert (box.live, box.levels.first.live) == (2, 2)
    assert box.leave(waiting[1], JobState.CANCELLED)
    assert taken(box)[0] == ["c"]
    assert box.ahead.take_ahead(0.0) == (None, [])
    assert box.idle == []


@pytest.mark.parametrize("options", [{"rows_max": 2}, {"levels": (0, 0)}])
def test_nothing_is_taken_ahead_where_others_may_join_or_be_more_urgent(options):
    assert batcher(**options).ahead is None
    assert batcher().ahead is not None


def test_the_late_are_given_up_when_their_turn_comes():
    """Goal: whose deadline falls within the cost is not executed; exactly at the deadline is in time."""
    box = batcher()
    for id, deadline in (("late", 100.4), ("just", 100.5), ("none", NEVER)):
        box.put(job(id, deadline=deadline))
    assert taken(box, cost_s=0.5) == (["just"], ["late"], NEVER)
    assert taken(box, cost_s=0.5) == (["none"], [], NEVER)


def test_a_batch_of_the_late_only_looks_again_at_once():
    """Goal: behind a batch that was all late somebody may still wait."""
    box = batcher(rows_max=2)
    for id, deadline in (("a", 99), ("b", 99), ("c", 99), ("ok", NEVER)):
        box.put(job(id, deadline=deadline))
    batch, late, wake_at = taken(box)
    seen = list(late)
    while batch is None and wake_at:
        assert box.wake() == "i"
        batch, late, wake_at = taken(box)
        seen += late
    assert (batch, seen) == (["ok"], ["a", "b", "c"])


def test_a_stranger_behind_a_late_one_keeps_its_place():
    """Goal: when a late job falls out, what no longer fits goes back to the front of its level."""
    box = batcher(rows_max=4, levels=(0, 0))
    for id, level, key, deadline in (("late", 0, "k", 99), ("a", 0, "k", NEVER), ("b", 0, "other", NEVER)):
        box.put(job(id, level=level, key=key, deadline=deadline))
    box.put(job("low", level=1, key="k"))
    assert taken(box)[:2] == (["a"], ["late"])
    assert taken(box)[0] == ["b"]
    assert taken(box)[0] == ["low"]
    assert (box.live, box.levels.tombstones) == (0, 0)


def test_a_delay_is_waited_for_to_the_point():
    """Goal: the time to look again is arrival plus delay exactly, and at that time the batch goes: no busy wait."""
    clock = Clock()
    box = batcher(rows_max=8, delay_s=0.1, clock=clock)
    for tick in range(200):
        clock.now = arrival = 1.2345 + tick * 0.0701
        box.put(job("a", queued_at=arrival))
        _, _, wake_at = taken(box)
        assert wake_at > clock.now
        clock.now = wake_at
        assert taken(box)[0] == ["a"]


def test_tombstones_are_swept():
    """Goal: a queue that is cancelled as fast as it fills does not grow."""
    box = batcher()
    box.put(job("stays"))
    for _ in range(10 * TOMBSTONES_MIN):
        gone = job()
        box.put(gone)
        assert box.leave(gone, JobState.CANCELLED)
        assert len(box.levels.first.jobs) <= TOMBSTONES_MIN + 2
    assert box.live == 1
    assert taken(box)[0] == ["stays"]


def test_levels_cost_nothing_until_they_are_used():
    """Goal: of 2^64 possible levels only those in use exist, and they go again."""
    box = DynamicBatcher(BatchRule(rows_max=1), 1000, Clock(), prioritised=True)
    for level in (2**64 - 2, 7, 2**40, 0):
        box.put(job(str(level), level=level))
    gone = job("gone", level=5)
    box.put(gone)
    assert [level.number for level in box.levels.in_use] == [0, 5, 7, 2**40, 2**64 - 2]
    assert box.leave(gone, JobState.CANCELLED)
    assert [taken(box)[0] for _ in range(5)] == [["0"], ["7"], [str(2**40)], [str(2**64 - 2)], None]
    assert [level.number for level in box.levels.in_use] == [0]
    assert box.levels.tombstones == 0


def test_levels_of_jobs_that_left_go_behind_those_that_wait():
    """Goal: requests of ever new priorities that leave again keep no memory, even while an urgent one waits."""
    box = DynamicBatcher(BatchRule(rows_max=1), 1000, Clock(), prioritised=True)
    box.put(job("urgent"))
    for level in range(1, 1000):
        gone = job(level=level)
        box.put(gone)
        assert box.leave(gone, JobState.CANCELLED)
        assert len(box.levels.in_use) <= TOMBSTONES_MIN + 2
    box.put(job("last", level=500))
    assert [taken(box)[0] for _ in range(3)] == [["urgent"], ["last"], None]


def test_drain_takes_everything():
    """Goal: every level, delayed ones too, in serving order; tombstones are not handed out."""
    box = batcher(levels=(0, 0))
    jobs = [job(id, level=level) for id, level in (("low", 1), ("a", 0), ("b", 0), ("gone", 0))]
    for each in jobs:
        box.put(each)
    box.delay(jobs[1])
    box.leave(jobs[3], JobState.CANCELLED)
    assert [each.request.id for each in box.drain(JobState.REJECTED)] == ["b", "a", "low"]
    assert (box.live, box.levels.tombstones, [level.live for level in box.levels.in_use]) == (0, 0, [0])
    assert {each.state for each in jobs} == {JobState.REJECTED, JobState.CANCELLED}
    assert taken(box)[0] is None


class Model(RuleBasedStateMachine):
    """Against lists: what is queued, level by level, in serving order."""

    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.box = batcher(rows_max=4, levels=(5, 0, 3), size_max=9)
        self.fresh = [[], [], []]
        self.delayed = [[], [], []]
        self.idle = []
        self.owned = ["i1", "i2"]

    def waiting(self):
        return [each for level in range(3) for each in self.fresh[level] + self.delayed[level]]

    @rule(target=jobs, level=st.integers(0, 2), rows=st.integers(1, 4), key=st.sampled_from("kkq"))
    def put(self, level, rows, key):
        made = job(level=level, rows=rows, key=key)
        bound = (5, 99, 3)[level]
        if len(self.fresh[level] + self.delayed[level]) >= bound or len(self.waiting()) >= 9:
            with pytest.raises(QueueFull):
                self.box.put(made)
        else:
            started = self.box.put(made)
            assert started == (self.idle.pop() if self.idle else None)
            if started:
                self.owned.append(started)
            self.fresh[level].append(made)
        return made

    @rule(made=jobs)
    def leave(self, made):
        queued = made in self.waiting()
        assert self.box.leave(made, JobState.CANCELLED) == queued
        if queued:
            (self.fresh if made in self.fresh[made.level] else self.delayed)[made.level].remove(made)

    @rule(made=jobs)
    def delay(self, made):
        fresh = made in self.fresh[made.level]
        assert self.box.delay(made) == fresh
        if fresh:
            self.fresh[made.level].remove(made)
            self.delayed[made.level].append(made)

    @rule()
    def take(self):
        if not self.owned:
            return
        instance = self.owned.pop()
        batch, late, wake_at = self.box.take(instance, 0.0)
        assert late == []
        assert wake_at == NEVER
        if batch is None:
            assert self.waiting() == []
            self.idle.append(instance)
            return
        self.owned.append(instance)
        expected = self.waiting()[: len(batch.jobs)]
        assert batch.jobs == expected
        assert batch.size == sum(each.batch_size for each in expected) <= 4
        assert len({each.key for each in expected}) == 1
        rest = self.waiting()[len(expected) :]
        assert not rest or batch.size + rest[0].batch_size > 4 or rest[0].key != expected[0].key
        for each in expected:
            assert each.state is JobState.EXECUTING
            (self.fresh if each in self.fresh[each.level] else self.delayed)[each.level].remove(each)

    @rule()
    def drain(self):
        assert self.box.drain(JobState.REJECTED) == self.waiting()
        self.fresh = [[], [], []]
        self.delayed = [[], [], []]

    @rule(made=consumes(jobs))
    def forget(self, made):
        pass

    @invariant()
    def books(self):
        assert self.box.live == len(self.waiting())
        expected = {level: len(self.fresh[level]) + len(self.delayed[level]) for level in range(3)}
        levels = self.box.levels
        assert {level.number: level.live for level in levels.in_use if level.live} == {
            level: live for level, live in expected.items() if live
        }
        assert levels.tombstones == sum(len(level) - level.live for level in levels.in_use)
        assert all(each.state is JobState.QUEUED for each in self.waiting())
        assert self.box.idle == self.idle


TestModel = Model.TestCase


def test_two_threads_and_one_winner():
    """Goal: real threads: of take, cancel and expire exactly one gets each job, and the takers never sleep on one."""
    box = batcher(rows_max=4, size_max=100_000)
    bells = {name: threading.Semaphore(0) for name in ("t1", "t2")}
    executed, stop = {name: [] for name in bells}, threading.Event()

    def serve(name):
        while True:
            batch, _, _ = box.take(name, 0.0)
            if batch is not None:
                executed[name].extend(batch.jobs)
                continue
            bells[name].acquire()
            if stop.is_set():
                return

    threads = [threading.Thread(target=serve, args=(name,), daemon=True) for name in bells]
    for thread in threads:
        thread.start()
    made, won = [], []
    for index in range(20_000):
        each = job()
        made.append(each)
        started = box.put(each)
        if started is not None:
            bells[started].release()
        if index % 3 == 0:
            victim = made[max(0, index - index % 7)]
            state = JobState.CANCELLED if index % 2 else JobState.REJECTED
            if box.leave(victim, state):
                won.append(victim)
    deadline = threading.Event()
    for _ in range(1000):
        if box.live == 0 and len(box.idle) == 2:
            break
        deadline.wait(0.01)
    assert (box.live, sorted(box.idle)) == (0, ["t1", "t2"])
    stop.set()
    for bell in bells.values():
        bell.release()
    for thread in threads:
        thread.join(10)
    ends = Counter(map(id, [*won, *executed["t1"], *executed["t2"]]))
    assert len(ends) == 20_000
    assert set(ends.values()) == {1}
