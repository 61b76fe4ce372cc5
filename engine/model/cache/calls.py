"""The requests of one model version that has a cache: answered from it, by an execution, or by another's execution.

    submit ──look──▶ hit: over
               └───▶ miss ─┬─▶ a flight of its own: a job like any other executes it, and its answer is kept
                           └─▶ joining, and an equal request executes: its flight

| who leaves, or is late   | the execution            | counts                                                |
|--------------------------|--------------------------|-------------------------------------------------------|
| while it is looked up    | there is none            | CANCELED                                              |
| the only one of a flight | cancelled like any other | what was executed does                                |
| one of several           | goes on for the others   | CANCELED; of these the first stands for the execution |
|                          |                          | and the rest are hits                                 |

If the execution fails, its first caller hears why, and each other request is executed by itself; where it failed for
the first one's limits in time, the others join anew. All on the trio thread.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ....schema.fault import Cancelled, DeadlineExceeded, Fault, InvalidArgument, QueueTimeout, ShuttingDown
from ....schema.inference import InferenceResponse
from ...request.job import Job, JobState, move
from ...request.ledger import End
from ...schedule.timers import Timers
from .keeper import KEY_BYTES_NOW_MAX
from .key import PARAMETER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....schema.inference import InferenceRequest, Parameter
    from ....schema.tensor import Tensor
    from ...observe.statistics import ModelStats
    from ...port.served import Inference
    from ...request.admission import Admission
    from ...request.ledger import Ledger
    from .entry import Answer
    from .keeper import Keeper
    from .key import Keys

    Submit = Callable[[InferenceRequest, Callable[[Job], None], float], Job]

BYPASS: Final = "bypass"
_OWN_LIMITS: Final = (Cancelled, DeadlineExceeded, QueueTimeout)
"""Why an execution fails that says nothing of the next one."""


class CachedCall(Job):
    """What the caller holds. QUEUED until it is over."""

    kept_as = ""
    """The key of its answer; empty where it is not."""
    lookup_ns = 0
    looked_ns = 0
    """When the look-up began, or the wait for another's answer."""
    hit_ns = 0
    """How long that took."""
    flight: Flight | None = None

    def __init__(self, request: InferenceRequest, on_done: Callable[[Job], None], calls: Calls) -> None:
        super().__init__(request, on_done)
        self.calls = calls
        self.submitting = True
        """A refusal is raised, not told."""

    def cancel(self) -> None:
        if self.on_done is None:
            return
        if self.state is JobState.QUEUED:
            self.calls.withdraw(self, JobState.CANCELLED)
        else:  # answered, and to be told when those before it are
            self.on_done = None


class Flight:
    """One execution, and who waits for it."""

    __slots__ = ("calls", "key", "over", "submitted")

    def __init__(self, call: CachedCall) -> None:
        self.key = call.kept_as
        self.calls = [call]
        """The first one stands for the execution."""
        self.submitted: Job | None = None
        """None until it is accepted."""
        self.over = False


