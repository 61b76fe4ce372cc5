"""Priority levels: order against a naive oracle, and a cost that does not grow with how many there are."""

from __future__ import annotations

import random
import sys

import pytest
from despina.engine.request.job import Job, JobState, move
from despina.engine.schedule.batching import BatchRule
from despina.engine.schedule.dynamic import TOMBSTONES_MIN, DynamicBatcher
from despina.engine.schedule.levels import EMPTY_MAX, Levels
from despina.engine.schedule.rules import QueuePolicies, dynamic_batcher
from despina.schema.inference import InferenceRequest
from despina.schema.model_config import normalise, parse_config, validate
from hypothesis import given
from hypothesis import strategies as st

MANY = 10**6


def batcher(rows_max=1, **options):
    return DynamicBatcher(BatchRule(rows_max=rows_max, **options), 10**7, lambda: 0.0, prioritised=True)


def job(level, id=""):
    made = Job(InferenceRequest("m", {}, id=id), lambda _: None)
    made.level = level
    return made


@given(st.lists(st.tuples(st.sampled_from(["put", "put", "take", "leave", "sweep"]), st.integers(0, 40)), max_size=120))
def test_serving_order_agrees_with_the_oracle(story):
    """Goal: those that wait, by level and then by arrival; each tombstone is counted once.
    Method: a plain sorted list."""
    levels, waiting = Levels(lambda _: 0), []
    for what, number in story:
        if what == "put":
            made = job(number)
            level = levels.at(number)
            level.jobs.append(made)
            level.live += 1
            waiting.append(made)
        elif what == "take":
            level = levels.next()
            assert (level is None) == (not waiting)
            if level is not None:
                while (made := level.jobs.popleft()).state is not JobState.QUEUED:
                    levels.tombstones -= 1
                level.live -= 1
                expected = min(waiting, key=lambda each: each.level)
                assert made is expected
                waiting.remove(made)
        elif what == "leave" and waiting:
            made = waiting.pop(number % len(waiting))
            move((made,), JobState.CANCELLED)
            levels.at(made.level).live -= 1
            levels.tombstones += 1
        elif what == "sweep":
            levels.sweep()
        assert list(levels.waiting()) == sorted(waiting, key=lambda each: each.level)
        assert levels.tombstones == sum(len(level) - level.live for level in levels.in_use)


@pytest.mark.parametrize("rows_max", [1, 8])
def test_ever_more_urgent_requests_leave_no_levels_behind(rows_max):
    """Goal: memory follows what waits, not which levels were ever used. Method: one waits below, all others go past."""
    box = batcher(rows_max)
    box.put(job(MANY))
    for level in range(5000, 0, -1):
        box.put(job(level))
        batch, _, _ = box.take("i", 0.0)
        if len(batch.jobs) == 2:
            box.put(job(MANY))
        assert len(box.levels.in_use) <= EMPTY_MAX + 3


def test_leaving_from_everywhere_leaves_no_levels_behind():
    """Goal: the same for requests that leave, in any order."""
    box = batcher()
    jobs = [job(level) for level in range(1, 3000)]
    for each in jobs:
        box.put(each)
    random.Random(1).shuffle(jobs)
    for each in jobs:
        assert box.leave(each, JobState.CANCELLED)
    assert len(box.levels.in_use) <= TOMBSTONES_MIN + 2


def instructions(function):
    """Byte-code instructions that a call executes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("rule", [{"rows_max": 1}, {"rows_max": 8}, {"rows_max": 8, "delay_s": 0.01}])
def test_the_cost_of_a_request_does_not_depend_on_how_many_levels_are_in_use(rule):
    """Goal: as many instructions among 50,000 levels with somebody waiting in each as among 40."""

    def cost(others):
        box = batcher(**rule)
        for level in range(others):
            box.put(job(2 * level + 2))
        costs = []
        for level in (1, 2 * others // 2 + 1, 2 * others + 1):
            made = job(level)
            costs.append(instructions(lambda made=made: box.put(made)))
            costs.append(instructions(lambda made=made: box.leave(made, JobState.CANCELLED)))
            costs.append(instructions(lambda: box.take("i", 0.0)))
        return max(costs)

    assert cost(50_000) <= cost(40) * 1.5


def test_the_cost_of_loading_does_not_depend_on_how_many_levels_there_may_be():
    """Goal: as many instructions to make a queue of 2^64 - 1 levels as of 2; policies cost as many as are written."""

    def cost(levels):
        batching = f"priority_levels: {levels} default_priority_level: 1 priority_queue_policy {{ key: {levels} }}"
        config = parse_config(f'name: "m" backend: "b" max_batch_size: 8 dynamic_batching {{ {batching} }}'.encode())
        validate(normalise(config))

        def make():
            policies = QueuePolicies.of(config)
            assert policies.level_of(levels) == levels - 1
            box = dynamic_batcher(config, 100, lambda: 0.0)
            box.put(job(policies.level_of(levels)))
            assert not policies.time_out

        return instructions(make)

    assert cost(2**64 - 1) == cost(2)
