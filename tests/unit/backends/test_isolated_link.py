"""The server's end of the link to a model's process, where the process does not read."""

from __future__ import annotations

import marshal
import os
import socket
from types import SimpleNamespace

import pytest
import trio
from despina.backends.python.isolated.frames import Codec, files_of
from despina.backends.python.isolated.link import COPY_BYTES_MAX, ProcessLink
from despina.schema.tensor import Tensor


@pytest.fixture
def ends():
    """A link, and the socket at its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = ProcessLink("m_0_0", SimpleNamespace(sock=ours))
    with ours, theirs:
        yield link, theirs
        link.close()


def filled(link):
    """How many packets it takes until the socket takes no more."""
    count = 0
    try:
        while True:
            link._process.sock.send(marshal.dumps(("filler", *range(1000))))
            count += 1
    except BlockingIOError:
        return count


def heard(theirs, codec):
    data, ancillary, _, _ = theirs.recvmsg(1 << 16, socket.CMSG_SPACE(8))
    return codec.read(data, files_of(ancillary))


async def test_what_could_not_be_sent_at_once_goes_first(ends):
    """Goal: the order stays, and nothing is said twice. Method: the socket is full when the first of three is said."""
    link, theirs = ends
    fillers = filled(link)
    large = Tensor("IN", "UINT8", [1 << 20], os.urandom(1 << 20))
    assert link.say_now("first", (), [large]) is None
    assert link.say_now("refused") is False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.say, "second")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(fillers):
            theirs.recv(1 << 16)
        nursery.cancel_scope.deadline = trio.current_time() + 10
    assert link.say_now("third") is True
    codec = Codec()
    first = heard(theirs, codec)
    assert first.kind == "first"
    assert bytes(first.tensors[0].memory()) == large.memory()
    assert [heard(theirs, codec).kind for _ in range(2)] == ["second", "third"]
    del first
    codec.close()


async def test_what_is_not_said_at_once(ends):
    """What would hold the loop, what is in turn behind others, and what nobody hears is said in no other way."""
    link, theirs = ends
    assert link.say_now("large", (), [Tensor("IN", "UINT8", [1], bytes(COPY_BYTES_MAX + 1))]) is False
    theirs.close()
    assert link.say_now("nobody is there") is False


async def test_files_that_never_left_are_closed(ends):
    """Goal: a link that is closed with something unsent keeps no descriptor."""
    link, _ = ends
    filled(link)
    before = len(os.listdir("/proc/self/fd"))
    assert link.say_now("large", (), [Tensor("IN", "UINT8", [1], bytes(1 << 20))]) is None
    assert len(os.listdir("/proc/self/fd")) > before
    link.close()
    assert len(os.listdir("/proc/self/fd")) == before
