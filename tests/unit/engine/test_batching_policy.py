"""The pure policies: how a batch is formed, against a naive oracle; where a model executes."""

import attrs
import pytest
from despina.engine.execute import cost as placing
from despina.engine.execute.cost import ExecutionCost
from despina.engine.schedule.batching import BatchRule, Verdict, form
from hypothesis import given
from hypothesis import strategies as st


@attrs.frozen
class Ask:
    batch_size: int
    key: object = None


def asks(*sizes):
    return [Ask(size) for size in sizes]


@pytest.mark.parametrize(
    ("preferred", "delay_s", "sizes", "age_s", "expected"),
    [
        ((8,), 0, [1], 0, (1, 1, "eager")),
        ((), 0, [1, 1, 1], 0, (3, 3, "eager")),
        ((4, 8), 0.1, [1] * 4, 0, (4, 4, "preferred")),
        ((4, 8), 0.1, [1] * 5, 0, (4, 4, "preferred")),
        ((4, 8), 0.1, [1] * 3, 0, (0, 0, "")),
        ((4, 8), 0.1, [1] * 3, 0.1, (3, 3, "delay")),
        ((4, 8), 0.1, [6, 4], 0, (1, 6, "full")),
        ((4, 8), 0.1, [1] * 8, 0, (8, 8, "full")),
        ((4, 8), 0.1, [1] * 9, 0, (8, 8, "full")),
        ((4,), 0.1, [1] * 6, 0, (4, 4, "preferred")),
        ((4,), 0.1, [1] * 6, 0.1, (6, 6, "full")),
        ((4,), 0.1, [3, 3], 0, (1, 3, "preferred")),
        ((4,), 0.1, [5], 0, (1, 5, "full")),
        ((4,), 0, [1] * 6, 0, (4, 4, "preferred")),
        ((), 0.1, [8], 0, (1, 8, "full")),
        ((), 0.1, [3, 6], 0, (1, 3, "full")),
        ((), 0.1, [], 5, (0, 0, "")),
    ],
)
def test_worked_examples(preferred, delay_s, sizes, age_s, expected):
    """Goal: the specification's rules, one row each, with max 8."""
    verdict = form(asks(*sizes), BatchRule(rows_max=8, preferred=preferred, delay_s=delay_s), age_s)
    assert (verdict.count, verdict.rows, verdict.reason) == expected


def test_a_wait_says_how_long():
    """Goal: what is left of the delay, and nothing where nobody waits."""
    rule = BatchRule(rows_max=8, delay_s=0.1)
    assert form(asks(1), rule, 0.075).wait_s == pytest.approx(0.025)
    assert form([], rule, 0.075) == Verdict(0, 0, "", 0.0)


def test_unlike_keys_close_a_batch():
    """Goal: the first whose key differs stays behind, and the rest goes at once."""
    rule = BatchRule(rows_max=8, delay_s=0.1)
    assert form([Ask(1, "a"), Ask(1, "a"), Ask(1, "b"), Ask(1, "a")], rule, 0) == Verdict(2, 2, "shape", 0.0)


def oracle(sizes, keys, rows_max, preferred, delay_s, age_s):
    """The specification, read aloud: how many go, or None to wait."""
    largest = max(preferred, default=rows_max)
    taken, best, stopped = [], None, False
    for size, key in zip(sizes, keys, strict=True):
        if taken:
            if best is None and sum(taken) + size > largest:
                best = len(taken)
            if sum(taken) + size > rows_max or key != keys[0]:
                stopped = True
                break
        taken.append(size)
        if sum(taken) in preferred:
            best = len(taken)
        if sum(taken) >= rows_max:
            break
    if not taken:
        return None
    overdue = delay_s > 0 and age_s >= delay_s
    if best is not None and not overdue:
        return best
    if stopped or sum(taken) >= largest or overdue or delay_s == 0:
        return len(taken)
    return None


