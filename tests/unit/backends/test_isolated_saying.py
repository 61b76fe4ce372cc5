"""What a model's process says while another of its threads says something: in order, and without waiting for it."""

from __future__ import annotations

import gc
import socket
import threading

import numpy as np
import pytest
from despina.backends.python.isolated.frames import ANCILLARY_BYTES, Codec, files_of
from despina.backends.python.isolated.listening import Link
from despina.schema.tensor import Tensor

SIZE = 100_000
COUNT = 60
"""Of messages of a thread: each with a tensor keeps a descriptor, or two."""


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Link(theirs), ours


def heard(sock, codec, count):
    """The kinds of so many messages."""
    kinds = []
    for _ in range(count):
        buffer = bytearray(1 << 16)
        size, ancillary, _, _ = sock.recvmsg_into([buffer], ANCILLARY_BYTES)
        kinds.append(codec.read(memoryview(buffer)[:size], files_of(ancillary)).kind)
    return kinds


def test_nobody_waits_for_who_sends(ends):
    """Goal: what has no tensors is said as soon as the other thread is done, and before what that says then."""
    link, sock = ends
    with link.sending:
        other = threading.Thread(target=lambda: [link.say(kind) for kind in "ab"])
        other.start()
        other.join(10)
        assert not other.is_alive()
        link.say_placed("c", (), link.place([]))
    link.say("d", (), [Tensor.of("t", np.zeros(3, np.uint8))])
    assert heard(sock, Codec(), 4) == ["a", "b", "c", "d"]


def test_all_is_said_in_order(ends):
    """Goal: of each thread in its order, nothing twice and nothing lost."""
    link, sock = ends
    tensors = [Tensor.of("t", np.zeros(SIZE, np.uint8))]

    def say(name):
        for number in range(COUNT):
            link.say(f"{name}{number}", (), tensors if number % 3 == 0 else ())

    threads = [threading.Thread(target=say, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    kinds = heard(sock, Codec(), 3 * COUNT)
    for thread in threads:
        thread.join(10)
    for name in "xyz":
        assert [kind for kind in kinds if kind[0] == name] == [f"{name}{number}" for number in range(COUNT)]


def test_garbage_that_says_something(ends):
    """Goal: whatever lock a thread holds while garbage is collected, what that says is said."""
    link, sock = ends
    like = np.zeros(SIZE, np.uint8)

    class Sender:
        def __init__(self):
            self.me = self

        def __del__(self):
            link.say("closed")

    def collect():
        Sender()
        gc.collect()

    with link.sending, link._codec.pool._lock:
        collect()
        other = threading.Thread(target=collect)
        other.start()
        other.join(10)
        assert not other.is_alive()
        assert link.array_like(like) is not None
    link.say("over")
    assert heard(sock, Codec(), 3) == ["closed", "closed", "over"]
