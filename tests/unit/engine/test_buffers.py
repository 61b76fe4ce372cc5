"""The pools of large buffers: what is kept, and who frees it. Their recycling: tests/unit/http/test_http_routes.py."""

import numpy as np
from despina.engine.port.buffers import BufferPool, Pools

SIZE = 300_000


def test_pools_of_two_doors():
    """Goal: what both use is trimmed once in a period, whoever comes first; a door forgets what is empty."""
    pool, other = BufferPool(1 << 24), BufferPool(1 << 24)
    first, second = Pools([pool]), Pools([pool, other])
    pool.give(pool.take(SIZE))
    assert not first.trim(10.0, 10.0)
    assert pool.kept_bytes
    assert not second.trim(15.0, 10.0)
    assert second == {pool}
    assert pool.kept_bytes
    assert first.trim(20.0, 10.0)
    assert not pool.kept_bytes
    assert first == set()
    assert first.trim(30.0, 10.0)


def test_only_one_kind_is_kept():
    """Goal: what could not be made as it should be, as there were too many, does not keep those from use that are."""

    class Special(np.ndarray):
        pass

    made = []

    def make(size):
        made.append(np.empty(size, np.uint8) if len(made) % 2 else np.empty(size, np.uint8).view(Special))
        return made[-1]

    pool = BufferPool(1 << 24, make, Special)
    taken = [pool.take(SIZE) for _ in range(4)]
    made.clear()
    while taken:
        pool.give(taken.pop())
    assert type(pool.take(SIZE)) is Special
    assert type(pool.take(SIZE)) is Special
    assert pool.kept_bytes == 0
