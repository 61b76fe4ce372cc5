"""The line of one priority level: in the order of arrival, or by turns of the callers. Pure.

A line is a deque that knows what else an order needs. `newest` says from which end it is served at this moment: which
end that is may change at any time, and is for standing.py to say.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..request.job import Job, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Line(Protocol):
    """What a level asks of its line. Those that have left stay until they are come to, or swept out."""

    def append(self, job: Job, /) -> None: ...

    def popleft(self) -> Job:
        """The next, the oldest first."""
        ...

    def pop(self) -> Job:
        """The next, the newest first."""
        ...

    def give_back(self, job: Job, newest: bool) -> None:
        """What was popped just now is the next again."""
        ...

    def forgive(self, job: Job) -> None:
        """What was popped just now is not served after all."""
        ...

    def in_order(self, newest: bool) -> Iterator[Job]:
        """As one pop after the other would give them."""
        ...

    def remove(self, job: Job, /) -> None: ...

    def clear(self) -> None: ...

    def sweep(self) -> None:
        """Drops those that have left."""
        ...

    def __contains__(self, job: object, /) -> bool: ...

    def __iter__(self) -> Iterator[Job]: ...

    def __len__(self) -> int: ...


class ArrivalLine(deque[Job]):
    """First come, first served; or the last to come."""

    def give_back(self, job: Job, newest: bool) -> None:
        if newest:
            self.append(job)
        else:
            self.appendleft(job)

    def forgive(self, job: Job) -> None:
        """It makes no difference to anybody."""

    def in_order(self, newest: bool) -> Iterator[Job]:
        return reversed(self) if newest else iter(self)

    def sweep(self) -> None:
        kept = [job for job in self if job.state is JobState.QUEUED]
        self.clear()
        self.extend(kept)


class _Caller:
    """One caller's jobs that wait, and how many rows it may have served before the others' turn comes."""

    __slots__ = ("credit", "jobs", "key")

    def __init__(self, key: object, credit: int) -> None:
        self.key = key
        self.jobs: deque[Job] = deque()
        self.credit = credit


class _Turns:
    """One caller in a look ahead, which changes nothing."""

    __slots__ = ("_jobs", "credit", "head")

    def __init__(self, caller: _Caller, newest: bool) -> None:
        self.credit = caller.credit
        self._jobs = reversed(caller.jobs) if newest else iter(caller.jobs)
        self.head: Job | None = next(self._jobs)

    def served(self) -> Iterator[Job]:
        """What is served in this turn."""
        while self.head is not None and (rows := _rows(self.head)) <= self.credit:
            self.credit -= rows
            job, self.head = self.head, next(self._jobs, None)
            yield job


class FairLine:
    """Deficit round robin over callers: in each round each may have one row more; who needs more rows saves them up.

    A caller who has nothing waiting has no credit either, so nothing is kept of callers who are not here, and being
    away saves nothing up. Within a caller it is first come, first served, or the last to come.
    """

    def __init__(self, key_of: Callable[[Job], object]) -> None:
        self._key_of = key_of
        self._callers: dict[object, _Caller] = {}
        self._ring: deque[_Caller] = deque()
        """Those with jobs, the one whose turn it is first."""
        self._size = 0

    @property
    def callers(self) -> int:
        """Who has jobs here, also if all of them have left."""
        return len(self._ring)

    def append(self, job: Job, /) -> None:
        key = self._key_of(job)
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = _Caller(key, 1)
            self._ring.append(caller)
        caller.jobs.append(job)
        self._size += 1

    def popleft(self) -> Job:
        caller = self._turn(newest=False)
        return self._popped(caller, caller.jobs.popleft())

    def pop(self) -> Job:
        caller = self._turn(newest=True)
        return self._popped(caller, caller.jobs.pop())

    def give_back(self, job: Job, newest: bool) -> None:
        key = self._key_of(job)
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = _Caller(key, 0)
            self._ring.appendleft(caller)
        caller.credit += _rows(job)
        if newest:
            caller.jobs.append(job)
        else:
            caller.jobs.appendleft(job)
        self._size += 1

    def forgive(self, job: Job) -> None:
        caller = self._callers.get(self._key_of(job))
        if caller is not None:
            caller.credit += _rows(job)

    def in_order(self, newest: bool) -> Iterator[Job]:
        """Looks at no more callers than it takes."""
        again: list[_Turns] = []
        some = False
        for caller in self._ring:
            turns = _Turns(caller, newest)
            for job in turns.served():
                some = True
                yield job
            if turns.head is not None:
                turns.credit += 1
                again.append(turns)
        while again:
            if not some:
                rounds = min(_rows(turns.head) - turns.credit for turns in again if turns.head is not None)
                for turns in again:
                    turns.credit += rounds
            some = False
            round_, again = again, []
            for turns in round_:
                for job in turns.served():
                    some = True
                    yield job
                if turns.head is not None:
                    turns.credit += 1
                    again.append(turns)

    def remove(self, job: Job, /) -> None:
        caller = self._callers[self._key_of(job)]
        caller.jobs.remove(job)
        self._size -= 1
        if not caller.jobs:
            self._ring.remove(caller)
            del self._callers[caller.key]

    def clear(self) -> None:
        self._callers.clear()
        self._ring.clear()
        self._size = 0

    def sweep(self) -> None:
        for caller in self._ring:
            caller.jobs = deque(job for job in caller.jobs if job.state is JobState.QUEUED)
        self._ring = deque(caller for caller in self._ring if caller.jobs)
        self._callers = {caller.key: caller for caller in self._ring}
        self._size = sum(len(caller.jobs) for caller in self._ring)

    def __contains__(self, job: object, /) -> bool:
        return any(job is other for other in self)

    def __iter__(self) -> Iterator[Job]:
        """In no order."""
        for caller in self._ring:
            yield from caller.jobs

    def __len__(self) -> int:
        return self._size

    def _turn(self, newest: bool) -> _Caller:
        """Whose turn it is, at the head of the ring. Raises IndexError when nobody is here."""
        ring = self._ring
        while True:
            for _ in range(max(1, len(ring))):
                caller = ring[0]
                if _rows(caller.jobs[-1 if newest else 0]) <= caller.credit:
                    return caller
                caller.credit += 1
                ring.rotate(-1)
            # In a whole round nobody could be served: as many rounds at once as pass until somebody can.
            rounds = min(_rows(caller.jobs[-1 if newest else 0]) - caller.credit for caller in ring)
            for caller in ring:
                caller.credit += max(0, rounds)

    def _popped(self, caller: _Caller, job: Job) -> Job:
        caller.credit -= _rows(job)
        self._size -= 1
        if not caller.jobs:
            self._ring.popleft()
            del self._callers[caller.key]
        return job


def _rows(job: Job) -> int:
    """What serving it costs: nothing, once it has left."""
    return job.batch_size if job.state is JobState.QUEUED else 0
