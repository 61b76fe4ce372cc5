"""The lock of every request: one at a time, and let go of whatever happens."""

from __future__ import annotations

import threading

import pytest
from despina.engine.port.mutex import Mutex


def test_one_at_a_time():
    """Goal: nobody is within while somebody else is. Method: a count that each thread reads, waits, and writes."""
    mutex, count, go = Mutex(), [0], threading.Event()

    def add():
        go.wait()
        for _ in range(100):
            with mutex:
                seen = count[0]
                threading.Event().wait(0.00001)
                count[0] = seen + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert count == [400]


def test_it_is_let_go_of_after_a_fault():
    mutex = Mutex()
    with pytest.raises(KeyError), mutex:
        raise KeyError
    with mutex:
        pass
