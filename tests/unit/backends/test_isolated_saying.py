"""Messages of a model's process whose threads share one link, and whose garbage says something, too."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from despina.backends.python.isolated.answering import ChildStream, Source
from despina.backends.python.isolated.child import _ToServer
from despina.backends.python.isolated.frames import Codec, contents_of
from despina.backends.python.isolated.listening import Link
from despina.backends.python.isolated.saying import Turns
from despina.backends.python.isolated.segments import SegmentPool
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor


class Said:
    """What a link would send. While `is_full` there is no room."""

    def __init__(self):
        self.kinds = []
        self.is_full = False
        self.during = None

    def __call__(self, kind, fields):
        if self.is_full:
            raise OSError("no descriptors")
        self.kinds.append(kind)
        if self.during is not None:
            during, self.during = self.during, None
            during()


class Garbage:
    """A cycle that says something when it is collected."""

    def __init__(self, say):
        self.itself = self
        self._say = say

    def __del__(self):
        self._say()


@pytest.fixture
def said():
    return Said()


@pytest.fixture
def turns(said):
    return Turns(said)


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits"


def test_at_once(turns, said):
    turns.soon("a", ())
    assert said.kinds == ["a"]


def test_within_a_turn(turns, said):
    """Goal: what this thread's garbage says in the middle of a message comes after it."""
    with turns:
        with turns:
            turns.soon("a", ())
        turns.soon("b", ())
        assert said.kinds == []
    assert said.kinds == ["a", "b"]


def test_in_another_threads_turn(turns, said):
    """Goal: nobody waits for who has the turn; it is said when that one has done."""
    with turns:
        in_thread(lambda: turns.soon("a", ()))
        assert said.kinds == []
    assert said.kinds == ["a"]


def test_while_it_is_said(turns, said):
    """Goal: what comes while something that came earlier is being said is said next."""
    said.during = lambda: turns.soon("b", ())
    turns.soon("a", ())
    assert said.kinds == ["a", "b"]


def test_its_order_is_kept(turns, said):
    """Goal: what a thread says after that comes after it. Method: no room for the first at first."""
    said.is_full = True
    turns.soon("a", ())
    turns.soon("b", ())
    said.is_full = False
    with turns:
        assert said.kinds == ["a", "b"]


def test_no_plain_value(turns, said):
    """Goal: who says it is told, and others say theirs."""
    with pytest.raises(ValueError, match="unmarshallable"):
        turns.soon("a", (object(),))
    turns.soon("b", ())
    assert said.kinds == ["b"]


def test_where_there_is_no_room_for_one(turns, said):
    """Goal: others are said meanwhile, and it is said when there is room."""
    refused = ["large"]

    def say(kind, fields):
        if kind in refused:
            raise OSError("no descriptors")
        said(kind, fields)

    turns = Turns(say)
    turns.soon("large", ())
    turns.soon("a", ())
    with turns:
        assert said.kinds == ["a"]
    refused.clear()
    with turns:
        assert said.kinds == ["a", "large"]


def test_what_cannot_be_said_holds_nobody_up(turns):
    """Goal: a turn that begins with a fault is over."""
    faults = [RecursionError()]

    def say(kind, fields):
        if faults:
            raise faults.pop()
        heard.append(kind)

    heard, turns = [], Turns(say)
    turns._unsaid.append(("a", ()))
    with pytest.raises(RecursionError), turns:
        pass
    in_thread(lambda: turns.soon("b", ()))
    assert heard == ["a", "b"]


def test_patience(turns, said):
    """Goal: who logs waits for who says something, so that what waits is bounded; within his own turn he does not."""
    began, may_end = threading.Event(), threading.Event()

    def hold():
        with turns:
            turns.say("mine", ())
            began.set()
            may_end.wait(10)
            said("held", ())

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    began.wait(10)
    other = threading.Thread(target=lambda: turns.say("other", ()), daemon=True)
    other.start()
    other.join(0.05)
    assert other.is_alive()
    may_end.set()
    holder.join(10)
    other.join(10)
    assert said.kinds == ["held", "mine", "other"]


