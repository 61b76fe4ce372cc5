"""Counting the HTTP/2 frames that carry nothing, however their bytes are cut."""

from __future__ import annotations

import struct

from despina.frontends.http.connection.frame_budget import BURST, PER_S, PREFACE, FrameBudget
from hypothesis import given
from hypothesis import strategies as st

IDLE = [(0, 0, b""), (2, 0, b"12345"), (4, 0, b"123456"), (6, 1, b"12345678"), (10, 0, b""), (200, 0, b"x" * 70_000)]
CARRYING = [
    (0, 1, b""),
    (0, 0, b"x"),
    (1, 4, b"x" * 30),
    (3, 0, b"1234"),
    (7, 0, bytes(8)),
    (8, 0, b"1234"),
    (9, 4, b""),
]


def frame(kind, flags, payload):
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, 1) + payload


def in_pieces(budget, data, sizes, now=0.0):
    """Whether every piece is allowed; the sizes are used in turn."""
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        if not budget.allows(data[at : at + size], now):
            return False
        at, turn = at + size, turn + 1
    return True


@given(st.lists(st.sampled_from(IDLE + CARRYING), max_size=30), st.lists(st.integers(1, 100_000), min_size=1))
def test_the_count_is_exact(frames, sizes):
    """Goal: wherever the bytes are cut, as many are left as were not sent."""
    budget = FrameBudget(0.0)
    spent = sum(one in IDLE for one in frames)
    assert in_pieces(budget, PREFACE + b"".join(frame(*one) for one in frames), sizes)
    left = BURST - spent
    assert budget.allows(frame(6, 0, bytes(8)) * left, 0.0)
    assert not budget.allows(frame(6, 0, bytes(8)), 0.0)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_what_is_not_http_2_is_not_counted(sizes):
    """Goal: an HTTP/1.1 client may send bytes that look like anything."""
    assert in_pieces(FrameBudget(0.0), b"POST /x HTTP/1.1\r\n\r\n" + bytes(9) * 3 * BURST, [1000, *sizes])


def test_it_refills():
    """Goal: a client that goes on slowly is never cut off."""
    budget = FrameBudget(0.0)
    assert budget.allows(PREFACE + frame(6, 0, bytes(8)) * BURST, 0.0)
    for step in range(1, 10 * int(PER_S)):
        assert budget.allows(frame(6, 0, bytes(8)), step / PER_S + 0.001)
    assert not budget.allows(frame(6, 0, bytes(8)) * 3, 10.0)
