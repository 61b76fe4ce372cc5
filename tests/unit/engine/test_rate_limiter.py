"""Which instances may execute: the pure decision against a naive one, and what may never happen."""

import pytest
from despina.engine.port.resources import Resource, ResourceLimit
from despina.engine.schedule.rate_limiter import EXECUTIONS_AT_FIRST, ClaimState, RateLimiter
from despina.schema.fault import InvalidArgument
from hypothesis import given
from hypothesis import strategies as st

NAMES = ("a", "b", "c")


def shared(name, count):
    return Resource(name=name, count=count, is_global=True)


def own(name, count):
    return Resource(name=name, count=count)


def limits(*said):
    return RateLimiter(ResourceLimit(name=name, count=count, device=device) for name, count, device in said)


def test_who_has_executed_least_by_priority_is_next():
    """Goal: three at one resource, priorities 1 and 2: one of the second to two of the first, as its page says."""
    limiter = RateLimiter()
    one, two = (limiter.add([shared("a", 1)], 0, priority) for priority in (1, 2))
    order = []
    holding = limiter.want(one)
    limiter.want(two)
    for _ in range(9):
        (claim,) = holding
        order.append(claim.priority)
        holding = limiter.want(claim, executed=True)
    assert order == [1, 1, 2, 1, 1, 2, 1, 1, 2]


def test_a_large_need_keeps_small_ones_from_what_it_waits_for_only():
    limiter = limits(("a", 2, None), ("b", 1, None))
    small, large, late, stranger, frugal = (
        limiter.add(needs, 0, 1) for needs in ([own("a", 1)], [own("a", 2)], [own("a", 1)], [own("b", 1)], [])
    )
    assert limiter.want(small) == [small]
    assert limiter.want(large) == []
    assert limiter.want(late) == [], "one is free, but somebody waits for two of them"
    assert limiter.want(stranger) == [stranger]
    assert limiter.want(frugal) == [frugal]
    assert limiter.give_back(small, executed=True) == [large]
    assert limiter.give_back(large, executed=True) == [late]


def test_each_device_has_its_own_and_the_server_one():
    limiter = RateLimiter()
    first, second = (limiter.add([own("a", 3)], device, 1) for device in (0, 1))
    assert limiter.want(first) == [first]
    assert limiter.want(second) == [second]
    one, other = (limiter.add([shared("g", 3)], device, 1) for device in (0, 1))
    assert limiter.want(one) == [one]
    assert limiter.want(other) == []
    assert limiter.remove(one) == [other], "who dies gives back what it held"


@pytest.mark.parametrize(
    ("said", "resource", "limit"),
    [
        ([("a", 3, None)], own("a", 4), 3),
        ([("a", 9, 1)], own("a", 4), 0),
        ([("a", 9, 1)], own("b", 1), 0),
        ([("a", 2, 0), ("a", 3, 1)], shared("a", 4), 3),
        ([("a", 9, None), ("a", 3, None)], own("a", 4), 3),
        ([("A", 9, None)], own("a", 1), 0),
    ],
)
def test_too_much_is_refused(said, resource, limit):
    limiter = limits(*said)
    with pytest.raises(InvalidArgument) as caught:
        limiter.add([resource], 0, 1)
    assert caught.value.message == (
        f'Resource count for "{resource.name}" is limited to {limit} which will prevent scheduling of one or more '
        f"model instances, the minimum required count is {resource.count}"
    )
    assert not limiter.claims


def test_a_fault_is_told_once():
    """Goal: a resource that is both kinds and too much as either: two texts, not three."""
    with pytest.raises(InvalidArgument) as caught:
        limits(("b", 9, None)).add([own("a", 4), shared("a", 4)], 0, 1)
    assert caught.value.message.count("; ") == 1


@pytest.mark.parametrize(
    ("said", "resource", "budget"),
    [
        ([("a", 2, None), ("a", 5, 0)], own("a", 4), 5),
        ([("a", 9, None), ("a", 3, 0)], own("a", 4), 9),
        ([("a", 2, 0), ("a", 5, 1)], shared("a", 4), 5),
        ([], own("a", 4), 4),
    ],
)
def test_what_there_is(said, resource, budget):
    limiter = limits(*said)
    limiter.add([resource], 0, 1)
    assert list(limiter.budgets.values()) == [budget]


def test_without_limits_there_is_what_the_neediest_asks_for():
    limiter = RateLimiter()
    small, large = (limiter.add([own("a", count)], 0, 1) for count in (1, 5))
    assert limiter.budgets == {("a", 0): 5}
    limiter.remove(large)
    assert limiter.budgets == {("a", 0): 1}
    limiter.remove(small)
    assert limiter.budgets == {}


def test_one_name_is_either_global_or_a_devices():
    limiter = RateLimiter()
    kept = limiter.add([own("a", 1), own("b", 1)], 0, 1)
    with pytest.raises(InvalidArgument) as caught:
        limiter.add([shared("a", 1), shared("b", 1)], 0, 1)
    assert caught.value.message == "; ".join(
        f'Resource "{name}" is present as both global and device-specific resource in the model configuration.'
        for name in "ab"
    )
    limiter.remove(kept)
    limiter.add([shared("a", 1)], 0, 1)


