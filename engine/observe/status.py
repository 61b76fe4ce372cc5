"""What an actor does now: the same few facts of each, for `Engine.status()`."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class ActorStatus:
    """One actor at one moment."""

    name: str
    doing: str
    """In words."""
    depth: int = 0
    """Messages that wait for it, or that it works on."""
    bound: int | None = None
    """Of them, at most; None where something else bounds them."""
    oldest_s: float = 0.0
    """How long the first of them has waited."""
    facts: dict[str, int] = attrs.field(factory=dict)
    """What it counts."""

    def of(self, owner: str) -> ActorStatus:
        """The same, named as one of that owner's."""
        return attrs.evolve(self, name=f"{owner} {self.name}")


@attrs.frozen(kw_only=True)
class Workload:
    """How much one model version has to do at one moment, in numbers. `ActorStatus` says the same in words."""

    inflight: int
    """Requests accepted and not over."""
    queue_max: int
    """Of them, at most so many may wait."""
    oldest_s: float = 0.0
    """How long the next to be served has waited."""
    instances_serving: int = 0
    instances_down: int = 0
    """Those that should serve and do not."""
