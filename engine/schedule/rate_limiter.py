"""Which instances may execute, where they share resources: the decision, for all models of a server. Pure.

    add ──▶ resting ──want──▶ waiting ──granted──▶ holding ──give_back──▶ resting ──▶ remove
                               ▲                    │
                               └────────want────────┘    who has more to do competes with those that wait

1. An instance holds all that it needs or nothing, so none waits for another that waits.
2. Who waits is served by executions times priority, lowest first; then by how long it waits.
3. Who waits keeps those behind it from what it needs, and from nothing else: it cannot be overtaken for ever.
4. Nobody gets what is not there. There is as much of a resource as the operator says or, if he says nothing of any, as
   the neediest instance asks for.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from ...schema.config.collecting import refuse_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..port.resources import Resource, ResourceLimit

Supply = tuple[str, int | None]
"""A resource of one device, or of the whole server."""

EXECUTIONS_AT_FIRST = 2
"""What opening and warming up count as."""


class ClaimState(Enum):
    RESTING = "resting"
    WAITING = "waiting"
    HOLDING = "holding"


class Claim:
    """What one instance needs, and where it stands."""

    __slots__ = ("executions", "needs", "priority", "since", "state")

    def __init__(self, needs: Mapping[Supply, int], priority: int, executions: int) -> None:
        self.needs = needs
        self.priority = priority
        self.executions = executions
        self.since = 0
        """Its place among all that have ever waited."""
        self.state = ClaimState.RESTING

    @property
    def rank(self) -> int:
        """Who has the lowest is next."""
        return self.executions * self.priority


class RateLimiter:
    """See the module. Not for several threads at once."""

    def __init__(self, limits: Iterable[ResourceLimit] = ()) -> None:
        """Of limits that say the same resource and device the last one holds."""
        self._limits: dict[str, dict[int | None, int]] = {}
        for limit in limits:
            self._limits.setdefault(limit.name, {})[limit.device] = limit.count
        self.claims: set[Claim] = set()
        self.budgets: dict[Supply, int] = {}
        """How much there is."""
        self.taken: dict[Supply, int] = {}
        """How much of it is held."""
        self.waiting: list[Claim] = []
        self._turns = 0

    # --- Who there is

    def add(self, resources: Sequence[Resource], device: int, priority: int) -> Claim:
        """The claim of one more instance. Raises InvalidArgument when it could never execute."""
        needs: dict[Supply, int] = {}
        for resource in resources:
            supply = (resource.name, None if resource.is_global else device)
            needs[supply] = max(needs.get(supply, 0), resource.count)
        self._check(needs)
        priority = max(1, priority)
        # Who comes late is not ahead of everybody until it has executed as often as they have in all their time.
        least = min((claim.rank - EXECUTIONS_AT_FIRST * claim.priority for claim in self.claims), default=0)
        claim = Claim(needs, priority, EXECUTIONS_AT_FIRST + least // priority)
        self.claims.add(claim)
        self._set_budgets()
        return claim

    def remove(self, claim: Claim) -> list[Claim]:
        """An instance is gone, whatever it held or waited for. Returns those that may execute now."""
        if claim not in self.claims:
            return []
        self._free(claim)
        self.claims.remove(claim)
        self._set_budgets()
        return self._grant()

    # --- Their turns

    def want(self, claim: Claim, *, executed: bool = False) -> list[Claim]:
        """An instance has work: it waits for its turn, and gives back what it holds. Returns those that may execute
        now, itself maybe."""
        self._free(claim, executed=executed)
        self._turns += 1
        claim.since = self._turns
        claim.state = ClaimState.WAITING
        self.waiting.append(claim)
        return self._grant()

    def give_back(self, claim: Claim, *, executed: bool) -> list[Claim]:
        """It rests from here on, whether it held or waited. Returns those that may execute now."""
        self._free(claim, executed=executed)
        return self._grant()

    def holders(self, claim: Claim) -> list[Claim]:
        """Those that have what a waiting claim needs, or what others need whose turn is before its own."""
        needs = set(claim.needs)
        before = [other for other in self.waiting if (other.rank, other.since) < (claim.rank, claim.since)]
        while more := [other for other in before if not needs.isdisjoint(other.needs)]:
            before = [other for other in before if other not in more]
            needs.update(*(other.needs for other in more))
        holding = (other for other in self.claims if other.state is ClaimState.HOLDING)
        return [other for other in holding if not needs.isdisjoint(other.needs)]

    # --- Inside

    def _free(self, claim: Claim, *, executed: bool = False) -> None:
        if executed:
            claim.executions += 1
        if claim.state is ClaimState.HOLDING:
            for supply, count in claim.needs.items():
                self.taken[supply] -= count
        elif claim.state is ClaimState.WAITING:
            self.waiting.remove(claim)
        claim.state = ClaimState.RESTING

    def _grant(self) -> list[Claim]:
        if not self.waiting:
            return []
        granted: list[Claim] = []
        kept: set[Supply] = set()
        """For those that wait before the one looked at."""
        for claim in sorted(self.waiting, key=lambda claim: (claim.rank, claim.since)):
            if any(supply in kept or self._is_short(supply, count) for supply, count in claim.needs.items()):
                kept.update(claim.needs)
                continue
            for supply, count in claim.needs.items():
                self.taken[supply] = self.taken.get(supply, 0) + count
            claim.state = ClaimState.HOLDING
            granted.append(claim)
        if granted:
            self.waiting = [claim for claim in self.waiting if claim.state is ClaimState.WAITING]
        return granted

    def _is_short(self, supply: Supply, count: int) -> bool:
        return self.taken.get(supply, 0) + count > self.budgets[supply]

    def _set_budgets(self) -> None:
        budgets: dict[Supply, int] = {}
        for claim in self.claims:
            for supply, count in claim.needs.items():
                budgets[supply] = max(budgets.get(supply, 0), count)
        if self._limits:
            budgets = {supply: self._limit(supply) for supply in budgets}
        self.budgets = budgets

    def _limit(self, supply: Supply) -> int:
        """A device has what is said of it or of all, whichever is more; the server the most that is said of any."""
        name, device = supply
        said = self._limits.get(name, {})
        if device is None:
            return max(said.values(), default=0)
        return max(said.get(device, 0), said.get(None, 0))

    def _check(self, needs: Mapping[Supply, int]) -> None:
        faults = []
        others = {supply for claim in self.claims for supply in claim.needs} | needs.keys()
        global_names = {name for name, device in others if device is None}
        device_names = {name for name, device in others if device is not None}
        for supply, count in needs.items():
            if self._limits and count > self._limit(supply):
                faults.append(
                    f'Resource count for "{supply[0]}" is limited to {self._limit(supply)} which will prevent '
                    f"scheduling of one or more model instances, the minimum required count is {count}"
                )
        faults += [
            f'Resource "{name}" is present as both global and device-specific resource in the model configuration.'
            for name in dict.fromkeys(name for name, _ in needs)
            if name in global_names and name in device_names
        ]
        refuse_all(faults)