@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from("aab")), max_size=12),
    st.sets(st.integers(1, 8), max_size=3),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.05, 0.1, 1.0]),
)
def test_forming_agrees_with_the_oracle(waiting, preferred, delay_s, age_s):
    """Goal: any queue, any preferred sizes: as many go as the rules say; what goes fits and is alike."""
    sizes, keys = [size for size, _ in waiting], [key for _, key in waiting]
    rule = BatchRule(rows_max=8, preferred=tuple(sorted(preferred)), delay_s=delay_s)
    verdict = form([Ask(*each) for each in waiting], rule, age_s)
    expected = oracle(sizes, keys, 8, preferred, delay_s, age_s)
    assert verdict.count == (expected or 0)
    assert verdict.rows == sum(sizes[: verdict.count]) <= 8
    assert len(set(keys[: verdict.count])) <= 1
    assert bool(verdict.reason) == bool(verdict.count)
    if waiting and not verdict.count:
        assert 0 < verdict.wait_s <= delay_s
        assert form([Ask(*each) for each in waiting], rule, delay_s).count > 0


def learned(*seconds, **options):
    placement = ExecutionCost(**options)
    for cost in seconds:
        placement.learn(cost, cost)
    return placement


def test_cheap_executions_move_inline_after_some_samples():
    """Goal: not before SAMPLES_MIN, then at once."""
    assert not learned(*[1e-5] * (placing.SAMPLES_MIN - 1)).inline
    assert learned(*[1e-5] * placing.SAMPLES_MIN).inline


def test_a_slow_start_does_not_count():
    """Goal: the first executions of a framework may take seconds."""
    assert learned(*[3.0] * placing.SAMPLES_IGNORED, *[1e-5] * placing.SAMPLES_MIN).inline


def test_between_the_bounds_nothing_moves():
    """Goal: hysteresis: a cost between ENTER and LEAVE keeps what there is."""
    between = (placing.ENTER_S + placing.LEAVE_S) / 2
    assert not learned(*[between] * 100).inline
    assert learned(*[1e-5] * 20, *[between] * 100).inline


def test_a_model_that_became_dear_moves_out_and_may_come_back():
    """Goal: a lasting rise leaves the trio thread, a lasting fall returns to it."""
    placement = learned(*[1e-5] * 20, *[1e-3] * 50)
    assert not placement.inline
    for _ in range(100):
        placement.learn(1e-5, 1e-5)
    assert placement.inline


def test_one_preempted_execution_moves_nobody():
    """Goal: an outlier of a second neither moves the model nor spoils the learned cost; two long ones in a row do."""
    placement = learned(*[1e-5] * 50, 1.0)
    assert placement.inline
    assert placement.cost_s < 1e-4
    assert learned(*[1e-5] * 50, 1.0, 1e-5, 1.0).inline
    assert not learned(*[1e-5] * 50, 1.0, 1.0).inline


@pytest.mark.parametrize("inline", [True, False])
def test_what_is_forced_stays(inline):
    """Goal: the model's parameter wins over any cost, which is learned all the same."""
    placement = learned(*[1e-6] * 50, forced=True, inline=inline)
    assert placement.inline is inline
    placement = learned(*[1.0] * 50, forced=True, inline=inline)
    assert placement.inline is inline
    assert placement.cost_s > 0.1


@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_any_costs_are_learned(costs):
    """Goal: no sequence of costs breaks the average: it stays between nothing and the largest seen."""
    placement = learned(*costs)
    assert 0 <= placement.cost_s <= max([*costs, placing.LEAVE_S])


def test_what_lasts_long_makes_late_whatever_it_costs():
    """Goal: a model that waits (for a device, for others) is cheap to run here, and its callers are told in time."""
    waits = ExecutionCost()
    for index in range(100):
        waits.learn(1e-3, 0.02 if index % 2 else 0.03)
    assert waits.cost_s == pytest.approx(1e-3)
    assert 0.025 <= waits.over_within_s <= 0.035
    for _ in range(30):
        waits.doubt()
    assert waits.over_within_s < 0.002
    waits.learn(1e-3, 0.02)
    assert waits.over_within_s > 0
