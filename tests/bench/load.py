"""A closed-loop load generator: one epoll loop, prebuilt bytes, every answer checked.

Each caller has a connection of its own and one request under way on it; when an answer is complete and right, the next
request goes out at once. An answer whose bytes equal those of one to the same question that was decoded and verified is
right; any other is decoded and verified. A wrong answer stops the run: a server that answers wrongly has no speed.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.2
ROUNDS_MIN = 4
"""How many answers each caller must have had, on average, for a run to count."""
KNOWN_BYTES_MAX = 1 << 16
"""Of an answer that is remembered with all that frames it."""
KNOWN_MAX = 8
"""Right answers to one question: the last bits of floats depend on the batch."""
COMPARED_BYTES = 1 << 16
"""At a time, so that copies stay in the cache."""
LONGEST_SECONDS = 20.0
"""When a run ends whatever its callers have."""


class WrongAnswer(Exception):
    """The server answered, but not what it should."""


class Ask:
    """One request, and how to tell that its answer is right. Shared by the callers of a run."""

    __slots__ = ("_verify", "pieces", "request", "right", "seen")

    def __init__(self, request: bytes, verify: Callable[[bytes, memoryview], None]) -> None:
        self.request = request
        self._verify = verify
        self.seen = False
        """An answer has been verified."""
        self.right: list[Any] = []
        """Whole answers that were, in the caller's form."""
        self.pieces: Any = None
        """What the caller has made of the request."""

    def check(self, head: bytes, body: memoryview) -> None:
        """Raises WrongAnswer unless this answers the request."""
        self._verify(head, body)
        self.seen = True

    def know(self, answer: Any, size: int) -> None:
        """The answer that has just been checked, of `size` bytes: it need not be decoded again."""
        if size <= KNOWN_BYTES_MAX:
            self.right = [answer, *self.right[: KNOWN_MAX - 1]]


class Caller(Protocol):
    """One connection with one request under way at a time; callers of a run share their request's bytes."""

    connection: socket.socket
    pool: Sequence[Ask]
    """All that it may ask."""

    def start(self) -> None:
        """Sends the next request, as far as the socket takes it."""

    def wants_to_write(self) -> bool:
        """Whether bytes of the request are still waiting."""

    def writable(self) -> None:
        """Sends more of what waits."""

    def readable(self) -> bool:
        """Takes what came; True when the answer is complete and right. Raises WrongAnswer."""


@attrs.frozen
class Measured:
    """What a run found. `cpu_us` is the server's user and system time a request, None where its process is unknown."""

    requests: int
    seconds: float
    cpu_us: float | None

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return self.requests / self.seconds


def drive(
    callers: Sequence[Caller], seconds: float, warm_seconds: float, pid: int | None, *, learns: bool = False
) -> Measured:
    """Keeps every caller busy for `seconds`, after `warm_seconds` that are not counted, and, if it `learns`, until each
    question has been answered, so that no answer has to be decoded while it counts. Closes the connections."""
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(contextlib.closing(select.epoll()))
        for caller in callers:
            stack.callback(caller.connection.close)
            poll.register(caller.connection, select.EPOLLIN)
        loop = Loop(poll, {caller.connection.fileno(): caller for caller in callers})
        for caller in callers:
            caller.start()
            loop.follow(caller)
        loop.run(warm_seconds)
        while learns and not all(ask.seen for caller in callers for ask in caller.pool):
            loop.run(POLL_SECONDS)
        cpu_before, start, done_before = cpu_seconds(pid), time.perf_counter(), loop.done
        loop.run(seconds)
        # Long requests: what was under way at the start and at the end must not weigh.
        while loop.done - done_before < len(callers) * ROUNDS_MIN and time.perf_counter() - start < LONGEST_SECONDS:
            loop.run(POLL_SECONDS)
        end, cpu_after = time.perf_counter(), cpu_seconds(pid)
        requests = max(1, loop.done - done_before)
        cpu = None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / requests * 1e6
        return Measured(requests, end - start, cpu)


class Loop:
    """The epoll loop over the callers."""

    def __init__(self, poll: select.epoll, callers: dict[int, Caller]) -> None:
        self.done = 0
        self._poll = poll
        self._callers = callers
        self._writing: set[int] = set()
        self._idle_since = time.perf_counter()

    def run(self, seconds: float) -> None:
        """Carries on for a while. Raises WrongAnswer, also when nothing is answered for half a minute."""
        until = time.perf_counter() + seconds
        while (now := time.perf_counter()) < until:
            events = self._poll.poll(POLL_SECONDS)
            if events:
                self._idle_since = now
            elif now - self._idle_since > 30:
                raise WrongAnswer("no answer for 30 s")
            for fd, event in events:
                caller = self._callers[fd]
                if event & select.EPOLLOUT:
                    caller.writable()
                if event & ~select.EPOLLOUT and caller.readable():
                    self.done += 1
                    caller.start()
                self.follow(caller)

    def follow(self, caller: Caller) -> None:
        """Watches for writability only while something waits to be written."""
        fd = caller.connection.fileno()
        if caller.wants_to_write() != (fd in self._writing):
            self._writing ^= {fd}
            self._poll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if fd in self._writing else 0))


class Answers:
    """Which bodies are known to be right; shared by the callers of one run."""

    def __init__(self, verify: Callable[[bytes, memoryview], str | None]) -> None:
        self._verify = verify
        self._right: bytes | None = None

    def check(self, head: bytes, body: memoryview) -> None:
        """Raises WrongAnswer unless the body is right."""
        if self._right is not None and same_bytes(body, self._right):
            return
        try:
            complaint = self._verify(head, body)
        except (KeyError, ValueError, IndexError) as error:
            complaint = repr(error)
        if complaint is not None:
            raise WrongAnswer(f"{complaint}: {head[:200]!r} {bytes(body[:300])!r}")
        self._right = bytes(body)


def same_bytes(body: memoryview, right: bytes) -> bool:
    """Whether the bytes are these. Piece by piece, because Python compares a view with bytes one element after another:
    5 ms for a MiB, in which the server would wait for its only caller."""
    if len(body) != len(right):
        return False
    starts = range(0, len(right), COMPARED_BYTES)
    return all(bytes(body[at : at + COMPARED_BYTES]) == right[at : at + COMPARED_BYTES] for at in starts)


def connected(host: str, port: int) -> socket.socket:
    """A non-blocking connection without Nagle's delay."""
    connection = socket.create_connection((host, port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


def cpu_seconds(pid: int | None) -> float | None:
    """User and system time of a process and all its descendants so far, or None where the pid is not known."""
    if pid is None:
        return None
    times, children = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            values = file.read().rpartition(")")[2].split()
            times[int(name)] = int(values[11]) + int(values[12])
            children.setdefault(int(values[1]), []).append(int(name))
    family, total = [pid], 0
    for member in family:
        total += times.get(member, 0)
        family += children.get(member, [])
    return total / TICKS_PER_SECOND
