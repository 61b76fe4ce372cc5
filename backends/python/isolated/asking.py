"""The engine as a model's own process sees it: what the model asks goes to the server, answers come back by the reader.

call ──"call"──▶ server        "answer" ──▶ on_answer, on the reader thread
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import attrs

from ....schema.fault import Unsupported
from ....schema.inference import LATEST, InferenceResponse
from .frames import fault_of
from .measuring import ChildMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ....engine.port.nested import Origin
    from ....engine.port.nested_request import NestedRequest
    from ....engine.port.served import Answer
    from ....schema.fault import Fault
    from .answering import ChildJob, ChildTrace
    from .frames import Message
    from .server import Server


@attrs.define
class ChildAnswer:
    """See port/served.py: Answer."""

    response: InferenceResponse | None
    fault: Fault | None
    final: bool


class ChildCall:
    """See port/nested.py: NestedCall."""

    def __init__(self, number: int, server: Server, waits: bool) -> None:
        self._number = number
        self._server = server
        self._waits = waits

    @property
    def waits(self) -> bool:
        return self._waits

    @waits.setter
    def waits(self, waits: bool) -> None:
        if waits != self._waits:
            self._waits = waits
            self._server.say("call waits", (self._number, waits))

    def consumed(self, count: int = 1) -> None:
        self._server.say("call consumed", (self._number, count))

    def cancel(self) -> None:
        """Also from within garbage collection."""
        self._server.say_soon("call cancel", (self._number,))


class ChildEngine:
    """See port/nested.py: NestedCaller."""

    def __init__(self, server: Server) -> None:
        self.metrics = ChildMetrics(server)
        self._server = server
        self._lock = threading.Lock()
        self._last = 0
        self._calls: dict[int, Callable[[Answer], None]] = {}

    def may_wait(self) -> bool:
        """Answers come by a thread that no model runs on."""
        return True

    def call(
        self,
        request: NestedRequest,
        origin: Origin,
        on_answer: Callable[[Answer], None],
        *,
        decoupled: bool,
        waits: bool,
    ) -> ChildCall:
        with self._lock:
            self._last += 1
            number = self._last
            self._calls[number] = on_answer
        jobs: list[ChildJob] = list(origin.jobs)  # type: ignore[arg-type]  # there are no others here
        trace: ChildTrace | None = origin.trace
        values = (
            request.model_name,
            request.model_version,
            request.id,
            tuple(request.outputs),
            request.parameters,
            request.timeout_us,
            request.correlation_id,
            request.sequence_start,
            request.sequence_end,
        )
        about = ([job.number for job in jobs], 0 if trace is None else trace.number, decoupled, waits)
        self._server.listen()
        self._server.say("call", (number, values, *about), tuple(request.inputs.values()))
        return ChildCall(number, self._server, waits)

    def answered(self, message: Message) -> None:
        """For the reader thread."""
        number, failed, described, final = message.fields
        on_answer = self._calls.pop(number) if final else self._calls[number]
        response = None
        if described is not None:
            model_name, version, id, parameters = described
            response = InferenceResponse(model_name, version, message.tensors, id, parameters)
        on_answer(ChildAnswer(response, None if failed is None else fault_of(failed), final))

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        return bool(self._server.ask("ready?", (name, version)))

    def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        by: str,
        is_opening: bool,
    ) -> None:
        self._server.ask("load", (name, config, None if files is None else dict(files), by, is_opening))

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        self._server.ask("unload", (name, unload_dependents))

    def ask_as_library(self, operation: str, arguments: bytes) -> bytes:
        """What a library asks of its server, but for inference. Waits; raises Fault."""
        answer: bytes = self._server.ask("library", (operation, arguments))
        return answer

    def show_page(self, page: str) -> None:
        """The metrics that the library in this process has, as text."""
        self._server.say("page", (page,))

    def attend(self, attendant: Callable[..., Awaitable[None]]) -> None:
        raise Unsupported("the engine is in another process")


def call_values(values: tuple[Any, ...]) -> dict[str, Any]:
    """The request's attributes, of which a "call" speaks by their order, by name."""
    names = (
        "model_name",
        "model_version",
        "id",
        "outputs",
        "parameters",
        "timeout_us",
        "correlation_id",
        "sequence_start",
        "sequence_end",
    )
    return dict(zip(names, values, strict=True))
