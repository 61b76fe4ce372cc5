"""The limits in time of one model version's jobs: one heap, one task, no cancel scope per request.

A job may be due twice: when its caller stops waiting, and when its level lets it wait no longer. Entries of jobs that
are over stay in the heap until they are due or most of it is dead.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import TYPE_CHECKING

import trio

from ..request.job import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..request.job import Job

log = logging.getLogger("despina.engine.schedule.timers")

SWEEP_MIN = 256
"""The heap is swept of finished jobs when it has this many entries and most are dead."""


class Timers:
    """Everything on the trio thread; times in seconds of the engine's clock."""

    def __init__(
        self, clock: Callable[[], float], expire: Callable[[Job, float], None], wake: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._expire = expire
        """Told of each job that is due, and of the time."""
        self._wake = wake
        """Told when the scheduler should be looked at again."""
        self._heap: list[tuple[float, int, Job | None]] = []
        self._order = itertools.count()
        self._scope: trio.CancelScope | None = None
        """Around the task's sleep."""
        self._wake_next = 0.0
        """When the next look at the scheduler is due; 0 for never."""

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, job: Job | None, alive: int) -> None:
        """Has `job` told of at `when`; None looks at the scheduler. `alive` is how many jobs are not over."""
        heap = self._heap
        if len(heap) >= SWEEP_MIN and len(heap) > 4 * alive:
            heap[:] = [entry for entry in heap if entry[2] is None or entry[2].state <= JobState.EXECUTING]
            heapq.heapify(heap)
        entry = (when, next(self._order), job)
        heapq.heappush(heap, entry)
        if heap[0] is entry and self._scope is not None:
            self._scope.deadline = trio.current_time() + max(0.0, when - self._clock())

    def wake_at(self, when: float, alive: int) -> None:
        """Looks at the scheduler at `when`, unless that is to happen before."""
        if not self._wake_next or when < self._wake_next:
            self._wake_next = when
            self.at(when, None, alive)

    async def run(self) -> None:
        """The task."""
        heap = self._heap
        while True:
            wait_s = max(0.0, heap[0][0] - self._clock()) if heap else float("inf")
            with trio.move_on_after(wait_s) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            now = self._clock()
            wake = False
            while heap and heap[0][0] <= now:
                _, _, job = heapq.heappop(heap)
                if job is None:
                    wake = True
                    self._wake_next = 0.0
                else:
                    self._call(self._expire, job, now)
            if wake:
                self._call(self._wake)

    def _call(self, told: Callable[..., None], *about: object) -> None:
        try:
            told(*about)
        except Exception:  # one limit that cannot be kept must not stop the others, nor the model
            log.exception("a limit in time could not be kept")
