"""Instances that share resources: they ask for their turn before they take a batch, and give it back afterwards.

    start ─▶ nothing waits for it? ─▶ idle, and what it held is given back
              └─ want ─▶ its turn: take ─▶ execute ─▶ as from the start
                  └─ not yet: it waits, and is started when its turn has come

Only engines that limit rates have these; the decision is schedule/rate_limiter.py. A batch is formed once its turn has
come, so who comes meanwhile still joins it, and who leaves or is late leaves the queue.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from ..observe.status import ActorStatus
from ..schedule.rate_limiter import ClaimState, RateLimiter
from .feed import Feed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..port.backend import InstanceContext
    from ..port.resources import ResourceLimit
    from ..port.work import Instance
    from ..request.admission import Admission
    from ..request.batch import Batch
    from ..request.ledger import Ledger
    from ..schedule.limits import Limits
    from ..schedule.rate_limiter import Claim
    from ..schedule.scheduler import Scheduler
    from .cost import ExecutionCost


WAITS: Final = 0
RESTS: Final = -1


class Seat:
    """One instance's place among all of a server's. Its lock is the resources'."""

    __slots__ = ("call", "called", "calls", "claim", "instance", "scheduler", "took")

    def __init__(self, claim: Claim, instance: Instance, scheduler: Scheduler, call: Callable[[Seat], None]) -> None:
        self.claim = claim
        self.instance = instance
        self.scheduler = scheduler
        self.call = call
        """Starts the instance, soon. From any thread."""
        self.calls = 0
        """Only the last one starts it: it must not be started twice."""
        self.called = False
        """It was started because its turn has come, and has not looked yet."""
        self.took = False
        """It has taken a batch in this turn."""


class SharedResources:
    """Of one server. From any thread."""

    def __init__(self, limits: Iterable[ResourceLimit]) -> None:
        self._lock = threading.Lock()
        self._limiter = RateLimiter(limits)
        self._seats: dict[Claim, Seat] = {}

    def enter(
        self, context: InstanceContext, instance: Instance, scheduler: Scheduler, call: Callable[[Seat], None]
    ) -> Seat:
        """Raises InvalidArgument for an instance that could never execute."""
        with self._lock:
            claim = self._limiter.add(context.resources, context.device_id, context.priority)
            self._seats[claim] = seat = Seat(claim, instance, scheduler, call)
            return seat

    def leave(self, seat: Seat) -> None:
        with self._lock:
            if self._seats.pop(seat.claim, None) is not None:
                seat.called = False
                self._call(self._limiter.remove(seat.claim))

    def look(self, seat: Seat) -> int:
        """The instance was started: the number of its turn if that has come; WAITS if it will come; else RESTS."""
        with self._lock:
            called, seat.called = seat.called, False
            if seat.claim.state is ClaimState.HOLDING and called:
                return seat.claim.since
            return WAITS if seat.claim.state is ClaimState.WAITING else RESTS

    def want(self, seat: Seat) -> int:
        """Its last turn is over. The number of the next if that comes at once; else WAITS: it is started then."""
        with self._lock:
            if seat.claim not in self._seats:
                return WAITS
            executed, seat.took = seat.took, False
            self._call(self._limiter.want(seat.claim, executed=executed), but=seat)
            self._drop(but=seat)
            return seat.claim.since if seat.claim.state is ClaimState.HOLDING else WAITS

    def give_back(self, seat: Seat, turn: int = 0) -> None:
        """That turn is over if it still has it; 0 for whatever it has or waits for. An instance that is idle may have
        been started elsewhere, and have another one."""
        with self._lock:
            if not turn or (seat.claim.since == turn and seat.claim.state is ClaimState.HOLDING):
                seat.called = False
                self._give_back(seat)

    def holders(self, seat: Seat) -> list[Instance]:
        """Those whose turns it waits for; none if it waits for no turn."""
        with self._lock:
            if seat.claim.state is not ClaimState.WAITING:
                return []
            return [self._seats[claim].instance for claim in self._limiter.holders(seat.claim) if claim in self._seats]

    def status(self) -> ActorStatus:
        """What is held, of how much."""
        with self._lock:
            taken, budgets, waiting = dict(self._limiter.taken), self._limiter.budgets, len(self._limiter.waiting)
            claims = self._limiter.claims
            executing = sum(claim.state is ClaimState.HOLDING for claim in claims)
        held = ", ".join(
            f"{taken.get(supply, 0)} of {count} {supply[0]}" + ("" if supply[1] is None else f" of device {supply[1]}")
            for supply, count in sorted(budgets.items(), key=repr)
        )
        doing = f"{executing} instances have their turn" + (f", with {held}" if held else "")
        return ActorStatus(name="rate limiter", doing=doing, depth=waiting, bound=len(claims))

    # Below: the lock is held.

    def _give_back(self, seat: Seat) -> None:
        executed, seat.took = seat.took, False
        self._call(self._limiter.give_back(seat.claim, executed=executed))
        self._drop()

    def _drop(self, *, but: Seat | None = None) -> None:
        """Starts instances that wait although those they waited for have left: they go idle, out of others' way. `but`
        is running, and finds out by itself."""
        for claim in [*self._limiter.waiting]:
            seat = self._seats[claim]
            if claim.state is ClaimState.WAITING and seat is not but and not seat.scheduler.live:
                self._call([claim, *self._limiter.give_back(claim, executed=False)], but=but)

    def _call(self, claims: Iterable[Claim], *, but: Seat | None = None) -> None:
        for claim in claims:
            seat = self._seats[claim]
            if seat is not but:
                seat.called = True
                seat.calls += 1
                seat.call(seat)


