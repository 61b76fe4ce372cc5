"""Whether a movable instance runs on its own thread or inline on the trio thread.

A hop to a thread and back costs about 50 µs of CPU and two wake-ups; running inline costs the other requests the time
of the execution. So cheap executions run inline, and a model moves only when its cost has clearly changed.
"""

from __future__ import annotations

import attrs

SAMPLES_MIN = 8
"""Executions to see before the first move; frameworks are slow at first."""
SAMPLES_IGNORED = 3
WEIGHT = 0.1
ENTER_S = 150e-6
LEAVE_S = 300e-6
OUTLIER_S = 5e-3
"""One execution this long leaves at once: it held up every connection."""


@attrs.define
class Placement:
    """The running decision for one model version. `cost_s` is the learned cost of one execution, in seconds."""

    forced: bool = False
    """True when the model's parameter decided; `inline` then never changes."""
    inline: bool = False
    cost_s: float = 0.0
    samples: int = 0

    def learn(self, seconds: float) -> None:
        """Takes one execution's cost into account and moves if it must."""
        self.samples += 1
        if self.samples <= SAMPLES_IGNORED:
            return
        self.cost_s = seconds if self.cost_s == 0.0 else self.cost_s + WEIGHT * (seconds - self.cost_s)
        if self.forced:
            return
        if self.inline:
            if self.cost_s > LEAVE_S or seconds > OUTLIER_S:
                self.inline = False
                self.cost_s = max(self.cost_s, LEAVE_S)
        elif self.samples >= SAMPLES_MIN and self.cost_s < ENTER_S:
            self.inline = True
