"""One request to an ensemble, on its way through the steps.

    begin ──▶ steps that can begin ──submit──▶ their models ──answered──▶ steps that can begin now ... ──▶ the answer
                     ▲                                          │
                     └── a place, where those under way are bounded (places.py)
    a step fails, the caller leaves or its deadline passes ──▶ what is under way is cancelled, nothing more begins

Everything happens in calls on the trio thread; nothing is spawned for a request or a step. So requests come to each
model in the order in which the model before has answered them, as sequences need it: trio runs tasks in any order.

A run ends once, in `_end`; what comes from a step after that is dropped. What breaks on the way ends it, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ....schema.fault import Cancelled, DeadlineExceeded, Fault, Internal, InvalidArgument
from ....schema.inference import InferenceResponse
from ....schema.tensor import Tensor
from ...port.concerns import concerning
from ...port.foreign import as_fault
from ...request.batch import Batch
from ...request.ledger import End
from .parts import adapted
from .plan import OPENING, Progress
from .sequences import facts_in, parameters_of
from .step_request import StepRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...port.served import Answer, Inference, InferenceStream
    from ...request.job import Job
    from ...request.ledger import Ledger
    from .graph import Step
    from .parts import Parts
    from .places import Places
    from .plan import Plan, Stage
    from .sequences import SequenceFacts

log = logging.getLogger("despina.engine.model.ensemble")


class Call:
    """One step under way, or waiting for a place."""

    __slots__ = ("facts", "inference", "is_dropped", "is_over", "run", "scope", "step")

    def __init__(self, run: Run, scope: Scope, step: Step) -> None:
        self.run = run
        self.scope = scope
        self.step = step
        self.inference: Inference | None = None
        """Once the model has accepted it."""
        self.facts: SequenceFacts | None = None
        """If a step before has named its sequence."""
        self.is_over = False
        self.is_dropped = False
        """Nobody wants its answer any more."""

    def done(self, inference: Inference) -> None:
        """The model has answered."""
        self.inference = inference
        self.is_over = True
        try:
            self.run.answered(self, inference)
        except Exception as error:  # the step's failure, or a bug: the caller must not be left waiting
            self.run.failed(error, self)

    def answer(self, stream: InferenceStream, answer: Answer) -> None:
        """The decoupled model has answered, not for the last time unless `final`."""
        self.inference = stream
        self.is_over = answer.final
        try:
            self.run.answered_once_more(self, stream, answer)
        except Exception as error:
            self.run.failed(error, self)

    def begin(self) -> None:
        """It had to wait for a place."""
        self.run.start(self)

    def cancel(self) -> None:
        """Nobody wants its answer any more. One that has not begun does not begin; one that is just accepted is left as
        soon as it is."""
        self.is_dropped = True
        if self.inference is not None and not self.is_over:
            self.is_over = True
            self.inference.cancel()


class Scope(Progress["Tensor | None"]):
    """One stage's steps and tensors, once; None for a tensor that its step has not made."""

    __slots__ = ("depth", "facts")

    def __init__(self, plan: Plan, depth: int = 0) -> None:
        super().__init__(plan.stages[depth])
        self.depth = depth
        """The stage's index."""
        self.facts: dict[str, SequenceFacts] | None = None
        """Of tensors that came with some."""


class Home(Protocol):
    """The version that runs are of, as they know it."""

    name: str
    version_text: str
    ledger: Ledger
    places: Places | None
    """None where no step is bounded."""

    def forget(self, job: Job) -> None:
        """It is over."""
        ...


