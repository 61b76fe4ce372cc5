"""Which nested calls can never end, because they wait for instances which wait for them: a pure decision.

    a queued call        waits for any instance that may take it, all of which are busy
    an executed call     waits for the instance that has it
    a busy instance      waits for what it executes: for the calls that its thread stands still in, else for all calls
                         made for it; a sender without credit, for whoever should read what it sends

Everything is crossed out that can move, or that something moving may set free. What is left waits for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from .port.served import Inference, Served
    from .request.job import Job


class WaitingCall(Protocol):
    """A nested call, as far as it matters here."""

    served: Served | None
    inference: Inference | None
    waits: bool
    """What makes it stands still for it."""

    @property
    def parents(self) -> Sequence[Job]:
        """What it was made for."""
        ...


_C = TypeVar("_C", bound=WaitingCall)


def stuck(calls: Iterable[_C], *, surely: bool) -> list[_C]:
    """Those that wait for themselves, in the given order. `surely`: only where execution stands still in a call; else
    also where all calls made for it wait, though it might go on without their answers."""
    left = list(calls)
    while True:
        among = {id(call) for call in left}
        of_job = {id(call.inference): call for call in left}
        still = [call for call in left if _is_held(call, among, of_job, surely)]
        if len(still) == len(left):
            return left
        left = still


def _is_held(call: WaitingCall, among: Collection[int], of_job: Mapping[int, WaitingCall], surely: bool) -> bool:
    """Whether everything that could let `call` go on waits for one of those that are `left`."""
    if call.served is None or call.inference is None:
        return False
    busy = call.served.blockers(call.inference)
    return bool(busy) and all(_stands_still(jobs, among, of_job, surely) for jobs in busy)


def _stands_still(jobs: Sequence[Job], among: Collection[int], of_job: Mapping[int, WaitingCall], surely: bool) -> bool:
    made: list[WaitingCall] = [child for job in jobs for child in job.children or ()]
    waited = [child for child in made if child.waits]
    if waited or surely:
        return any(id(child) in among for child in waited)
    if made:
        return all(id(child) in among for child in made)
    return any(
        job.is_held_up and (reader := of_job.get(id(job))) is not None and _reads_nothing(reader, among) for job in jobs
    )


def _reads_nothing(stream: WaitingCall, among: Collection[int]) -> bool:
    """Whether whoever should read a stream stands still in another call."""
    made: list[WaitingCall] = [child for job in stream.parents for child in job.children or ()]
    return any(child.waits and child is not stream and id(child) in among for child in made)
