"""Moves one application's requests into the engine, on the trio thread, and their answers out to the library's thread.

    application's threads ──queue, eventfd──▶ Pump ──submit──▶ engine ──on_done──▶ library's thread ──▶ callbacks

Nothing is spawned for a request. What waits in the queue is taken in bursts, which may share batches.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from ...native.dispatching import code_of
from ...native.extension_port import CANCEL, CONSUMED, INFER, KNOWN
from ...schema.fault import Cancelled, Fault, Internal, NotLoaded, ShuttingDown
from .known import KnownRequests
from .requests import ProgramRequest, outputs_of, request_of
from .traces import ApplicationTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...engine.engine import Engine
    from ...engine.port.caller import LoadWait
    from ...engine.port.served import Answer, Inference, InferenceStream
    from ...native.extension_port import Extension, Report, TakenRequest
    from ...schema.inference import InferenceResponse

log = logging.getLogger("despina.capi")

BURST: Final = 256
"""Requests taken at one time: the loop looks at everything else in between."""

TURN_NS: Final = 1_000_000
"""How long bursts that follow each other are taken before everybody else gets a turn: a turn of the loop costs more
than a small burst."""


class _Flight:
    """One request that the application waits for."""

    __slots__ = ("address", "job", "stream", "ticket", "trace")

    def __init__(self, taken: TakenRequest) -> None:
        self.ticket, self.address = taken[:2]
        self.trace = ApplicationTrace(taken[12], taken[2]) if taken[12] else None
        self.job: Inference | LoadWait | None = None
        """What is cancelled when the application cancels."""
        self.stream: InferenceStream | None = None

    def reports(self) -> Sequence[Report] | None:
        return None if self.trace is None else self.trace.reports()


class Pump:
    """For the trio thread. `run` serves until it is cancelled; then call `close`."""

    request_type: ClassVar[type[ProgramRequest]] = ProgramRequest

    def __init__(self, native: Extension, server: int, engine: Engine) -> None:
        self._native = native
        self._server = server
        self._engine = engine
        self._flights: dict[int, _Flight] = {}
        """By ticket, but for requests of known forms."""
        self._known = KnownRequests(native, server, engine, self.request_type, self._refuse)

    async def run(self) -> None:
        fd = self._native.queue_fd(self._server)
        while True:
            await trio.lowlevel.wait_readable(fd)
            until = time.monotonic_ns() + TURN_NS
            while self.take_burst() and time.monotonic_ns() < until:
                pass

    def take_burst(self) -> int:
        """Takes what waits in the queue, at most BURST. How much that was."""
        burst = self._native.pop(self._server, BURST, self._known.form)
        inline, known = self._engine.inline, self._known
        inline.begin_pass()
        known.collect()
        try:
            for kind, what in burst:
                if kind == KNOWN:
                    known.start(*what)
                elif kind == INFER:
                    self._start_or_fail(what)
                elif kind == CANCEL:
                    self._cancel(what)
                elif kind == CONSUMED:
                    flight = self._flights.get(what)
                    if flight is not None and flight.stream is not None:
                        flight.stream.consumed()
        finally:
            inline.end_pass()
            known.give()
        return len(burst)

    def start(self, taken: TakenRequest) -> None:
        """Submits a request. Raises the fault that refuses it; else its callbacks follow."""
        flight = _Flight(taken)
        try:
            self._submit(taken, flight)
        except NotLoaded as fault:
            self._flights[flight.ticket] = flight
            try:
                flight.job = self._engine.when_loaded(fault.model_name, partial(self._again, taken, flight))
            except Fault:
                del self._flights[flight.ticket]
                raise

    def close(self) -> None:
        """Takes nothing any more. Whoever still waits hears that the server is gone."""
        self._native.close_queue(self._server)
        while True:
            burst = self._native.pop(self._server, BURST, _whole)
            if not burst:
                break
            for kind, what in burst:
                if kind == INFER:
                    self._fail(_Flight(what), ShuttingDown("Server not ready"))
                elif kind == KNOWN:
                    for _, address, *_ in what[1]:
                        self._refuse(address, ShuttingDown("Server not ready"))
        flights, self._flights = self._flights, {}
        for flight in flights.values():
            if flight.job is not None:
                flight.job.cancel()
            self._fail(flight, ShuttingDown("Server exiting"))
        for address in self._known.leave():
            self._refuse(address, ShuttingDown("Server exiting"))

    # --- In

    def _start_or_fail(self, taken: TakenRequest) -> None:
        try:
            self.start(taken)
        except Exception as problem:
            self._fail(_Flight(taken), _as_fault(problem))

    def _submit(self, taken: TakenRequest, flight: _Flight) -> None:
        request = request_of(taken, self.request_type)
        model = self._engine.model(request.model_name, request.model_version)
        if flight.trace is not None:
            request.trace = flight.trace.trace
        elif self._engine.tracer.active:
            request.trace = self._engine.tracer.sample(model.name)
        self._flights[flight.ticket] = flight
        try:
            if model.decoupled:
                flight.job = flight.stream = model.submit_stream(request, partial(self._answered, flight))
            else:
                flight.job = model.submit(request, partial(self._done, flight))
        except BaseException:
            self._flights.pop(flight.ticket, None)
            raise

    def _again(self, taken: TakenRequest, flight: _Flight, problem: Fault | None) -> None:
        """The model that it waited for is loaded, or not."""
        if self._flights.pop(flight.ticket, None) is None:
            return  # cancelled meanwhile
        if problem is not None:
            self._fail(flight, problem)
        else:
            self._start_or_fail(taken)

    def _cancel(self, ticket: int) -> None:
        flight = self._flights.pop(ticket, None)
        if flight is not None:
            if flight.job is not None:
                flight.job.cancel()
            self._fail(flight, Cancelled(""))
        elif (address := self._known.cancel(ticket)) is not None:
            self._refuse(address, Cancelled(""))

    # --- Out

    def _done(self, flight: _Flight, job: Inference) -> None:
        """The engine is done with a request. Never raises: nobody else would answer."""
        self._flights.pop(flight.ticket, None)
        trace = job.request.trace
        if trace is not None:
            trace.finish()
        if job.fault is not None:
            self._fail(flight, job.fault)
        else:
            self._deliver(flight, job.response, final=True, credit=False)

    def _answered(self, flight: _Flight, stream: InferenceStream, answer: Answer) -> None:
        """A decoupled model has sent something, maybe its last. Never raises."""
        if answer.final:
            self._flights.pop(flight.ticket, None)
        if answer.fault is not None:
            self._fail(flight, answer.fault, final=answer.final, credit=not answer.final)
        else:
            self._deliver(flight, answer.response, final=answer.final, credit=not answer.final)

    def _deliver(self, flight: _Flight, response: InferenceResponse | None, *, final: bool, credit: bool) -> None:
        reports = flight.reports() if final else None
        give = self._native.answer
        try:
            if response is None:
                give(self._server, flight.address, flight.ticket, final, credit, "", "0", None, None, reports)
            else:
                outputs = outputs_of(response)
                name, version, parameters = response.model_name, response.model_version, response.parameters
                give(
                    self._server,
                    flight.address,
                    flight.ticket,
                    final,
                    credit,
                    name,
                    version,
                    outputs,
                    parameters,
                    reports,
                )
        except Exception as problem:
            self._fail(flight, _as_fault(problem), final=final, credit=credit)

    def _fail(self, flight: _Flight, fault: Fault, *, final: bool = True, credit: bool = False) -> None:
        reports = flight.reports() if final else None
        code = code_of(fault)
        self._native.fail(self._server, flight.address, flight.ticket, final, credit, code, fault.message, reports)

    def _refuse(self, address: int, problem: Exception | None) -> None:
        """The end of a request of a known form."""
        fault = _as_fault(problem or Internal("the model has not answered"))
        self._native.fail(self._server, address, 0, True, False, code_of(fault), fault.message, None)


def _whole(*_: object) -> None:
    """No form is known any more."""


def _as_fault(problem: Exception) -> Fault:
    if isinstance(problem, Fault):
        return problem
    log.error("a request of the C API cannot be served", exc_info=problem)
    return Internal(f"{type(problem).__name__}: {problem}")
