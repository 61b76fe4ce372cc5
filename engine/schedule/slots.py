"""Which sequence has which slot of which instance, and who waits for one. Pure: no clock, no lock.

START ──▶ a free slot, lowest number first over all instances ──▶ ... ──▶ END, silence, a caller that leaves: free
      └─▶ the backlog, first come first served ──a slot becomes free──▶ there
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from ..port.work import Instance
    from ..request.job import Job

SequenceId = int | str


@attrs.define(eq=False)
class Slot:
    """A place of one instance, for one sequence at a time."""

    owner: Instance
    number: int
    sequence: Sequence | None = None
    is_gone: bool = False
    """Its instance is."""


@attrs.define(eq=False)
class Sequence:
    """One sequence of requests, from its START to its END."""

    id: SequenceId
    jobs: deque[Job] = attrs.field(factory=deque)
    """Those that wait."""
    slot: Slot | None = None
    has_ended: bool = False
    """Its END has come: nothing follows."""
    in_flight: bool = False
    """One of its requests executes."""
    touched_at: float = 0.0
    """When its last request came."""
    expires_at: float = 0.0
    """Until when it may wait in the backlog; 0 for ever."""


class Slots:
    """All sequences of one model version."""

    def __init__(self, per_instance: int) -> None:
        self.per_instance = per_instance
        self.active: dict[SequenceId, Sequence] = {}
        """Those whose END has not come."""
        self.placed: dict[Sequence, None] = {}
        """Those with a slot, in the order in which they got it."""
        self.backlog: deque[Sequence] = deque()
        self._of: dict[Instance, list[Slot]] = {}
        self._free: list[tuple[int, int, Slot]] = []
        self._order = 0

    def of(self, owner: Instance) -> list[Slot]:
        """The slots of an instance, made when it is first seen; who waits gets some of them then."""
        slots = self._of.get(owner)
        if slots is None:
            slots = self._of[owner] = [Slot(owner, number) for number in range(self.per_instance)]
            for slot in slots:
                self._push(slot)
            while self.backlog and self._free:
                self._place(self.backlog.popleft())
        return slots

    def begin(self, id: SequenceId) -> Sequence:
        """A new sequence, in a slot or in the backlog."""
        sequence = self.active[id] = Sequence(id)
        if self._free:
            self._place(sequence)
        else:
            self.backlog.append(sequence)
        return sequence

    def end(self, sequence: Sequence) -> None:
        """It is over, wherever it was: its slot goes to who waits longest."""
        if self.active.get(sequence.id) is sequence:
            del self.active[sequence.id]
        slot, sequence.slot = sequence.slot, None
        if slot is None:
            if sequence in self.backlog:
                self.backlog.remove(sequence)
            return
        del self.placed[sequence]
        slot.sequence = None
        if slot.is_gone:
            return
        self._push(slot)
        if self.backlog:
            self._place(self.backlog.popleft())

    def remove(self, owner: Instance) -> list[Sequence]:
        """The instance is gone, with its slots. The sequences that were there, which are over."""
        over = []
        for slot in self._of.pop(owner, []):
            slot.is_gone = True
            if slot.sequence is not None:
                over.append(slot.sequence)
        for sequence in over:
            self.end(sequence)
        return over

    def _push(self, slot: Slot) -> None:
        self._order += 1
        heapq.heappush(self._free, (slot.number, self._order, slot))

    def _place(self, sequence: Sequence) -> None:
        slot = heapq.heappop(self._free)[2]
        while slot.is_gone and self._free:
            slot = heapq.heappop(self._free)[2]
        if slot.is_gone:
            self.backlog.append(sequence)
            return
        slot.sequence, sequence.slot = sequence, slot
        self.placed[sequence] = None
