"""The cache in memory against a naive one, which looks through everything each time."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from despina import InvalidArgument
from despina.backends.caches.local import ENTRY_BYTES, LocalCache, open_local, taken
from hypothesis import given

KEYS = [f"key{number}" for number in range(6)]
SIZES = st.integers(0, 400)


class NaiveCache:
    """A list, the least recently used first."""

    def __init__(self, byte_size):
        self.byte_size = byte_size
        self.entries = []
        self.evictions = 0

    def used(self):
        return sum(ENTRY_BYTES + len(key) + len(entry) for key, entry in self.entries)

    def lookup_now(self, key):
        for index, (held, entry) in enumerate(self.entries):
            if held == key:
                self.entries.append(self.entries.pop(index))
                return entry
        return None

    def insert_now(self, key, entry):
        if any(held == key for held, _ in self.entries):
            return False
        if taken(key, entry) > self.byte_size:
            return True
        self.entries.append((key, entry))
        while self.used() > self.byte_size:
            self.entries.pop(0)
            self.evictions += 1
        return True


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("lookup"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("insert"), st.sampled_from(KEYS), SIZES),
    ),
    max_size=60,
)


@given(byte_size=st.integers(1, 2000), steps=STEPS)
def test_it_does_as_the_naive_one(byte_size, steps):
    """Goal: the same entries at every moment, never more bytes than allowed, and the sums right."""
    cache, naive = LocalCache(byte_size), NaiveCache(byte_size)
    for number, (kind, key, size) in enumerate(steps):
        if kind == "lookup":
            assert cache.lookup_now(key) == naive.lookup_now(key)
        else:
            entry = bytes([number % 256]) * size
            assert cache.insert_now(key, entry) == naive.insert_now(key, entry)
        fill = cache.fill()
        assert list(cache._entries.items()) == naive.entries
        assert (fill.used_bytes, fill.entries) == (naive.used(), len(naive.entries))
        assert fill.evictions == naive.evictions
        assert fill.used_bytes <= fill.byte_size == byte_size


@pytest.mark.parametrize("size", ["", "x", "-1", "0", "1e9", "1" * 30, " 1", "٣"])
def test_sizes_that_cannot_be(size):
    """Goal: named, not taken for another."""
    with pytest.raises(InvalidArgument, match="'size' must be a number of bytes, at least 1, got"):
        open_local({"size": size})
