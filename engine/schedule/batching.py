"""How many of the waiting requests the next execution takes, and why.

Pure, if the model's own bounds are: `form(waiting, ...)` looks at the queue in serving order and at the age of its
oldest request, and says how many requests to take from the front, or how long to wait first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Waiting(Protocol):
    """What the policy needs of a waiting request."""

    @property
    def batch_size(self) -> int: ...

    @property
    def key(self) -> object: ...


class Bounds(Protocol):
    """What bounds a batch besides rows: see policies.py."""

    def begin(self) -> Callable[[Any], bool]:
        """What then tells of each that waits, in serving order, whether it still fits."""
        ...


@attrs.frozen
class Verdict:
    count: int
    """Requests to take from the front; 0 means wait."""
    rows: int
    """Their rows together."""
    reason: str
    """Why the batch is closed there: `full`, `preferred`, `shape`, `policy`, `delay`, `eager`, `single`."""
    wait_s: float
    """With count 0: seconds until the verdict changes by itself."""


@attrs.frozen
class BatchRule:
    """The dynamic batcher's settings for one model."""

    rows_max: int
    """max_batch_size; 1 when requests are never joined."""
    preferred: Sequence[int] = ()
    """Ascending preferred batch sizes, in rows. Empty means `rows_max` only."""
    delay_s: float = 0.0
    """How long the oldest request may wait for company; 0 never waits."""
    bounds: Bounds | None = None
    """The model's own."""

    @property
    def preferred_max(self) -> int:
        return self.preferred[-1] if self.preferred else self.rows_max


def form(waiting: Iterable[Waiting], rule: BatchRule, age_s: float) -> Verdict:
    """The next batch from `waiting`, which is in serving order. `age_s` is the age of its oldest request.

    The rules, in order:
    1. Requests join from the front while their rows fit `rows_max`, their keys equal the first one's, and the model's
       own bounds, if it has any, include them.
    2. Once the delay has passed for the oldest, everything that joined goes.
    3. Else the largest preferred size met goes; passing the largest preferred size without meeting one counts as met.
    4. Else what joined goes if nothing more can join (full, a key that differs, or a bound), or if it has reached the
       largest preferred size, or if there is no delay to wait for.
    5. Else wait for the rest of the delay.
    """
    preferred = rule.preferred
    preferred_max = rule.preferred_max
    rows_max = rule.rows_max
    include = None if rule.bounds is None else rule.bounds.begin()
    count = rows = best_count = best_rows = 0
    key: object = None
    closed = ""
    for request in waiting:
        size = request.batch_size
        if count == 0:
            key = request.key
            if include is not None:
                include(request)
        else:
            if best_count == 0 and rows + size > preferred_max:
                best_count, best_rows = count, rows
            if rows + size > rows_max:
                closed = "full"
                break
            if request.key != key:
                closed = "shape"
                break
            if include is not None and not include(request):
                closed = "policy"
                break
        count += 1
        rows += size
        if rows in preferred:
            best_count, best_rows = count, rows
        if rows >= rows_max:
            closed = "full"
            break
    if count == 0:
        return Verdict(0, 0, "", 0.0)
    late = rule.delay_s > 0 and age_s >= rule.delay_s
    if best_count and not late:
        return Verdict(best_count, best_rows, closed if best_count == count and closed else "preferred", 0.0)
    if closed or rows >= preferred_max:
        return Verdict(count, rows, closed or "full", 0.0)
    if late or rule.delay_s == 0:
        return Verdict(count, rows, "delay" if late else "eager", 0.0)
    return Verdict(0, 0, "", rule.delay_s - age_s)