class Calls:
    """See the module's tables."""

    def __init__(
        self,
        *,
        submit: Submit,
        admission: Admission,
        ledger: Ledger,
        statistics: ModelStats,
        keeper: Keeper,
        keys: Callable[[], Keys],
        clock: Callable[[], float],
        joins: bool,
    ) -> None:
        """`submit` executes a request as if there were no cache; `keys` are asked for by each."""
        self._submit = submit
        self._admission = admission
        self._ledger = ledger
        self._statistics = statistics
        self._keeper = keeper
        self._keys = keys
        self._clock = clock
        self._joins = joins
        self._looking: dict[CachedCall, None] = {}
        self._flights: dict[str, Flight] = {}
        """By key, where requests may join."""
        self._timers = Timers(clock, self._expire, lambda: None)

    async def run_beside(self, version: Callable[[], Awaitable[None]]) -> None:
        """Runs the version, and beside it the task that keeps deadlines. In the end nobody waits any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timers.run)
            try:
                await version()
            finally:
                for call in list(self._looking):
                    self.withdraw(call, JobState.REJECTED, ShuttingDown("the model was unloaded before its turn came"))
            nursery.cancel_scope.cancel()

    def stop_looking(self) -> None:
        """The version drains: what is looked up is executed, now, while requests are still taken."""
        for call in list(self._looking):
            self._miss(call)

    def submit(self, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float) -> Job:
        """See port/served.py."""
        ledger = self._ledger
        call = CachedCall(request, on_done, self)
        call.ledger = ledger
        self._admission.admit(call)
        request = call.request
        if request.parameters and PARAMETER in request.parameters:
            if request.parameters[PARAMETER] != BYPASS:
                raise InvalidArgument(
                    f"{request.log_prefix()}parameter '{PARAMETER}' must be '{BYPASS}', got "
                    f"'{request.parameters[PARAMETER]}'"
                )
            return self._submit(request, on_done, deadline)
        call.received_ns = call.looked_ns = time.monotonic_ns()
        ledger.inflight += 1
        if deadline:
            call.deadline = self._clock() + deadline - trio.current_time()
            self._timers.at(call.deadline, call, ledger.inflight)
        self._looking[call] = None
        try:
            size = sum(map(_byte_size, request.inputs.values()))
            if request.shared is not None and size > KEY_BYTES_NOW_MAX:
                # It is read once, here or where it executes, and not by a third thread meanwhile.
                self._miss(call)
            else:
                self._keeper.look(size, partial(self._keys().of, request), partial(self._found, call))
        except Fault as fault:
            if call.on_done is not None:
                call.on_done = None
                self._end(call, End.RELAYED)
            raise fault.with_traceback(None) from None
        call.submitting = False
        return call

    def _found(self, call: CachedCall, key: str, answer: Answer | None, spent_ns: int) -> None:
        if call not in self._looking:
            return  # it left, or could not wait
        call.kept_as, call.lookup_ns = key, spent_ns
        if answer is None:
            self._miss(call)
            return
        del self._looking[call]
        call.hit_ns = spent_ns
        call.response = self._response(call, answer.outputs, answer.parameters)
        self._end(call, End.CACHED)

    def _miss(self, call: CachedCall) -> None:
        self._looking.pop(call, None)
        flight = self._flights.get(call.kept_as) if call.kept_as else None
        if flight is None:
            self._fly(call, joined=self._joins and bool(call.kept_as))
            return
        call.flight = flight
        call.looked_ns = time.monotonic_ns()
        flight.calls.append(call)

    def _fly(self, call: CachedCall, *, joined: bool) -> None:
        """Has the call's request executed. `joined`: others may join."""
        call.flight = flight = Flight(call)
        deadline = 0.0
        if joined:
            self._flights[call.kept_as] = flight
        elif call.deadline:
            deadline = call.deadline - self._clock() + trio.current_time()
        try:
            request = _alone(call.request) if call.kept_as else call.request
            submitted = self._submit(request, partial(self._landed, flight), deadline)
        except Fault as fault:
            self._close(flight)
            if call.submitting:
                raise
            call.fault = fault
            self._end(call, End.RELAYED)
            return
        flight.submitted = submitted
        if not flight.calls and not flight.over:  # who asked has left in between
            submitted.cancel()

    def _landed(self, flight: Flight, executed: Job) -> None:
        self._close(flight)
        flight.over = True
        calls, flight.calls = flight.calls, []
        response, fault = executed.response, executed.fault
        if fault is None and response is not None and flight.key:
            lookup_ns = calls[0].lookup_ns
            self._keeper.keep(flight.key, response, lambda spent_ns: self._statistics.missed(lookup_ns + spent_ns))
        for place, call in enumerate(calls):
            if fault is None and response is not None:
                call.response = self._response(call, list(response.outputs), response.parameters)
                call.hit_ns = time.monotonic_ns() - call.looked_ns
                self._end(call, End.CACHED if place else End.RELAYED, executed)
            elif not place:
                call.fault = fault
                self._end(call, End.RELAYED, executed)
            elif isinstance(fault, _OWN_LIMITS):
                call.flight = None
                self._miss(call)
            else:
                self._fly(call, joined=False)

    def executed_for(self, inference: Inference) -> Inference | None:
        """What executes a request of the version's; None while there is nothing."""
        if not isinstance(inference, CachedCall):
            return inference
        return None if inference.flight is None else inference.flight.submitted

    def withdraw(self, call: CachedCall, state: JobState, fault: Fault | None = None) -> None:
        """The caller leaves, or hears that it is late."""
        self._looking.pop(call, None)
        flight, call.flight = call.flight, None
        how = End.LEFT if fault is None else End.REFUSED
        if fault is None:
            call.on_done = None
        call.fault = fault or Cancelled("the caller has left")
        move((call,), state)
        if flight is not None:
            flight.calls.remove(call)
            if not flight.calls:
                how = End.RELAYED
                self._close(flight)
                if flight.submitted is not None:
                    flight.submitted.cancel()
        self._end(call, how)
        if fault is None and call.request.trace is not None:
            call.request.trace.finish()  # its door has nothing more to note

    # --- Inside

    def _expire(self, job: Job, now: float) -> None:
        if job.state is JobState.QUEUED and isinstance(job, CachedCall):
            self.withdraw(job, JobState.REJECTED, DeadlineExceeded("Deadline Exceeded"))

    def _close(self, flight: Flight) -> None:
        """Nobody joins any more."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _end(self, call: CachedCall, how: End, executed: Job | None = None) -> None:
        """`executed` is just told of, too."""
        call.flight = None
        if call.state is JobState.QUEUED:
            move((call,), JobState.EXECUTING)
            move((call,), JobState.DONE)
        if how is not End.RELAYED and call.request.trace is not None:
            self._ledger.trace(call)
        execution = None
        if executed is not None and how is End.RELAYED:
            execution = executed.execution or self._ledger.ending
        self._ledger.end((call,), how, execution)  # type: ignore[arg-type]  # the engine's own

    def _response(
        self, call: CachedCall, outputs: list[Tensor], parameters: dict[str, Parameter] | None
    ) -> InferenceResponse:
        request = call.request
        return InferenceResponse(request.model_name, call.version_text, outputs, request.id, parameters)


def _byte_size(tensor: Tensor) -> int:
    """About, without making a form that is not there yet."""
    if tensor.wire is not None:
        return len(tensor.wire)
    return tensor.array.nbytes if tensor.array is not None else tensor.byte_size  # type: ignore[attr-defined]  # shared


def _alone(request: InferenceRequest) -> InferenceRequest:
    """The request as it is executed. Its outputs come back even if they go to shared memory: they are kept first."""
    if request.shared is None:
        return request
    alone = request.without_inputs()
    alone.inputs = request.inputs
    alone.template = None  # which knows nothing of what was read of shared memory meanwhile
    alone.trace = request.trace
    return alone
