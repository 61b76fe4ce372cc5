"""Large messages are moved beside the loop: what moves tell, and what happens to sockets meanwhile."""

import queue
import select
import socket
import threading

import pytest
from despina.frontends.carrier import PIECE_BYTES_MIN, TURN_BYTES, Carrier


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def carrier():
    carrier = Carrier()
    yield carrier
    carrier.close()


def collected(carrier, told):
    """Waits for the bell, and returns what was told."""
    poll = select.poll()
    poll.register(carrier.bell, select.POLLIN)
    assert poll.poll(15_000)
    carrier.collect()
    return told


def test_a_move_tells_how_much_it_has_moved(carrier, pair):
    """Goal: bytes go to their place, no further than that, and the end of the stream is told as nothing."""
    ours, theirs = pair
    place = bytearray(8)
    for data, wanted in ((b"abc", (3, None)), (b"0123456789", (8, None))):
        theirs.sendall(data)
        told = []
        carrier.receive(ours, memoryview(place), lambda *said, told=told: told.append(said))
        assert collected(carrier, told) == [wanted]
    assert place == b"01234567"
    assert ours.recv(10) == b"89"
    theirs.close()
    told = []
    carrier.receive(ours, memoryview(place), lambda *said: told.append(said))
    assert collected(carrier, told) == [(0, None)]


@pytest.mark.parametrize("there", [b"", b"345", b"3456789"])
def test_what_has_come_already_is_first(carrier, pair, there):
    """Goal: it is in its place whether or not more is there."""
    ours, theirs = pair
    if there:
        theirs.sendall(there)
    place = bytearray(8)
    told = []
    carrier.receive(ours, memoryview(place), lambda *said: told.append(said), b"012")
    count = min(8, 3 + len(there))
    assert collected(carrier, told) == [(count, None)]
    assert place == (b"012" + there)[:8].ljust(8, b"\0")


def test_problems_are_told(carrier, pair):
    """Goal: nothing there, and a peer that has gone, come back as what they are, and the thread lives on."""
    ours, theirs = pair
    for close, wanted in ((lambda: None, BlockingIOError), (theirs.close, BrokenPipeError)):
        close()
        told = []
        if wanted is BlockingIOError:
            carrier.receive(ours, memoryview(bytearray(1)), lambda *said, told=told: told.append(said))
        else:
            carrier.send(ours, [b"a", b"b"], lambda *said, told=told: told.append(said))
        ((count, problem),) = collected(carrier, told)
        assert count == 0
        assert type(problem) is wanted


def test_moves_take_turns(carrier, monkeypatch):
    """Goal: who has had his share makes room for another who waits, in both directions, and else goes on."""
    monkeypatch.setattr(carrier, "_ask", lambda move, back: moves.append(move))
    moves = []

    class Endless:
        """A socket that never keeps anybody waiting."""

        def recv_into(self, place):
            return min(len(place), 1 << 20)

        def sendmsg(self, parts):
            return min(len(parts[0]), 1 << 20)

    carrier.receive(Endless(), memoryview(bytearray(5 << 20)), print)
    carrier.send(Endless(), [bytes(3 << 20), bytes(2 << 20)], print)
    assert [move() for move in moves] == [5 << 20, 5 << 20]
    monkeypatch.setattr(carrier, "_asked", queue.SimpleQueue())
    carrier._asked.put(None)
    assert [move() for move in moves] == [TURN_BYTES, TURN_BYTES]
    carrier._asked.get()


def test_closing_brings_back_what_has_not_begun(pair):
    """Goal: whoever waits for a move hears of it, so that he can close his socket."""
    ours, _ = pair
    carrier = Carrier()
    told = []

    begun, may_end = threading.Event(), threading.Event()

    def one():
        begun.set()
        may_end.wait(15)
        return 1

    carrier._ask(one, lambda *said: told.append(said))
    carrier.receive(ours, memoryview(bytearray(1)), lambda *said: told.append(said))
    assert begun.wait(15)
    carrier._is_closing = True
    may_end.set()
    carrier.close()
    (first, (count, problem)) = told
    assert first == (1, None)
    assert count == 0
    assert type(problem) is BlockingIOError


@pytest.mark.parametrize("direction", ["receive", "send"])
def test_a_socket_that_is_ready_for_nothing_comes_back(carrier, monkeypatch, direction):
    """Goal: a socket that says it is ready, and has or takes nothing, as under want of memory, does not spin."""
    counts = [PIECE_BYTES_MIN]

    class Stubborn:
        def recv_into(self, place):
            return self.sendmsg([])

        def sendmsg(self, parts):
            if not counts:
                raise BlockingIOError
            return counts.pop()

    monkeypatch.setattr(Carrier, "_is_soon", lambda self, sock, events: True)
    told = []

    def back(*said):
        told.append(said)

    data = bytearray(2 * PIECE_BYTES_MIN)
    if direction == "receive":
        carrier.receive(Stubborn(), memoryview(data), back)
    else:
        carrier.send(Stubborn(), [data], back)
    assert collected(carrier, told) == [(PIECE_BYTES_MIN, None)]
