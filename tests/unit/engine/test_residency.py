"""Who gives way for whom: the pure policy, against all that could be done."""

from itertools import chain, combinations

import pytest
from despina.engine.repository.residency import Budget, Resident, to_evict
from hypothesis import given
from hypothesis import strategies as st

RESIDENTS = st.lists(
    st.builds(Resident, st.just(""), st.integers(0, 6), st.integers(0, 1000), st.booleans()),
    max_size=6,
    unique_by=lambda resident: resident.used_ns,
).map(lambda found: [Resident(f"m{index}", one.byte_size, one.used_ns, one.may_go) for index, one in enumerate(found)])


def without(residents, gone):
    return [resident for resident in residents if resident.name not in gone]


@given(RESIDENTS, st.integers(0, 6), st.integers(0, 4), st.integers(0, 12))
def test_just_enough_go_and_those_least_lately_used(residents, byte_size, models, byte_max):
    """Goal: nobody who may not; nobody in vain; nobody if it would not help; and of all that would do, the one whose
    most lately used model was used the longest ago."""
    budget = Budget(models, byte_max)
    mays = [resident for resident in residents if resident.may_go]
    enough = [
        {one.name for one in some}
        for some in chain.from_iterable(combinations(mays, count) for count in range(len(mays) + 1))
        if budget.has_room(without(residents, {one.name for one in some}), byte_size)
    ]
    going = to_evict(residents, byte_size, budget)
    if going is None:
        assert not enough
        return
    used = {resident.name: resident.used_ns for resident in residents}
    assert set(going) in enough
    assert not any(other < set(going) for other in enough)
    assert max((used[name] for name in going), default=-1) == min(
        max((used[name] for name in some), default=-1) for some in enough
    )


@pytest.mark.parametrize(
    ("budget", "going"),
    [
        (Budget(), []),
        (Budget(models=3), ["old"]),
        (Budget(models=1), None),
        (Budget(bytes=100), []),
        (Budget(bytes=60), ["old"]),
        (Budget(bytes=59), ["large"]),
        (Budget(bytes=15), None),
        (Budget(models=2, bytes=60), ["old", "large"]),
    ],
)
def test_worked_examples(budget, going):
    """Goal: one of 10 bytes comes to an old one of 5, a large one of 40 and one of 10 that is in use."""
    residents = [Resident("old", 5, 1, True), Resident("large", 40, 2, True), Resident("used", 10, 0, False)]
    assert to_evict(residents, 10, budget) == going