def test_who_comes_late_is_not_ahead_for_ever():
    limiter = RateLimiter()
    old = limiter.add([shared("a", 1)], 0, 1)
    for _ in range(100):
        limiter.want(old)
        limiter.give_back(old, executed=True)
    assert limiter.add([shared("a", 1)], 0, 4).rank == 100 + 4 * EXECUTIONS_AT_FIRST
    assert old.rank == 100 + EXECUTIONS_AT_FIRST


def test_what_a_waiting_one_waits_for():
    """Goal: whoever holds what it needs, or what those need that are before it; nobody of others."""
    limiter = limits(("a", 1, None), ("b", 1, None), ("c", 1, None))
    holds_a, holds_b, holds_c, first, last = (
        limiter.add(needs, 0, 1)
        for needs in (
            [own("a", 1)],
            [own("b", 1)],
            [own("c", 1)],
            [own("a", 1), own("b", 1)],
            [own("b", 1)],
        )
    )
    for claim in (holds_a, holds_b, holds_c, first, last):
        limiter.want(claim)
    assert set(limiter.holders(first)) == {holds_a, holds_b}
    assert set(limiter.holders(last)) == {holds_a, holds_b}
    limiter.give_back(first, executed=False)
    assert limiter.holders(last) == [holds_b]


class Naive:
    """The same rules, said once more without any bookkeeping."""

    def __init__(self, limiter):
        self.limiter = limiter
        self.waiting = []  # in order of arrival
        self.holding = []

    def free(self, supply):
        return self.limiter.budgets[supply] - sum(claim.needs.get(supply, 0) for claim in self.holding)

    def grant(self):
        granted, before = [], []
        for claim in sorted(self.waiting, key=lambda claim: claim.executions * claim.priority):  # stable
            fits = all(self.free(supply) >= count for supply, count in claim.needs.items())
            if fits and not any(claim.needs.keys() & other.needs.keys() for other in before):
                self.holding.append(claim)
                granted.append(claim)
            else:
                before.append(claim)
        self.waiting = [claim for claim in self.waiting if claim not in granted]
        return granted


def bound(limiter, claim, executed):
    """How often others may be let in before a claim that waits from now on, having executed so many times more."""
    rank = claim.rank + executed * claim.priority
    return sum(
        max(0, (rank - other.rank) // other.priority + 2)
        for other in limiter.claims
        if other is not claim and other.needs.keys() & claim.needs.keys()
    )


needs = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3))


@given(
    said=st.none() | st.dictionaries(st.sampled_from(NAMES), st.integers(3, 5), min_size=len(NAMES)),
    kinds=st.fixed_dictionaries({name: st.booleans() for name in NAMES}),
    instances=st.lists(st.tuples(needs, st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=7),
    steps=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["step", "again", "remove"])), max_size=80),
)
def test_against_a_naive_oracle(said, kinds, instances, steps):
    """Goal: any history: the same instances are granted as naively; never more than there is; somebody who waits is let
    in whenever nobody holds anything; nobody is overtaken by others more often than executions and priority say."""
    limiter = RateLimiter(ResourceLimit(name=name, count=count) for name, count in (said or {}).items())
    claims = [
        limiter.add(
            [Resource(name=name, count=count, is_global=kinds[name]) for name, count in wanted.items()],
            device,
            priority,
        )
        for wanted, device, priority in instances
    ]
    naive = Naive(limiter)
    overtaken = {}
    for index, what in steps:
        claim = claims[index % len(claims)]
        if claim not in limiter.claims:
            continue
        if what == "remove":
            naive.waiting = [one for one in naive.waiting if one is not claim]
            naive.holding = [one for one in naive.holding if one is not claim]
            granted = limiter.remove(claim)
            overtaken.pop(claim, None)
        elif claim.state is ClaimState.RESTING:
            naive.waiting.append(claim)
            overtaken[claim] = bound(limiter, claim, 0)
            granted = limiter.want(claim)
        elif claim.state is ClaimState.HOLDING and what == "again":
            naive.holding.remove(claim)
            naive.waiting.append(claim)
            overtaken[claim] = bound(limiter, claim, 1)
            granted = limiter.want(claim, executed=True)
        elif claim.state is ClaimState.HOLDING:
            naive.holding.remove(claim)
            granted = limiter.give_back(claim, executed=True)
        else:
            continue
        assert granted == naive.grant()
        for supply, budget in limiter.budgets.items():
            taken = sum(one.needs.get(supply, 0) for one in limiter.claims if one.state is ClaimState.HOLDING)
            assert taken == limiter.taken.get(supply, 0)
            assert taken <= budget or what == "remove" or not granted
        assert not limiter.waiting or naive.holding, "somebody could execute, and all wait"
        for one in granted:
            overtaken.pop(one, None)
            for other in limiter.waiting:
                if other.needs.keys() & one.needs.keys():
                    overtaken[other] -= 1
                    assert overtaken[other] >= 0, "overtaken more often than executions and priority say"
