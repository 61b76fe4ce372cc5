"""Which sequence has which slot of which instance, and who waits for one. Pure: no clock, no lock.

START ──▶ a free slot, lowest number first over all instances ──▶ ... ──▶ END, silence, a caller that leaves: free
      └─▶ the backlog, first come first served ──a slot becomes free──▶ there

Of a sequence's requests one at most is under way, the first that waits is its next. What time does costs the same for
any number of sequences.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from ..port.work import Instance
    from ..request.job import Job
    from .states import KeptStates

SequenceId = int | str

NEVER: Final = 0.0

_SWEEP_MIN: Final = 64
"""What time will end is swept when there is that much, most of it of sequences that are over."""


@attrs.define(eq=False)
class Slot:
    """A place of one instance, for one sequence at a time."""

    places: Places
    number: int
    sequence: Sequence | None = None

    @property
    def owner(self) -> Instance:
        return self.places.owner


@attrs.define(eq=False)
class Places:
    """Of one instance."""

    owner: Instance
    slots: list[Slot] = attrs.field(factory=list)
    """By number, as far as they have ever been of use."""
    waiting: dict[Sequence, None] = attrs.field(factory=dict)
    """Those of its sequences that have a request to execute: none of theirs is under way."""
    is_gone: bool = False


@attrs.define(eq=False)
class Sequence:
    """One sequence of requests, from its START to its END."""

    id: SequenceId
    states: KeptStates
    """What its model remembers from one request to the next."""
    is_iterative: bool = False
    """Its one request is executed again and again: when nothing of it waits, it is over."""
    jobs: deque[Job] = attrs.field(factory=deque)
    """Those that wait."""
    slot: Slot | None = None
    has_ended: bool = False
    """Its END has come, or it was given up: nothing follows."""
    in_flight: bool = False
    """One of its requests executes."""
    touched_at: float = 0.0
    """When its last request came."""
    expires_at: float = NEVER
    """Until when it may wait in the backlog."""

    batch_size = 1
    """Of its next request."""

    @property
    def key(self) -> object:
        """Next requests share a batch only if these are equal."""
        job = self.jobs[0]
        return job.key, self.states.key(starts=job.request.sequence_start)


class Slots:
    """All sequences of one model version."""

    def __init__(self, per_instance: int, idle_s: float) -> None:
        """`idle_s` is how long a sequence with a slot may be silent."""
        self.per_instance = per_instance
        self.idle_s = idle_s
        self.active: dict[SequenceId, Sequence] = {}
        """Those that go on."""
        self.placed: dict[Sequence, None] = {}
        """Those with a slot."""
        self.backlog: OrderedDict[Sequence, None] = OrderedDict()
        """Those without, first come first served."""
        self._silences: list[tuple[float, int, Sequence]] = []
        """One of each with a slot that may fall silent: a time before which it does not; also of some that are over."""
        self._expiries: list[tuple[float, int, Sequence]] = []
        """Of the backlog; also of what waits no longer, until its time comes or most is."""
        self._of: dict[Instance, Places] = {}
        self._free: list[tuple[int, int, Places, Slot | None]] = []
        """By number, then the longest free; None for the lowest of an instance that nobody has had yet."""
        self._order = 0

    def of(self, owner: Instance) -> Places:
        """An instance's, made when it is first seen; who waits gets some of its slots then."""
        places = self._of.get(owner)
        if places is None:
            places = self._of[owner] = Places(owner)
            self._push(0, places, None)
            while self.backlog and self._free:
                self._place(self.backlog.popitem(last=False)[0])
        return places

    def begin(self, sequence: Sequence, now: float) -> None:
        """A new one, in a slot or in the backlog."""
        self.active[sequence.id] = sequence
        sequence.touched_at = now
        if self._free:
            self._place(sequence)
        else:
            self.backlog[sequence] = None

    def add(self, sequence: Sequence, job: Job, now: float) -> None:
        """Its next request has come."""
        self._order += 1
        job.turn = self._order
        sequence.jobs.append(job)
        sequence.touched_at = now
        self._wait(sequence)

    def expect_by(self, sequence: Sequence, when: float) -> None:
        """It may wait in the backlog until then, if not shorter already."""
        if sequence.slot is None and (sequence.expires_at == NEVER or when < sequence.expires_at):
            sequence.expires_at = when
            if len(self._expiries) >= _SWEEP_MIN and len(self._expiries) > 4 * len(self.backlog):
                self._expiries = [entry for entry in self._expiries if self._is_due(entry)]
                heapq.heapify(self._expiries)
            self._order += 1
            heapq.heappush(self._expiries, (when, self._order, sequence))

    def pop(self, sequence: Sequence) -> Job:
        """Its next request, to be executed."""
        assert sequence.slot is not None, "only who has a slot is executed"
        del sequence.slot.places.waiting[sequence]
        sequence.in_flight = True
        return sequence.jobs.popleft()

    def landed(self, sequence: Sequence, again: Job | None = None) -> None:
        """Its request was executed, or is to be executed once more."""
        sequence.in_flight = False
        if again is not None:
            self._order += 1
            again.turn = self._order
            sequence.jobs.appendleft(again)
        self._wait(sequence)
        self._settle(sequence)

    def close(self, sequence: Sequence) -> None:
        """Nothing follows what has come: its id is free, and its slot as soon as that is done."""
        sequence.has_ended = True
        if self.active.get(sequence.id) is sequence:
            del self.active[sequence.id]
        self._settle(sequence)

    def abandon(self, sequence: Sequence) -> list[Job]:
        """It is over but for what is under way. What waited of it."""
        jobs = list(sequence.jobs)
        sequence.jobs.clear()
        if sequence.slot is not None:
            sequence.slot.places.waiting.pop(sequence, None)
        self.close(sequence)
        return jobs

    def remove(self, owner: Instance) -> list[Job]:
        """The instance is gone, with its slots and the sequences there. What waited of those."""
        places = self._of.pop(owner, None)
        if places is None:
            return []
        places.is_gone = True
        self._free = [entry for entry in self._free if entry[2] is not places]
        heapq.heapify(self._free)
        jobs = []
        for slot in places.slots:
            if slot.sequence is not None:
                slot.sequence.in_flight = False
                jobs += self.abandon(slot.sequence)
        return jobs

    # --- Time

    def due(self) -> float:
        """When time will change something; NEVER if it will not."""
        while self._expiries and not self._is_due(self._expiries[0]):
            heapq.heappop(self._expiries)
        expires = self._expiries[0][0] if self._expiries else NEVER
        sequence = self._longest_silent()
        if sequence is None:
            return expires
        silent = sequence.touched_at + self.idle_s
        return silent if expires == NEVER else min(silent, expires)

    def silence(self, now: float) -> None:
        """Those that have been silent too long are over; what has come of them before is executed."""
        while (sequence := self._longest_silent()) is not None and sequence.touched_at + self.idle_s <= now:
            self.close(sequence)

    def expire(self, now: float) -> list[Job]:
        """Those that have waited too long in the backlog are over. What waited of them."""
        jobs = []
        while self._expiries and self._expiries[0][0] <= now:
            entry = heapq.heappop(self._expiries)
            if self._is_due(entry):
                jobs += self.abandon(entry[2])
        return jobs

    # --- Inside

    def _longest_silent(self) -> Sequence | None:
        silences = self._silences
        while silences:
            when, order, sequence = silences[0]
            if sequence.has_ended:
                heapq.heappop(silences)
            elif sequence.touched_at + self.idle_s > when:  # it was heard of meanwhile
                heapq.heapreplace(silences, (sequence.touched_at + self.idle_s, order, sequence))
            else:
                return sequence
        return None

    def _listen(self, sequence: Sequence) -> None:
        if len(self._silences) >= _SWEEP_MIN and len(self._silences) > 4 * len(self.placed):
            self._silences = [entry for entry in self._silences if not entry[2].has_ended]
            heapq.heapify(self._silences)
        self._order += 1
        heapq.heappush(self._silences, (sequence.touched_at + self.idle_s, self._order, sequence))

    def _is_due(self, entry: tuple[float, int, Sequence]) -> bool:
        when, _, sequence = entry
        return sequence in self.backlog and sequence.expires_at == when

    def _wait(self, sequence: Sequence) -> None:
        if sequence.jobs and not sequence.in_flight and sequence.slot is not None:
            sequence.slot.places.waiting.setdefault(sequence)

    def _settle(self, sequence: Sequence) -> None:
        """Ends it if nothing of it is left: its slot goes to who waits longest."""
        if sequence.in_flight or sequence.jobs or not (sequence.has_ended or sequence.is_iterative):
            return
        if self.active.get(sequence.id) is sequence:
            del self.active[sequence.id]
        self.backlog.pop(sequence, None)
        slot, sequence.slot = sequence.slot, None
        if slot is None:
            return
        del self.placed[sequence]
        slot.sequence = None
        if slot.places.is_gone:
            return
        self._push(slot.number, slot.places, slot)
        if self.backlog:
            self._place(self.backlog.popitem(last=False)[0])

    def _push(self, number: int, places: Places, slot: Slot | None) -> None:
        self._order += 1
        heapq.heappush(self._free, (number, self._order, places, slot))

    def _place(self, sequence: Sequence) -> None:
        number, _, places, slot = heapq.heappop(self._free)
        if slot is None:
            slot = Slot(places, number)
            places.slots.append(slot)
            if number + 1 < self.per_instance:
                self._push(number + 1, places, None)
        slot.sequence, sequence.slot = sequence, slot
        self.placed[sequence] = None
        if not (sequence.has_ended or sequence.is_iterative):
            self._listen(sequence)
        self._wait(sequence)
