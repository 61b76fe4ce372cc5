"""Requests whose form is known: those that say nothing but their model, id, inputs and outputs.

    library ──▶ Form, once ──▶ requests: id, bytes ──submit──▶ engine ──▶ answers, collected ──▶ library

The library finds the form of a request and copies its bytes; what a form means is worked out once in a generation.
All others come whole, and are pump.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from ...schema.inference import Template
from ...schema.tensor import Tensor
from .requests import outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.engine import Engine
    from ...engine.port.served import Inference, Served
    from ...native.extension_port import Extension, KnownAnswer, KnownRequest
    from ...schema.inference import InferenceRequest
    from .requests import ProgramRequest

ANSWERS_MAX: Final = 64
"""Collected before they go to the library: it delivers them while the engine goes on."""


@attrs.frozen(eq=False)
class Form:
    """What requests of one form have in common."""

    model: Served
    _example: ProgramRequest
    _tensors: Sequence[tuple[str, str, tuple[int, ...]]]
    """Name, datatype and shape of each input."""

    def request(self, id: str, wires: Sequence[bytes]) -> ProgramRequest:
        """The one with these bytes, which have the right sizes. Its ticket and address are to be set."""
        if len(wires) == 1:  # as most have; half of what the loop costs
            ((name, datatype, shape),) = self._tensors
            inputs = {name: Tensor(name, datatype, shape, wires[0])}
        else:
            inputs = {}
            for (name, datatype, shape), wire in zip(self._tensors, wires, strict=True):
                inputs[name] = Tensor(name, datatype, shape, wire)
        return self._example.with_inputs(type(self._example), id, inputs)


@attrs.define(eq=False)
class KnownRequests:
    """For the trio thread."""

    _native: Extension
    _server: int
    _engine: Engine
    _request_type: type[ProgramRequest]
    _refuse: Callable[[int, Exception | None], None]
    """By the address of a request: tells its caller that it has failed."""
    _in_flight: dict[int, Inference] = attrs.field(init=False, factory=dict)
    """By ticket."""
    _answers: list[KnownAnswer] = attrs.field(init=False, factory=list)
    _collects: bool = attrs.field(init=False, default=False)

    def form(
        self, name: str, version: int, tensors: Sequence[tuple[str, str, tuple[int, ...]]], outputs: Sequence[str]
    ) -> Form | None:
        """For the library, when it meets one. None where such requests are to come whole."""
        try:
            model = self._engine.model(name, version)
        except Exception:
            return None  # whoever takes the request whole says what is wrong
        if model.decoupled or model.remembers:  # those of sequences are served as other requests than came
            return None
        example = self._request_type(name, {}, model_version=version, outputs=outputs)
        example.template = Template()
        return Form(model, example, tensors)

    def start(self, form: Form, requests: Sequence[KnownRequest]) -> None:
        """Submits requests of that form."""
        model, make, in_flight = form.model, form.request, self._in_flight
        made = []
        for ticket, address, id, wires in requests:
            request = make(id, wires)
            request.ticket, request.address = ticket, address
            made.append(request)
        tracer = self._engine.tracer
        if tracer.active:
            for request in made:
                request.trace = tracer.sample(model.name)
        for job in model.submit_all(made, self._done, self._refused):
            if job.on_done is not None:
                in_flight[job.request.ticket] = job  # type: ignore[attr-defined]  # it was made above

    def collect(self) -> None:
        """From here on answers wait for `give`: many come soon."""
        self._collects = True

    def give(self) -> None:
        """Hands over those that wait."""
        self._collects = False
        if self._answers:
            self._hand_over()

    def cancel(self, ticket: int) -> int | None:
        """The caller leaves. The address of its request, which is to be told so; None where it is not in flight."""
        job = self._in_flight.pop(ticket, None)
        if job is None:
            return None
        job.cancel()
        address: int = job.request.address  # type: ignore[attr-defined]  # it was submitted here
        return address

    def leave(self) -> Sequence[int]:
        """All callers leave. The addresses of their requests."""
        return [address for ticket in list(self._in_flight) if (address := self.cancel(ticket)) is not None]

    def _refused(self, request: InferenceRequest, problem: Exception) -> None:
        self._refuse(request.address, problem)  # type: ignore[attr-defined]  # it was made here

    def _done(self, job: Inference) -> None:
        """The engine is done with a request. Never raises: nobody else would answer."""
        request: ProgramRequest = job.request  # type: ignore[assignment]  # it was submitted here
        self._in_flight.pop(request.ticket, None)
        if request.trace is not None:
            request.trace.finish()
        response = job.response
        if response is None or job.fault is not None:
            self._refuse(request.address, job.fault)
            return
        try:
            outputs = outputs_of(response)
        except Exception as problem:
            self._refuse(request.address, problem)
            return
        self._answers.append(
            (request.address, response.model_name, response.model_version, outputs, response.parameters)
        )
        if not self._collects or len(self._answers) >= ANSWERS_MAX:
            self._hand_over()

    def _hand_over(self) -> None:
        answers, self._answers = self._answers, []
        for address in self._native.answer_known(self._server, answers):
            self._refuse(address, TypeError("an output is no buffer of bytes"))
