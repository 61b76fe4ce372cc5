"""Requests that come when they are due, whatever becomes of those before: an open loop over callers of load.py.

What lives here: when each request is due, drawn before anything is sent; the loop that sends them; what waits say.
A request's wait begins when it is due and not when it is sent. So whatever keeps it, in the server or here, is part of
it, and a server that stands still is asked by everybody who would have come meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import select
import time
from collections import deque
from typing import TYPE_CHECKING

import attrs

from tests.bench.load import Loop, WrongAnswer, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.load import Caller

ARRIVALS = ("random", "even")
"""At random times (a Poisson process), or at equal distances."""
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0)
"""Of the requests: those whose longest wait is told."""
PATIENCE_S = 30.0


@attrs.frozen
class Waits:
    """What became of the requests of one run, or of several."""

    seconds: Sequence[float]
    """How long each waited, sorted."""
    late: Sequence[float]
    """Of that: how long it waited here before it was sent, sorted."""
    lasted_s: float
    cpu_us: float | None
    """The server's user and system time a request, None where its process is unknown."""

    def within_ms(self, share: float) -> float:
        """In what time so many of them were answered: 0.99 for 99 of 100."""
        return 1e3 * ranked(self.seconds, share)


def ranked(values: Sequence[float], share: float) -> float:
    """The least of the sorted values that so many are not above."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def due_times(rate: float, seconds: float, arrivals: str, seed: int) -> list[float]:
    """When so many a second are due, from 0 on; at least one. The same for everybody who brings the seed."""
    if arrivals == "even":
        return [index / rate for index in range(max(1, int(rate * seconds)))]
    dice = random.Random(seed)
    times, at = [], dice.expovariate(rate)
    while at < seconds or not times:
        times.append(at)
        at += dice.expovariate(rate)
    return times


def together(runs: Sequence[Waits]) -> Waits:
    """Several turns as one."""
    count = sum(len(run.seconds) for run in runs)
    cpu_us = [run.cpu_us * len(run.seconds) for run in runs if run.cpu_us is not None]
    return Waits(
        sorted(one for run in runs for one in run.seconds),
        sorted(one for run in runs for one in run.late),
        sum(run.lasted_s for run in runs),
        sum(cpu_us) / count if cpu_us else None,
    )


def flood(callers: Sequence[Caller], due: Sequence[float], pid: int | None) -> Waits:
    """Sends a request at each of these times, by whichever caller has been idle longest; by the next one to be free
    where none is. Each caller has asked once before it counts. Closes the connections. Raises WrongAnswer."""
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(contextlib.closing(select.epoll()))
        for caller in callers:
            stack.callback(caller.connection.close)
            poll.register(caller.connection, select.EPOLLIN)
        timetable = Timetable(poll, {caller.connection.fileno(): caller for caller in callers})
        timetable.ask([0.0] * len(callers))
        if gc.isenabled():  # a pause of ours would be taken for the server's
            stack.callback(gc.enable)
            gc.disable()
        cpu_before, began = cpu_seconds(pid), time.perf_counter()
        waits, late = timetable.ask(due)
        lasted_s, cpu_after = time.perf_counter() - began, cpu_seconds(pid)
    cpu_us = None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / len(due) * 1e6
    return Waits(sorted(waits), sorted(late), lasted_s, cpu_us)


class Timetable(Loop):
    """The callers' epoll loop, where requests go out when they are due."""

    def __init__(self, poll: select.epoll, callers: dict[int, Caller]) -> None:
        super().__init__(poll, callers)
        self._idle = deque(callers)

    def ask(self, due: Sequence[float]) -> tuple[list[float], list[float]]:
        """One request for each of the times, from now on: how long each waited, and for how long of it here. Raises
        WrongAnswer, also when nothing is answered for half a minute."""
        waits: list[float] = []
        late: list[float] = []
        asked: dict[int, float] = {}
        idle, callers, clock, wait = self._idle, self._callers, time.perf_counter, select.select
        began = heard = clock()
        sent = 0
        while len(waits) < len(due):
            now = clock() - began
            while sent < len(due) and due[sent] <= now and idle:
                fd = idle.popleft()
                asked[fd] = due[sent]
                late.append(clock() - began - due[sent])
                callers[fd].start()
                self.follow(callers[fd])
                sent += 1
            until = due[sent] - (clock() - began) if idle and sent < len(due) else PATIENCE_S
            wait([self._poll], [], [], max(0.0, until))  # epoll itself counts in milliseconds
            events = self._poll.poll(0)
            if not events and clock() - max(heard, began + max(asked.values(), default=0.0)) > PATIENCE_S:
                raise WrongAnswer(f"no answer for {PATIENCE_S:.0f} s")
            for fd, event in events:
                caller = callers[fd]
                heard = clock()
                if event & select.EPOLLOUT:
                    caller.writable()
                if event & ~select.EPOLLOUT and caller.readable():
                    waits.append(clock() - began - asked.pop(fd))
                    idle.append(fd)
                self.follow(caller)
        return waits, late
