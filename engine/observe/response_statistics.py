"""What a decoupled model's answers cost, by their place in the stream: the protocol's `response_stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ...schema.wire.generated.inference import InferResponseStatistics, StatisticDuration

if TYPE_CHECKING:
    from ...schema.fault import Fault
    from ...schema.inference import InferenceResponse

PLACES_MAX = 1024
"""Later answers of a stream are not counted one by one: a stream may be endless, its statistics may not."""


class CountedAnswer(Protocol):
    """What is counted of one answer."""

    response: InferenceResponse | None
    fault: Fault | None
    spent_ns: int
    """Since the answer before it, or since the execution began."""


class _Place:
    __slots__ = ("cancel_count", "empty_count", "empty_ns", "fail_count", "fail_ns", "success_count", "success_ns")

    def __init__(self) -> None:
        self.success_count = self.success_ns = 0
        self.fail_count = self.fail_ns = 0
        self.empty_count = self.empty_ns = 0
        self.cancel_count = 0


class ResponseStatistics:
    """Durations are nanoseconds from the answer before, or from the start of the execution. Written on the trio thread
    only."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: list[_Place] = []

    def count(self, index: int, answer: CountedAnswer, *, cancelled: bool) -> None:
        """Counts the answer at `index` of its stream. `cancelled`: nobody wanted it any more."""
        place = self._at(index)
        if place is None:
            return
        if cancelled:
            place.cancel_count += 1
        elif answer.fault is not None:
            place.fail_count += 1
            place.fail_ns += answer.spent_ns
        elif answer.response is None:
            place.empty_count += 1
            place.empty_ns += answer.spent_ns
        else:
            place.success_count += 1
            place.success_ns += answer.spent_ns

    def dropped(self, index: int, count: int) -> None:
        """Counts `count` cancelled answers from `index` on."""
        for at in range(index, min(index + count, PLACES_MAX)):
            place = self._at(at)
            assert place is not None, "within the bound"
            place.cancel_count += 1

    def message(self) -> dict[str, InferResponseStatistics]:
        """By decimal index. Outputs are handed over as they are, so their part of the time is always 0."""
        return {str(index): _message(place) for index, place in enumerate(self._places)}

    def _at(self, index: int) -> _Place | None:
        places = self._places
        if index >= PLACES_MAX:
            return None
        while len(places) <= index:
            places.append(_Place())
        return places[index]


def _message(place: _Place) -> InferResponseStatistics:
    def spent(count: int, ns: int) -> StatisticDuration:
        return StatisticDuration(count=count, ns=ns)

    counted = place.success_count + place.fail_count + place.empty_count
    return InferResponseStatistics(
        compute_infer=spent(counted, place.success_ns + place.fail_ns + place.empty_ns),
        compute_output=spent(place.success_count, 0),
        success=spent(place.success_count, place.success_ns),
        fail=spent(place.fail_count, place.fail_ns),
        empty_response=spent(place.empty_count, place.empty_ns),
        cancel=spent(place.cancel_count, 0),
    )
