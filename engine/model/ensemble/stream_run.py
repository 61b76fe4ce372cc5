"""One request to an ensemble that has decoupled models: any number of answers, in the order that they were caused.

    stage 0 ── its decoupled step ──answers──▶ a scope each, in line: stage 1 ── ... ──▶ the last stage: answers

Scopes of one stage work side by side, but leave their line in order: in the last stage with an answer to the caller, in
those between by asking the decoupled step that ends them, one at a time. So the order of answers is what the order of
the causes was, whatever is ready first.

A failure has its place in line, too: what was caused before it is answered, what was caused after it is dropped.

**Room.** A decoupled model may send as many answers as its caller has room for (request/stream.py). An answer gives its
room back when all that it has led to is read by our caller: then nothing is kept twice, and no more than one credit
for each stage, however slow the caller and however many answers there would be.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from ....schema.fault import DeadlineExceeded, Unavailable
from ...request.stream import Answer as Given
from .run import Home, Run, Scope

if TYPE_CHECKING:
    from ....schema.fault import Fault
    from ....schema.inference import InferenceResponse
    from ...port.served import Answer, InferenceStream
    from .graph import Step
    from .job import EnsembleStream
    from .parts import Parts
    from .plan import Plan
    from .run import Call

SILENT_S_MAX = 300.0
"""How long a step may be silent for which another one waits that is not over. Both may need the same instance: one
would have to end before the other can begin. The reference server goes on after as long, without a bound."""


class TimedHome(Home, Protocol):
    def now(self) -> float:
        """In seconds of the engine's clock."""
        ...

    def look_at(self, when: float, job: EnsembleStream) -> None:
        """Has the job's course look then."""
        ...


class Opened(Scope):
    """A scope that an answer has opened."""

    __slots__ = ("asked_at", "asking", "counted", "held", "source", "unread")

    def __init__(self, plan: Plan, depth: int, source: Call, counted: bool) -> None:
        super().__init__(plan, depth)
        self.source = source
        """Whose answer has opened it."""
        self.counted = counted
        """That answer has taken room."""
        self.held: Step | None = None
        """The decoupled step that ends its stage, while it cannot begin yet: others are before it in line."""
        self.asking = False
        """That step has begun, and may answer more."""
        self.asked_at: float | None = None
        """When it has begun, until its first answer."""
        self.unread = 0
        """Of its answers, those that our caller has not read."""


