"""Memory that was freed and not given back to the system."""

import ctypes
import subprocess
import sys

import pytest
from despina.frontends.heap import Heap, resident_bytes

HOLES = """
from despina.frontends.heap import WORTH_BYTES, Heap, resident_bytes
heap = Heap()
heap.trim()
before = resident_bytes()
holes, kept = [], []
for _ in range(3 * WORTH_BYTES // 100_000):
    holes.append(bytearray(b"1") * 100_000)
    kept.append(bytearray(2000))
del holes
assert heap.is_swollen()
heap.trim()
assert resident_bytes() - before < WORTH_BYTES
assert not heap.is_swollen()
"""


def test_what_lies_between_things_in_use_is_given_back():
    """A heap full of holes: the process grows, says that a trim is worth it, and shrinks by one. Method: a process of
    its own, for what other tests have left in this one's heap decides where blocks lie."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_another_c_library(monkeypatch):
    """Without the function there is nothing to do."""

    class Library:
        def __init__(self, name):
            pass

    monkeypatch.setattr(ctypes, "CDLL", Library)
    heap = Heap()
    heap._floor = 0
    heap.trim()
    assert not heap.is_swollen()


@pytest.mark.parametrize("problem", [FileNotFoundError, PermissionError])
def test_a_system_that_does_not_say(monkeypatch, problem):
    """No /proc: no size."""

    def refuse(*args, **kwargs):
        raise problem

    monkeypatch.setattr("builtins.open", refuse)
    assert resident_bytes() == 0
