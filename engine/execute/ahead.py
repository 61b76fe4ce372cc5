"""What waits at an instance's executor, so that it waits for nobody between two executions.

    scheduler ──taken: EXECUTING, but not begun──▶ here ──its turn──▶ the instance's current batch
        ◀──given back: QUEUED, the first in line── take_back: a caller leaves, time runs out, the executor dies, ...

Jobs go ahead where nobody else could have them sooner: of a model with one instance, in order of arrival. Whatever may
befall a queued job takes all of them back first, so nothing else needs to know of them.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.fault import Fault
    from ..port.backend import PipelinedInstance
    from ..request.batch import Batch
    from ..request.holding import Holder
    from .feed import Feed


class Ahead:
    """Of one executor, while it is open. Everything is for the trio thread."""

    def __init__(self, holder: Holder, feed: Feed, executor: PipelinedInstance) -> None:
        """`holder` is the instance, whom jobs know."""
        self.batches: deque[Batch] = deque()
        """In the order in which they are executed."""
        self._holder = holder
        self._feed = feed
        self._executor = executor
        self._last: Batch | None = None
        """Whose turn has come last: it may not have been begun either."""

    def hand(self, over: Callable[[Fault | None], None], unbegun: Callable[[], None]) -> None:
        """Hands over what waits, once half of what was handed over is used up."""
        feed, waiting, room = self._feed, self.batches, self._executor.ahead_max
        if len(waiting) > room // 2:
            return
        while len(waiting) < room and feed.scheduler.live and feed.hands_ahead:
            batch = feed.take_ahead()
            if batch is None:
                return
            for job in batch.jobs:
                job.ahead = self._holder
            batch.begin()
            is_taken = False
            with suppress(Exception):  # when its turn has come it fails for all to see
                is_taken = self._executor.begin_ahead(batch, over, unbegun, self._within_s(batch))
            if not is_taken:
                feed.give_back(batch)
                return
            waiting.append(batch)

    def next(self) -> Batch | None:
        """Its turn has come."""
        self._last = batch = self.batches.popleft() if self.batches else None
        return batch

    def take_back(self, current: Batch | None) -> bool:
        """What has not been begun is queued again. Whether `current` is among it."""
        waiting = self.batches
        is_open = current is not None and current is self._last
        count = self._executor.take_back() if waiting or is_open else 0
        for _ in range(min(count, len(waiting))):
            self._feed.give_back(waiting.pop())
            count -= 1
        if not count:
            return False
        assert current is not None, "there are no others"
        self._feed.give_back(current)
        return True

    def _within_s(self, batch: Batch) -> float:
        """How late it may begin at most."""
        deadline = min((job.deadline for job in batch.jobs if job.deadline), default=math.inf)
        return deadline - self._feed.clock() - self._feed.cost.over_within_s
