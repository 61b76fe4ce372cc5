"""Which sequences' next requests an instance executes together. Pure.

| strategy | a batch is                                                                                          |
|----------|-----------------------------------------------------------------------------------------------------|
| direct   | the next request of each slot, in the slots' places; a place below the highest without one gets a    |
|          | request that is none (READY false), so that a model may keep state by place                          |
| oldest   | the next requests of the instance's sequences, by arrival                                            |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import attrs

from .batching import BatchRule, form
from .slots import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...schema.wire.generated.inference import ModelSequenceBatching
    from .slots import Places
    from .slots import Sequence as RequestSequence


@attrs.frozen
class Formed:
    """What to execute, or when to look again."""

    places: Sequence[RequestSequence | None] = ()
    """Whose next requests; None for a place without one."""
    reason: str = ""
    look_at: float = NEVER


class Strategy(Protocol):
    has_places: bool
    """Which place of a batch a request has means something to the model."""

    def form(self, places: Places, now: float) -> Formed:
        """What of an instance's requests is due now."""
        ...


@attrs.frozen
class Direct:
    delay_s: float
    slots_min: int
    """So many slots must have a request, or one has waited that long."""

    has_places = True

    def form(self, places: Places, now: float) -> Formed:
        waiting = places.waiting
        if not waiting:
            return Formed()
        if self.delay_s and len(waiting) < self.slots_min:
            due = min(map(_queued_at, waiting)) + self.delay_s
            if now < due:
                return Formed(look_at=due)
        numbers = [sequence.slot.number for sequence in waiting if sequence.slot is not None]
        first = places.slots[min(numbers)].sequence
        assert first is not None, "it waits"
        key = first.key
        return Formed(
            [
                slot.sequence
                if slot.sequence is not None and slot.sequence in waiting and slot.sequence.key == key
                else None
                for slot in places.slots[: max(numbers) + 1]
            ],
            "sequence",
        )


@attrs.frozen
class Oldest:
    rule: BatchRule

    has_places = False

    def form(self, places: Places, now: float) -> Formed:
        if not places.waiting:
            return Formed()
        waiting = sorted(places.waiting, key=_turn)
        age_s = delay_s = self.rule.delay_s
        due = NEVER
        if delay_s:
            first = min(map(_queued_at, waiting))
            due = first + delay_s
            # Compared as points in time: a difference may round to just below the delay when it has just passed.
            age_s = delay_s if now >= due else now - first
        verdict = form(waiting, self.rule, age_s)
        if verdict.count == 0:
            return Formed(look_at=due)
        return Formed(waiting[: verdict.count], verdict.reason)


def strategy_of(batching: ModelSequenceBatching, rows_max: int) -> Strategy:
    """As configured: direct where nothing is said."""
    if batching.oldest is not None:
        return Oldest(
            BatchRule(
                rows_max=rows_max,
                preferred=tuple(sorted(set(batching.oldest.preferred_batch_size))),
                delay_s=batching.oldest.max_queue_delay_microseconds * 1e-6,
            )
        )
    if batching.direct is None:
        return Direct(0.0, 0)
    return Direct(
        batching.direct.max_queue_delay_microseconds * 1e-6,
        # Numbers of 32 bits are a little more than they say, sometimes.
        math.ceil(round(batching.direct.minimum_slot_utilization * rows_max, 3)),
    )


def slots_of(batching: ModelSequenceBatching, rows_max: int) -> int:
    """How many each instance has."""
    candidates = 0 if batching.oldest is None else batching.oldest.max_candidate_sequences
    return candidates if candidates > 0 else rows_max


def _turn(sequence: RequestSequence) -> int:
    return sequence.jobs[0].turn


def _queued_at(sequence: RequestSequence) -> float:
    return sequence.jobs[0].queued_at