class Run:
    """See the module's text. Of an ensemble that answers once; stream_run.py has the other."""

    def __init__(self, home: Home, job: Job, parts: Parts) -> None:
        self.job = job
        self.is_over = False
        self._home = home
        self._parts = parts
        self._plan = parts.plan(job.request.outputs)
        self._calls: dict[Call, None] = {}
        """Under way, or waiting for a place."""
        self._ready: deque[tuple[Scope, Step]] = deque()
        """What can begin."""
        self._entering = False
        self._goes_on = not (job.deadline or home.places is not None or job.request.trace is not None)
        """Nothing of it needs the trio thread itself between its steps."""
        self._started_ns = 0
        self._input_ns = self._infer_ns = self._output_ns = 0
        """What the steps took, summed."""
        parts.hold()

    # --- For the version

    def begin(self) -> None:
        """The request's inputs are there."""
        self._started_ns = time.monotonic_ns()
        try:
            inputs = self.job.request.inputs
            scope = Scope(self._plan)
            self._give(scope, OPENING, [(name, inputs.get(name)) for name in self._parts.graph.inputs], None)
            if not scope.left:
                self._complete(scope)
            self._advance()
        except Exception as error:
            self.failed(error, None)

    def abandon(self) -> None:
        """The caller has left."""
        self._end(Cancelled("the caller has left"))

    def late(self) -> None:
        """The caller's deadline has passed."""
        self._end(DeadlineExceeded("Deadline Exceeded"))

    def shut(self, fault: Fault) -> None:
        """Ends it with that fault as it is: it cannot begin, or the version ends."""
        self._end(fault)

    def blockers(self) -> list[Sequence[Job]]:
        """What holds up all of the steps under way; empty if one of them can go on."""
        found: list[Sequence[Job]] = []
        for call in self._calls:
            if call.inference is not None and not call.is_over:
                busy = self._parts.routes[call.step.index].served.blockers(call.inference)
                if not busy:
                    return []
                found.extend(busy)
        return found

    # --- For the steps' models

    def answered(self, call: Call, inference: Inference) -> None:
        """A step is over. Raises what it has failed with."""
        self._leave(call, inference)
        if self.is_over or call.is_dropped:
            return
        response = inference.response
        if response is None or inference.fault is not None:
            raise inference.fault or Internal(f"model '{call.step.model_name}' has not answered")
        scope = call.scope
        scope.left -= 1
        self._give_answer(scope, call, inference, response)
        if not scope.left:
            self._complete(scope)
        self._advance()

    def answered_once_more(self, call: Call, stream: InferenceStream, answer: Answer) -> None:
        """A decoupled step has answered. Raises as `answered`."""
        raise AssertionError("no model of this ensemble is decoupled")

    def failed(self, error: Exception, call: Call | None) -> None:
        """A step has failed, or what is done about it; None for the whole. Never raises."""
        if call is not None and call.is_dropped:
            return
        ledger = self._home.ledger
        if threading.get_ident() != ledger.home_thread:
            self._ready.clear()
            ledger.post(self.failed, error, call)
            return
        if not isinstance(error, Fault):
            extra = concerning((self.job,))
            log.error("ensemble '%s': a request broke", self._home.name, exc_info=error, extra=extra)
        try:
            self._fail(as_fault(error), call)
        except Exception as broken:
            extra = concerning((self.job,))
            log.exception("ensemble '%s': failing a request broke", self._home.name, extra=extra)
            self._end(as_fault(broken))

    def start(self, call: Call) -> None:
        """Asks the step's model: it has its place. Never raises."""
        if call.is_dropped:
            self._leave_place(call)
            return
        try:
            request = self._request(call)
            served = self._parts.routes[call.step.index].served
            if served.decoupled:
                call.inference = served.submit_stream(request, call.answer, self.job.deadline)
            else:
                call.inference = served.submit(request, call.done, self.job.deadline)
        except Exception as error:
            call.is_over = True
            self._leave(call, None)
            self.failed(error, call)
            return
        if call.is_dropped and not call.is_over:  # something else has ended it meanwhile
            call.cancel()

    # --- Steps

    def _give(
        self, scope: Scope, source: int, tensors: list[tuple[str, Tensor | None]], facts: SequenceFacts | None
    ) -> None:
        """Notes tensors that are there now, and the steps that can begin with them."""
        if facts is not None:
            scope.facts = {**(scope.facts or {}), **{name: facts for name, _ in tensors}}
        for step in scope.give(source, tensors):
            self._can_begin(scope, step)

    def _give_answer(self, scope: Scope, call: Call, inference: Inference, response: InferenceResponse) -> None:
        """Notes the tensors of a step's answer."""
        index = call.step.index
        names = self._parts.routes[index].tensors
        tensors: list[tuple[str, Tensor | None]] = [
            (names[tensor.name], tensor) for tensor in response.outputs if tensor.name in names
        ]
        if len(tensors) < len(names):
            tensors = [*dict.fromkeys(names.values()).items(), *tensors]
        named = facts_in(response.parameters, inference.request) if response.parameters else None
        self._give(scope, index if scope is call.scope else OPENING, tensors, named or call.facts)

    def _can_begin(self, scope: Scope, step: Step) -> None:
        self._ready.append((scope, step))

    def _advance(self) -> None:
        """Begins what can begin. Models may answer before `submit` returns: then the outermost of these calls goes on,
        so that no ensemble is too deep."""
        if self._entering or not self._ready:
            return
        self._entering = True
        try:
            while self._ready and not self.is_over:
                call = Call(self, *self._ready.popleft())
                self._calls[call] = None
                if self._home.places is None or self._home.places.take(call):
                    self.start(call)
        finally:
            self._entering = False

    def _request(self, call: Call) -> StepRequest:
        whole, step, scope = self.job.request, call.step, call.scope
        route = self._parts.routes[step.index]
        inputs = {}
        for name, tensor_name, adaptation in route.inputs:
            tensor = scope.take(tensor_name)
            if tensor is None:
                continue
            if adaptation is None:  # the same memory under another name: nothing is copied
                inputs[name] = Tensor(name, tensor.datatype, tensor.shape, tensor.wire, tensor.array)
            else:
                inputs[name] = adapted(tensor, name, adaptation)
        request = StepRequest(
            step.model_name,
            inputs,
            model_version=step.model_version,
            id=whole.id,
            outputs=route.outputs,
            parameters=whole.parameters,
            priority=whole.priority,
            timeout_us=whole.timeout_us,
            correlation_id=whole.correlation_id,
            sequence_start=whole.sequence_start,
            sequence_end=whole.sequence_end,
        )
        if scope.facts is not None:
            for _, tensor_name, _ in route.inputs:
                if tensor_name not in scope.facts:
                    continue
                call.facts = facts = scope.facts[tensor_name]
                request.correlation_id = facts.id
                request.sequence_start, request.sequence_end = facts.start, facts.end
        request.depth = whole.depth
        request.goes_on = self._goes_on and self._leads_on(scope.stage, step)
        if whole.trace is not None:
            request.trace = whole.trace.child(step.model_name)
        return request

    def _leads_on(self, stage: Stage, step: Step) -> bool:
        """Whether it answers to us alone, and steps follow, all of which may be asked in the trio thread's place."""
        followers = stage.followers.get(step.index)
        if followers is None:
            return False
        routes, steps = self._parts.routes, stage.steps
        if not routes[step.index].served.submits_anywhere:
            return False
        return all(routes[steps[place].index].served.submits_anywhere for place in followers)

    def _drop(self, calls: Iterable[Call]) -> None:
        """Nobody wants these steps' answers any more."""
        dropped = list(calls)
        for call in dropped:  # all, before one of their places goes to another of them
            self._calls.pop(call, None)
            call.cancel()
        for call in dropped:
            self._leave_place(call)

    def _leave_place(self, call: Call) -> None:
        if self._home.places is not None:
            self._home.places.leave(call)

    def _leave(self, call: Call, inference: Inference | None) -> None:
        """A step is over; without `inference`, its model has refused it."""
        self._calls.pop(call, None)
        if inference is not None:
            inputs, compute, outputs = inference.spent_ns()
            self._input_ns += inputs
            self._infer_ns += compute
            self._output_ns += outputs
            if inference.request.trace is not None:
                inference.request.trace.finish()
        self._leave_place(call)

    # --- The end

    def _complete(self, scope: Scope) -> None:
        """All steps of a stage are over: here, of the only one."""
        self.job.response = response = self._response(scope)
        if not response.outputs:
            raise InvalidArgument(
                f"{self.job.request.log_prefix()}unexpected deadlock, at least one output is not set while no more "
                "ensemble steps can be made"
            )
        self._end(None)

    def _response(self, scope: Scope) -> InferenceResponse:
        request = self.job.request
        outputs = []
        parameters = parameters_of(request)
        for name, adaptation in self._parts.answers:
            tensor = scope.there.get(name)
            if tensor is None:
                continue
            if adaptation is not None:
                tensor = adapted(tensor, name, adaptation)
            elif tensor.name != name:
                tensor = Tensor(name, tensor.datatype, tensor.shape, tensor.wire, tensor.array)
            outputs.append(tensor)
            if scope.facts is not None and name in scope.facts:
                parameters = scope.facts[name].parameters()
        return InferenceResponse(
            request.model_name, self._home.version_text, outputs, id=request.id, parameters=parameters
        )

    def _fail(self, fault: Fault, call: Call | None) -> None:
        """A step has failed, and with it all."""
        if isinstance(fault, DeadlineExceeded) and self.job.deadline:
            self.late()
        else:
            self._end(self._named(fault))

    def _named(self, fault: Fault) -> Fault:
        return type(fault)(f"in ensemble '{self._home.name}', {fault.message}")

    def _end(self, fault: Fault | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._ready.clear()
        self._drop(self._calls)
        self._tell(fault)
        self._parts.release()

    def _tell(self, fault: Fault | None) -> None:
        self.job.fault = fault
        if fault is not None:
            self.job.response = None
        self._home.forget(self.job)
        self._home.ledger.end((self.job,), End.COMPOSED, self._batch())

    def _batch(self) -> Batch:
        """As if the sums over all steps were one execution."""
        batch = Batch([self.job], self.job.batch_size, "ensemble")
        batch.started_ns = self._started_ns or time.monotonic_ns()
        batch.inputs_ready_ns = batch.started_ns + self._input_ns
        batch.outputs_started_ns = batch.inputs_ready_ns + self._infer_ns
        batch.ended_ns = batch.outputs_started_ns + self._output_ns
        return batch