def test_many_threads(turns, said):
    """Goal: nothing stays unsaid, whoever's turn ends when."""

    def speak(name):
        for number in range(300):
            if number % 3:
                turns.soon(f"{name} {number}", ())
            else:
                with turns:
                    said(f"{name} {number}", ())

    threads = [threading.Thread(target=speak, args=(name,), daemon=True) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for name in "abcd":
        assert [kind for kind in said.kinds if kind[0] == name] == [f"{name} {number}" for number in range(300)]


# --- A process's end of the link


@pytest.fixture
def link():
    """The model's end; `heard` reads what the server would."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        link, codec = Link(theirs), Codec(writes=False)
        ours.settimeout(10)

        def heard():
            data, _, _, _ = ours.recvmsg(1 << 16)
            return codec.read(data, ())

        yield SimpleNamespace(link=link, heard=heard)
        codec.close()


def stream(link, number):
    return ChildStream(number, InferenceRequest("m", {}), 1, 0, Source(link, False, False))


@pytest.mark.parametrize(
    ("say", "kind"),
    [
        pytest.param(lambda link: stream(link, 7).close(), "send", id="a stream without its end"),
        pytest.param(lambda link: link.say_soon("release", (7,)), "release", id="a metric"),
    ],
)
def test_garbage_of_whoever_reads(link, say, kind):
    """Goal: a reader whose garbage says something waits for nobody who says something just now."""
    Garbage(lambda: say(link.link))
    with link.link._turns:
        in_thread(gc.collect)
        link.link.say("first")
    assert [link.heard().kind for _ in range(2)] == ["first", kind]


def test_a_line_of_a_log_from_garbage(link):
    """Goal: it does not wait for who has the handler's lock."""
    handler = _ToServer(link.link)
    record = logging.LogRecord("model", logging.ERROR, "model.py", 1, "dropped", (), None)
    Garbage(lambda: handler.handle(record))
    handler.acquire()
    try:
        in_thread(gc.collect)
    finally:
        handler.release()
    assert link.heard().fields[2] == "dropped"


def test_the_last_lines(link):
    """Goal: what is logged while another thread says something is on its way when the log is flushed."""
    handler = _ToServer(link.link)
    with link.link._turns:
        handler.handle(logging.LogRecord("model", logging.ERROR, "model.py", 1, "finalized", (), None))
    handler.flush()
    assert link.heard().fields[2] == "finalized"


@pytest.mark.interpreted
def test_a_line_for_which_there_is_no_room(link, monkeypatch):
    """Goal: it is lost, and what follows is not."""

    def refused(self, size):
        raise OSError("no descriptors")

    monkeypatch.setattr(SegmentPool, "take", refused)
    _ToServer(link.link).handle(logging.LogRecord("model", logging.ERROR, "model.py", 1, "x" * 100_000, (), None))
    stream(link.link, 7).close()
    assert link.heard().kind == "send"


@pytest.mark.interpreted
def test_the_end_of_a_stream_overtakes_nothing(link, monkeypatch):
    """Goal: a stream that is closed while a thread has an answer to say ends after that. Method: that thread waits for
    its turn."""
    one = stream(link.link, 7)
    waits = threading.Event()
    say = link.link.say

    def said(*about):
        waits.set()
        say(*about)

    monkeypatch.setattr(link.link, "say", said)
    with link.link._turns:
        sender = threading.Thread(target=lambda: one.send([]), daemon=True)
        sender.start()
        waits.wait(10)
        one.close()
    sender.join(10)
    assert [link.heard().fields[3] for _ in range(2)] == [False, True]
    assert not one.send([])


def large(codec):
    """A message whose tensor needs a segment; without a file where the other side has that already."""
    return codec.write("executed", (), contents_of([Tensor.of("t", np.zeros(100_000, np.uint8))]))


def read_and_dropped(theirs, ours):
    packet = large(theirs)
    ours.read(packet.data, packet.files)


@pytest.mark.interpreted
def test_what_was_let_go_of_is_told_later(monkeypatch):
    """Goal: a message that cannot be written forgets no segment that it would have given back."""
    theirs, ours = Codec(), Codec(writes=False)
    read_and_dropped(theirs, ours)

    def refused(self, size):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(SegmentPool, "take", refused)
        with pytest.raises(MemoryError):
            ours.write("execute", ("x" * 100_000,))
    told = ours.write("execute")
    theirs.read(told.data, told.files)
    assert not large(theirs).files
    theirs.close()
    ours.close()


def test_what_is_returned_while_something_is_placed():
    """Goal: who reads waits for nobody who takes memory. Method: the pool's lock is held, as it is then."""
    theirs, ours = Codec(), Codec(writes=False)
    read_and_dropped(theirs, ours)
    told = ours.write("execute")
    with theirs.pool._lock:
        in_thread(lambda: theirs.read(told.data, told.files))
    assert not large(theirs).files
    theirs.close()
    ours.close()


def test_what_is_returned_twice():
    """Goal: an end that says so breaks nothing: it is told, or it counts once."""
    theirs, ours = Codec(), Codec(writes=False)
    for _ in range(3):
        large(theirs)
    theirs.pool.returned([1])
    theirs.pool.returned([1])
    taken = [theirs.pool.take(100_000).number for _ in range(2)]
    assert sorted(taken) == [1, 4]
    with pytest.raises(KeyError):
        theirs.pool.returned([5])
    theirs.close()
    ours.close()