class LimitedFeed(Feed):
    """The feed of a model version whose instances need turns."""

    def __init__(
        self,
        resources: SharedResources,
        scheduler: Scheduler,
        limits: Limits,
        ledger: Ledger,
        admission: Admission,
        cost: ExecutionCost,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(scheduler, limits, ledger, admission, cost, clock)
        self._resources = resources
        self._seats: dict[Instance, Seat] = {}
        self._start: Callable[[Instance], None]

    @property
    def hands_ahead(self) -> bool:
        return False  # each execution needs a turn

    def enter(self, instance: Instance, context: InstanceContext, start: Callable[[Instance], None]) -> None:
        def start_called(seat: Seat, number: int) -> None:
            if seat.called and seat.calls == number:
                start(instance)

        self._start = start

        def call(seat: Seat) -> None:
            self.ledger.post(start_called, seat, seat.calls)

        self._seats[instance] = self._resources.enter(context, instance, self.scheduler, call)

    def rest(self, instance: Instance) -> None:
        seat = self._seats.get(instance)
        if seat is not None:
            self._resources.give_back(seat)

    def leave(self, instance: Instance) -> None:
        seat = self._seats.pop(instance, None)
        if seat is not None:
            self._resources.leave(seat)

    def holders(self, instance: Instance) -> Sequence[Instance]:
        seat = self._seats.get(instance)
        return () if seat is None else self._resources.holders(seat)

    def idles(self, instance: Instance) -> bool:
        return False  # its turn is over: others may wait for that

    def take(self, instance: Instance) -> Batch | None:
        seat = self._seats.get(instance)
        turn = WAITS if seat is None else self._turn(instance, seat, self.limits.look_at)
        return self._taken(seat, turn, super().take(instance)) if seat is not None and turn > 0 else None

    def take_from_thread(self, instance: Instance) -> Batch | None:
        seat = self._seats.get(instance)
        turn = WAITS if seat is None else self._turn(instance, seat, partial(self.ledger.post, self.limits.look_at))
        return self._taken(seat, turn, super().take_from_thread(instance)) if seat is not None and turn > 0 else None

    def _turn(self, instance: Instance, seat: Seat, look_at: Callable[[float], object]) -> int:
        """The number of its turn. WAITS or RESTS if it has none: it will be started."""
        turn = self._resources.look(seat)
        if turn != RESTS:
            return turn
        last = seat.claim.since
        due = self.scheduler.rest_if_idle(instance)
        if due is None:
            turn = self._resources.want(seat)
            if turn == WAITS and self._differ():
                self.ledger.post(self._start_another)
            return turn
        self._resources.give_back(seat, last)
        if due:
            look_at(due)
        self._order_idle()
        return RESTS

    def _taken(self, seat: Seat, turn: int, batch: Batch | None) -> Batch | None:
        if batch is None:
            self._resources.give_back(seat, turn)
            self._order_idle()
        else:
            seat.took = True
        return batch

    def _differ(self) -> bool:
        """Whether one instance may have its turn while another one waits."""
        seats = [*self._seats.values()]
        return any(seat.claim.needs != seats[0].claim.needs for seat in seats)

    def _start_another(self) -> None:
        another = self.scheduler.wake()
        if another is not None:
            self._start(another)

    def _order_idle(self) -> None:
        seats = self._seats
        self.scheduler.order_idle(lambda instance: seats[instance].claim.rank if instance in seats else 0)
