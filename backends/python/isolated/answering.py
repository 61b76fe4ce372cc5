"""Jobs and streams as a model's own process has them: what the model answers is said to the server.

What the server knows (whether the caller is still there) is asked of it; see listening.py for the link.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from ....schema.encoding import encoding_fault
from ....schema.fault import Fault, InvalidArgument
from ....schema.inference import InferenceResponse
from .frames import fault_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.inference import InferenceRequest, Parameter, ResponseTemplate
    from ....schema.tensor import Buffer, Tensor
    from .server import Server

STREAM_WINDOW: Final = 16
"""Answers of one stream on their way to a caller, or waiting for it; then the model waits."""

_ANSWERED: Final = InferenceResponse("", "", None)
"""As a job's response: its outputs are there. The job itself would be a cycle: shared memory would wait."""


class Source:
    """Where a process's jobs come from."""

    def __init__(self, server: Server, is_iterative: bool, keeps_states: bool) -> None:
        """`keeps_states`: whether models say what is kept for the next request of a sequence."""
        self.server = server
        self.is_iterative = is_iterative
        self.keeps_states = keeps_states


class ChildTrace:
    """Of a traced request, the one of that number."""

    __slots__ = ("_context", "number")

    def __init__(self, context: str | None, number: int) -> None:
        self._context = context
        self.number = number

    def context(self) -> str | None:
        return self._context


class ChildJob:
    """See port/work.py: BackendJob."""

    response: InferenceResponse | None = None
    fault: Fault | None = None
    outputs: Sequence[Tensor] = ()
    states: Sequence[Tensor] = ()
    parameters: dict[str, Parameter] | None = None
    again = False
    is_deferred = False
    executed_ns = 0

    # What most jobs have at these values is stored with those only that differ.

    def __init__(self, number: int, request: InferenceRequest, size: int, received_ns: int, by: Source) -> None:
        self.number = number
        self.request = request
        self.batch_size = size
        self.received_ns = received_ns
        self._by = by

    @property
    def version_text(self) -> str:
        return str(self.request.model_version)

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        self.fault = encoding_fault(outputs)
        if self.fault is None:
            self.response = _ANSWERED
            self.outputs = outputs
            self.parameters = parameters

    def respond_as(self, template: ResponseTemplate, wires: Sequence[Buffer]) -> None:
        self.respond(template.response("", wires).outputs)

    def fail(self, fault: Fault) -> None:
        self.fault = fault

    def defer(self) -> ChildLater:
        self.is_deferred = True
        return ChildLater(self.number, self._by.server)

    def is_cancelled(self) -> bool:
        return bool(self._by.server.ask("cancelled?", (self.number,)))

    def set_state(self, name: str, tensor: Tensor) -> None:
        if not self._by.keeps_states:
            raise InvalidArgument(f"state '{name}' is not a valid state name.")
        self.states = [*self.states, tensor]

    def reschedule(self) -> None:
        if not self._by.is_iterative:
            raise InvalidArgument(
                "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured "
                "to handle such a flag."
            )
        self.again = True

    def answer(self) -> tuple[Any, ...]:
        """As plain values, next to `states` and `outputs`: the last is None for one that has just answered."""
        beyond = None
        if self.response is None or self.fault is not None or self.again or self.is_deferred or self.states:
            fault = None if self.fault is None else fault_fields(self.fault)
            beyond = (self.again, self.is_deferred, self.response is not None, fault, len(self.states))
        return self.number, len(self.outputs), self.parameters, beyond


class ChildLater:
    """See port/work.py: LateAnswer."""

    def __init__(self, number: int, server: Server) -> None:
        self._number = number
        self._server = server

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        fault = encoding_fault(outputs)
        if fault is not None:
            self.fail(fault)
        else:
            self._server.say("late", (self._number, None, parameters), outputs)

    def fail(self, fault: Fault) -> None:
        """Also from within garbage collection."""
        self._server.say_soon("late", (self._number, fault_fields(fault), None))


class ChildStream(ChildJob):
    """See port/work.py: BackendStream."""

    def __init__(self, number: int, request: InferenceRequest, size: int, received_ns: int, by: Source) -> None:
        super().__init__(number, request, size, received_ns, by)
        self._lock = threading.Condition()
        self._under_way = 0
        self._saying = 0
        """Threads that have an answer to say, before which the end must not be said."""
        self._ending: tuple[Any, ...] | None = None
        """What the last of them says then."""
        self._closed = False
        self._gone = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    def is_cancelled(self) -> bool:
        if not self._gone and not self._closed:
            self._gone = super().is_cancelled()
        return self._gone

    def has_left(self) -> bool:
        return self._gone

    def send(
        self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None = None, *, final: bool = False
    ) -> bool:
        fault = None if outputs is None else encoding_fault(outputs)
        return self._send(outputs if fault is None else None, parameters, fault, final=final)

    def send_fault(self, fault: Fault, *, final: bool = False) -> bool:
        return self._send(None, None, fault, final=final)

    async def send_async(
        self, outputs: list[Tensor] | None, parameters: dict[str, Parameter] | None = None, *, final: bool = False
    ) -> bool:
        raise NotImplementedError("models in processes of their own send from threads")

    async def send_fault_async(self, fault: Fault, *, final: bool = False) -> bool:
        raise NotImplementedError("models in processes of their own send from threads")

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        self.send(outputs, parameters, final=True)

    def fail(self, fault: Fault) -> None:
        self.send_fault(fault, final=True)

    def close(self, fault: Fault | None = None) -> None:
        """Never waits for room: also from within garbage collection."""
        ending = (self.number, None if fault is None else fault_fields(fault), None, True, False)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._saying:
                self._ending = ending
                return
        self._by.server.say_soon("send", ending)

    def consumed(self, count: int, gone: bool) -> None:
        """So many of its answers are with the caller, or it has left."""
        with self._lock:
            self._under_way -= count
            self._gone = self._gone or gone
            self._lock.notify_all()

    def _send(
        self,
        outputs: list[Tensor] | None,
        parameters: dict[str, Parameter] | None,
        fault: Fault | None,
        *,
        final: bool,
    ) -> bool:
        with self._lock:
            while self._under_way >= STREAM_WINDOW and not self._gone and not self._closed:
                self._lock.wait()
            if self._closed or (self._gone and not final):
                return False
            self._closed = final
            self._under_way += 1
            self._saying += 1
        told = None if fault is None else fault_fields(fault)
        try:
            self._by.server.say("send", (self.number, told, parameters, final, outputs is not None), outputs or ())
        finally:
            with self._lock:
                self._saying -= 1
                ending = None
                if not self._saying:
                    ending, self._ending = self._ending, None
            if ending is not None:
                self._by.server.say_soon("send", ending)
        return not self._gone
