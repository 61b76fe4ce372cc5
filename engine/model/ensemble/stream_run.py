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
    from ...port.served import Answer, Inference, InferenceStream, Served
    from ...request.job import Job
    from .graph import Step
    from .job import EnsembleStream
    from .parts import Parts
    from .plan import Plan
    from .run import Call

SILENT_S_MAX = 300.0
"""How long a step may be silent for which another one waits that is not over. Both may need the same instance: one
would have to end before the other can begin. The reference server goes on after as long, without a bound."""

LOOK_S = 1.0
"""Between looks whether all steps wait for each other. What is found at two looks in a row, ends the request."""

NESTED_MAX = 4
"""Nested calls within each other that are looked at: more take `SILENT_S_MAX`."""


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
        self._goes_on = False
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
        self._moved_at = self._look_at = home.now()
        """When a step has answered last, or our caller has read; and when the next look is due."""
        self._is_suspect = False
        """All steps waited for each other at the last look."""
        self._look_again(LOOK_S)

    # --- For the version and the caller

    def consumed(self, count: int) -> None:
        """Our caller has read so many answers."""
        self._moved_at = self._clock.now()
        for _ in range(min(count, len(self._unread))):
            self._leave_line(self._unread.popleft())
        try:
            self._advance()
        except Exception as error:
            self.failed(error, None)

    @property
    def is_held_up(self) -> bool:
        """Whether a step waits until what it has answered is read."""
        return any(_is_held_up(call) for call in self._calls)

    def look(self, now: float) -> None:
        """Looks whether a step is silent for too long, or all wait for each other."""
        if now >= self._look_at:
            self._look_at_all(now)
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

    def _look_at_all(self, now: float) -> None:
        waits = None
        if now - self._moved_at >= LOOK_S and not self._unread:
            waits = next((c for c in self._calls if isinstance(c.scope, Opened) and not _is_held_up(c)), None)
        before = None if waits is None else _held_up_before(waits)
        if waits is None or before is None:
            self._is_suspect = False
        elif now - self._moved_at >= SILENT_S_MAX or (self._is_suspect and self._all_wait()):
            text = f"step of model '{waits.step.model_name}' has not answered within {now - self._moved_at:.0f} s, and "
            text += f"step of model '{before.step.model_name}' waits for it"
            self._end(self._named(Unavailable(text)))
            return
        else:
            self._is_suspect = self._all_wait()
        self._look_again(LOOK_S)

    def _look_again(self, after_s: float) -> None:
        self._look_at = self._clock.now() + after_s
        self._clock.look_at(self._look_at, self._stream)

    def _all_wait(self) -> bool:
        """Whether every step under way waits for an executor that only this request's own steps could free, which
        wait until their answers are read. Over what the steps' models ask by themselves, too."""
        held = {id(call.inference) for call in self._calls if _is_held_up(call)}
        for call in self._calls:
            if id(call.inference) in held:
                continue
            if call.inference is None:
                return False
            if not _waits_for(held, self._parts.routes[call.step.index].served, call.inference):
                return False
        return True

    # --- For the steps' models

    def answered(self, call: Call, inference: Inference) -> None:
        """See run.py."""
        self._moved_at = self._clock.now()
        super().answered(call, inference)

    def answered_once_more(self, call: Call, stream: InferenceStream, answer: Answer) -> None:
        if self.is_over or call.is_dropped:
            return
        self._moved_at = self._clock.now()
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


def _is_held_up(call: Call) -> bool:
    return not call.is_over and bool(getattr(call.inference, "is_held_up", False))


def _waits_for(held: set[int], served: Served, inference: Inference, depth: int = 0) -> bool:
    """Whether whatever might let a request go on executes one of those that are `held`, or stands still in a nested
    call of which the same is true."""
    busy = served.blockers(inference) if depth <= NESTED_MAX else ()
    return bool(busy) and all(any(_stands_still(held, job, depth) for job in jobs) for jobs in busy)


def _stands_still(held: set[int], job: Job, depth: int) -> bool:
    return id(job) in held or any(
        child.waits
        and child.served is not None
        and child.inference is not None
        and _waits_for(held, child.served, child.inference, depth + 1)
        for child in job.children or ()
    )


def _held_up_before(call: Call) -> Call | None:
    """The nearest step that has led to this one and waits until what it has answered is read; None if there is none."""
    scope = call.scope
    while isinstance(scope, Opened):
        if _is_held_up(scope.source):
            return scope.source
        scope = scope.source.scope
    return None


def _caused_by(scope: Opened) -> Call | None:
    """The nearest step before it that may answer more; None if all are over."""
    before: Scope = scope
    while isinstance(before, Opened):
        if not before.source.is_over:
            return before.source
        before = before.source.scope
    return None
