"""Turns of connections that move large messages: bounded in a pass, and nobody waits for ever."""

from despina.frontends.bulk import PASS_BYTES, Bulk
from hypothesis import given
from hypothesis import strategies as st


def passed(bulk, ready, left):
    """One pass over the connections `ready`, each of which moves what it may of `left`; who came in which order."""
    looked_at = []
    for fd, _ in bulk.begin([(fd, 1) for fd in ready]):
        looked_at.append(fd)
        if fd in left and bulk.may_move(fd):
            size = min(left[fd], bulk.left)
            left[fd] -= size
            bulk.moved(fd, size)
    return looked_at


def test_small_requests_come_before_those_who_wait_for_a_turn():
    """And who got nothing comes before who got something."""
    bulk = Bulk()
    left = dict.fromkeys((1, 2, 3), 10 * PASS_BYTES)
    assert passed(bulk, [1, 2, 3], left) == [1, 2, 3]
    assert passed(bulk, [1, 2, 9, 3], left) == [9, 2, 3, 1]
    assert passed(bulk, [1, 2, 9, 3], left) == [9, 3, 1, 2]


@given(st.dictionaries(st.integers(1, 9), st.integers(1, 5 * PASS_BYTES), min_size=1), st.data())
def test_everybody_moves_within_as_many_passes_as_there_are(left, data):
    """No pass moves more than its share, all that is ready is looked at once, and nobody is passed over twice."""
    bulk = Bulk()
    waited = dict.fromkeys(left, 0)
    while any(left.values()):
        ready = data.draw(st.permutations([fd for fd, size in left.items() if size]))
        before = dict(left)
        assert sorted(passed(bulk, ready, left)) == sorted(ready)
        assert 0 < sum(before.values()) - sum(left.values()) <= PASS_BYTES
        for fd in ready:
            waited[fd] = 0 if left[fd] < before[fd] else waited[fd] + 1
            assert waited[fd] < len(before)
