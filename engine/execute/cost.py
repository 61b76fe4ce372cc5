"""What an execution costs, as it is learned, and whether that is cheap enough for the trio thread. Pure.

A hop to a thread and back costs about 50 µs of CPU and two wake-ups; running inline costs the other requests the time
of the execution. So cheap executions run inline, and a model moves only when its cost has clearly changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ...schema.fault import Unavailable

if TYPE_CHECKING:
    from ...schema.wire.generated.inference import ModelConfig

EXECUTOR_PARAMETER = "DESPINA_EXECUTOR"
"""Model parameter: `inline`, `thread` or `auto` (the default) for instances that can move."""

SAMPLES_MIN = 8
"""Executions to see before the first move; frameworks are slow at first."""
SAMPLES_IGNORED = 3
WEIGHT = 0.1
ENTER_S = 150e-6
LEAVE_S = 300e-6
GROWTH_MAX = 4.0
"""A sample counts as at most this many times the learned cost: on a shared machine any execution may be preempted."""
DOUBT = 0.9
LONG_S = 5e-3
"""Two executions in a row this long leave at once: they held up every connection."""


@attrs.define
class ExecutionCost:
    """The running decision for one model version, and what it learns on the way, in seconds."""

    forced: bool = False
    """True when the model's parameter decided, or what it waits for; `inline` then never changes."""
    inline: bool = False
    cost_s: float = 0.0
    """Of one execution, to others on the same thread."""
    lasts_s: float = 0.0
    """From the beginning of an execution to its end, waiting included."""
    varies_s: float = 0.0
    """By how much one execution or the other lasts longer or shorter than that."""
    samples: int = 0
    long_in_a_row: int = 0

    @property
    def over_within_s(self) -> float:
        """How long the next execution lasts, on the safe side."""
        return self.lasts_s + self.varies_s

    def _learn_time(self, lasted_s: float) -> None:
        if lasts := self.lasts_s:
            differs = min(lasted_s, GROWTH_MAX * lasts) - lasts
            self.lasts_s = lasts + WEIGHT * differs
            self.varies_s += WEIGHT * (abs(differs) - self.varies_s)
        else:
            self.lasts_s = lasted_s

    def leave_for_good(self) -> None:
        """Executions wait for something else than the processor: they never run inline from now on."""
        self.forced, self.inline = True, False

    def doubt(self) -> None:
        """Nobody who waited could have been served in time. If that is so for everybody who comes, nothing is executed
        any more, and nothing learned: then the cost counts as less and less, until somebody is let through."""
        self.lasts_s *= DOUBT
        self.varies_s *= DOUBT

    def learn(self, seconds: float, lasted_s: float) -> None:
        """Takes one execution's cost into account and moves if it must. `lasted_s` is the time it was waited for."""
        self.samples += 1
        if self.samples <= SAMPLES_IGNORED:
            return
        if self.forced or not self.inline:  # else it is too short to make anybody late
            self._learn_time(lasted_s)
        cost = self.cost_s
        self.cost_s = cost = cost + WEIGHT * (min(seconds, GROWTH_MAX * cost) - cost) if cost else seconds
        if self.forced:
            return
        if self.inline:
            self.long_in_a_row = self.long_in_a_row + 1 if seconds > LONG_S else 0
            if cost > LEAVE_S or self.long_in_a_row > 1:
                self.inline = False
                self.long_in_a_row = 0
                self.cost_s = max(cost, LEAVE_S)
        elif self.samples >= SAMPLES_MIN and cost < ENTER_S:
            self.inline = True


def execution_cost(config: ModelConfig) -> ExecutionCost:
    """Nothing learned yet. Raises Unavailable for a parameter that says no executor."""
    wanted = config.parameters.get(EXECUTOR_PARAMETER)
    value = wanted.string_value if wanted is not None else "auto"
    if value not in ("inline", "thread", "auto"):
        raise Unavailable(
            f"model '{config.name}', parameter '{EXECUTOR_PARAMETER}': expected inline, thread or auto, got '{value}'"
        )
    return ExecutionCost(forced=value != "auto", inline=value == "inline")
