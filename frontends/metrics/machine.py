"""What the machine itself is doing: CPU and memory, from /proc, looked at once per interval at most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.frozen
class Reading:
    """CPU use between the last two looks (0 to 1, all cores), memory in bytes."""

    cpu_utilization: float
    memory_total: int
    memory_used: int


class Machine:
    """Reads lazily, on scrapes: nothing runs while nobody asks. `clock` gives seconds."""

    def __init__(self, interval_s: float, clock: Callable[[], float], proc: Path = Path("/proc")) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._proc = proc
        self._ticks = self._cpu_ticks()
        self._looked_at = clock()
        self._reading: Reading | None = None

    def read(self) -> Reading | None:
        """The latest reading, at most one interval old; None where there is no /proc."""
        now = self._clock()
        if self._reading is None or now - self._looked_at >= self._interval_s:
            self._looked_at = now
            self._reading = self._look()
        return self._reading

    def _look(self) -> Reading | None:
        before, after = self._ticks, self._cpu_ticks()
        memory = self._memory()
        if before is None or after is None or memory is None:
            return None
        self._ticks = after
        spent = after[1] - before[1]
        utilization = (after[0] - before[0]) / spent if spent > 0 else 0.0
        return Reading(min(1.0, max(0.0, utilization)), *memory)

    def _cpu_ticks(self) -> tuple[int, int] | None:
        """Busy and all clock ticks since boot, over all cores."""
        try:
            words = (self._proc / "stat").read_bytes().split(b"\n", 1)[0].split()
            ticks = [int(word) for word in words[1:9]]  # guest time is part of user time already
        except (OSError, ValueError):
            return None
        if len(ticks) < 5:
            return None
        total = sum(ticks)
        return total - ticks[3] - ticks[4], total

    def _memory(self) -> tuple[int, int] | None:
        try:
            lines = (self._proc / "meminfo").read_bytes().splitlines()
            fields = {line.split(b":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
            return fields[b"MemTotal"], fields[b"MemTotal"] - fields[b"MemAvailable"]
        except (OSError, ValueError, KeyError):
            return None
