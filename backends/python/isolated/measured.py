"""The metrics that one process has, as the server keeps them: by number, until it lets go of them or ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....schema.fault import Internal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.metrics import Metrics


class Measured:
    """Of one process. For the trio thread."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._held: dict[int, tuple[Any, Callable[[], None]]] = {}
        """A family or a metric, and how it is let go."""
        self._last = 0

    def do(self, what: str, *about: Any) -> float | int | None:
        """Raises Fault for what cannot be done."""
        if what == "family":
            made = self._metrics.family(*about)
            return self._hold(made, lambda: self._metrics.release(made))
        held, _ = self._held[about[0]]
        if what == "make":
            metric = held.metric(*about[1:])
            return self._hold(metric, lambda: held.release(metric))
        if what not in ("increment", "set", "observe", "value"):
            raise Internal(f"'{what}' was not expected")
        value: float | None = getattr(held, what)(*about[1:])
        return value

    def release(self, number: int) -> None:
        """The process has it no more."""
        _, let_go = self._held.pop(number)
        let_go()

    def close(self) -> None:
        """The process is gone: metrics before their families."""
        for number in reversed([*self._held]):
            self.release(number)

    def _hold(self, made: Any, let_go: Callable[[], None]) -> int:
        self._last += 1
        self._held[self._last] = made, let_go
        return self._last