class StreamRun(Run):
    """See the module's text."""

    def __init__(self, home: TimedHome, job: EnsembleStream, parts: Parts) -> None:
        super().__init__(home, job, parts)
        self._stream = job
        self._clock = home
        self._lines: list[deque[Opened]] = [deque() for _ in self._plan.stages]
        """By stage: the scopes that have not left, in order. None of the first stage."""
        self._unread: deque[Opened] = deque()
        """Answers that our caller has been given and not read, by the scope that each came of."""
        self._advancing = False
        self._failure: tuple[int, Fault] | None = None
        """What ends it once the line of that stage is empty."""
        self._last: InferenceResponse | None = None
        """The final answer, if that is one."""

    # --- For the version and the caller

    def consumed(self, count: int) -> None:
        """Our caller has read so many answers."""
        for _ in range(min(count, len(self._unread))):
            self._leave_line(self._unread.popleft())
        try:
            self._advance()
        except Exception as error:
            self.failed(error, None)

    def look(self, now: float) -> None:
        """Looks whether a step is silent for too long."""
        asking = next((line[0] for line in reversed(self._lines) if line and line[0].asking), None)
        if asking is None or asking.asked_at is None or now < asking.asked_at + SILENT_S_MAX:
            return
        waiting = _caused_by(asking)
        if waiting is None:
            return
        ending = self._plan.stages[asking.depth].ending
        assert ending is not None, "it is asked"
        fault = Unavailable(
            f"step of model '{ending.model_name}' has not answered within {SILENT_S_MAX:g} s, and step of model "
            f"'{waiting.step.model_name}' waits for it"
        )
        self._end(self._named(fault))

    # --- For the steps' models

    def answered_once_more(self, call: Call, stream: InferenceStream, answer: Answer) -> None:
        if self.is_over or call.is_dropped:
            return
        if answer.fault is not None:
            raise answer.fault
        if answer.response is not None:
            opened = Opened(self._plan, call.scope.depth + 1, call, not answer.final)
            self._give_answer(opened, call, stream, answer.response)
            self._lines[opened.depth].append(opened)
            if isinstance(call.scope, Opened):
                call.scope.unread += 1
                call.scope.asked_at = None
        if answer.final:
            self._leave(call, stream)
            call.scope.left -= 1
            if isinstance(call.scope, Opened):
                self._end_asking(call.scope)
        self._advance()

    # --- Steps

    def _can_begin(self, scope: Scope, step: Step) -> None:
        if isinstance(scope, Opened) and step is self._plan.stages[scope.depth].ending:
            scope.held = step
        else:
            super()._can_begin(scope, step)

    def _advance(self) -> None:
        """Lets those leave their lines whose turn has come, and begins what can begin, until there is nothing left to
        do. Callers and models may answer from within: then the outermost of these calls goes on."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while not self.is_over and (self._ready or self._moves_up()):
                super()._advance()
            if not self.is_over and self._failure is not None and not self._lines[self._failure[0]]:
                self._end(self._failure[1])
            if not (self.is_over or self._is_going_on()):
                self._end(None)
        finally:
            self._advancing = False

    def _moves_up(self) -> bool:
        """The heads of lines between begin their last step; what has come to its end in the last one goes out. Whether
        anything has."""
        for line in self._lines[1:-1]:
            if line and line[0].held is not None:
                head, step = line[0], line[0].held
                head.held, head.asking = None, True
                head.asked_at = now = self._clock.now()
                self._clock.look_at(now + SILENT_S_MAX, self._stream)
                self._ready.append((head, step))
        last = self._lines[-1]
        if last and not last[0].left:
            self._give_out(last.popleft())
            return True
        return bool(self._ready)

    def _give_out(self, scope: Opened) -> None:
        response = self._response(scope)
        if not response.outputs:  # its models have made nothing that is wanted
            self._leave_line(scope)
        elif self._is_going_on():
            self._unread.append(scope)
            self._stream.give(Given(response, None, False))
        else:
            self._last = response
            self._end(None)

    def _is_going_on(self) -> bool:
        """Whether there may be another answer."""
        return bool(self._calls or self._ready or self._failure or self._lines[-1]) or any(
            scope.held is not None for line in self._lines for scope in line
        )

    # --- Room

    def _leave_line(self, scope: Opened) -> None:
        """All that the answer has led to is read: its model may send as much again."""
        source = scope.source
        if scope.counted and not source.is_over:
            cast("InferenceStream", source.inference).consumed()
        before = source.scope
        if isinstance(before, Opened):
            before.unread -= 1
            self._end_asking(before)

    def _end_asking(self, scope: Opened) -> None:
        """If its last step is over, and all of that is read, the next one in line has its turn."""
        if scope.asking and not (scope.left or scope.unread):
            scope.asking = False
            self._lines[scope.depth].popleft()
            self._leave_line(scope)

    # --- The end

    def _fail(self, fault: Fault, call: Call | None) -> None:
        """What was caused before the failure is answered first; unless it is the whole that has failed."""
        scope = None if call is None else call.scope
        late = isinstance(fault, DeadlineExceeded) and self.job.deadline
        if self.is_over or late or call is None or scope is None:
            super()._fail(fault, call)
            return
        place = scope.depth
        if call.step is self._plan.stages[place].ending:  # after all that the step has answered
            self._drop((call,))
            place += 1
        elif isinstance(scope, Opened):
            self._cut(place, self._lines[place].index(scope))
        else:
            super()._fail(fault, call)
            return
        for before in range(place - 1, 0, -1):
            self._cut(before, 1)  # the head is what has led here
        self._failure = (place, self._named(fault))
        self._advance()

    def _cut(self, depth: int, kept: int) -> None:
        """Keeps so many scopes of a stage's line, and lets nothing more come into it."""
        line = self._lines[depth]
        sources = {scope.source for scope in line}
        dropped: set[Scope] = set()
        while len(line) > kept:
            dropped.add(line.pop())
        self._ready = deque(item for item in self._ready if item[0] not in dropped)
        self._drop(call for call in self._calls if call.scope in dropped or call in sources)

    def _complete(self, scope: Scope) -> None:
        """Scopes leave in order: see `_move_up`."""

    def _tell(self, fault: Fault | None) -> None:
        self._home.forget(self._stream)
        self._stream.batch = self._batch()  # with its final answer it is over
        self._stream.give(Given(self._last, fault, True))
        trace = self._stream.request.trace
        if trace is not None:
            trace.finish()  # its door has noted all it had to


def _caused_by(scope: Opened) -> Call | None:
    """The nearest step before it that may answer more; None if all are over."""
    before: Scope = scope
    while isinstance(before, Opened):
        if not before.source.is_over:
            return before.source
        before = before.source.scope
    return None
