"""What one process asks of the server: its nested calls, and questions about models. For the trio thread."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from ....engine.port.nested import Origin
from ....engine.port.nested_request import NestedRequest
from ....schema.fault import Fault, Internal
from .asking import call_values
from .frames import fault_fields
from .measured import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ....engine.port.nested import NestedCall, NestedCaller
    from ....engine.port.served import Answer
    from ....engine.port.work import BackendJob
    from ....schema.tensor import Tensor
    from .frames import Message


class LibraryHost(Protocol):
    """What a library in C++ has at the server besides other models."""

    def ask(self, operation: str, arguments: bytes) -> bytes:
        """What it asks of its server. Waits, off the trio thread; raises Fault."""
        ...

    def show(self, process: object, page: str) -> None:
        """The metrics that it has, as text, in the place of those before."""
        ...

    def hide(self, process: object) -> None:
        """It is gone."""
        ...


class Asked:
    """Of one process. `post` says something to it, later and in order."""

    def __init__(
        self,
        instance_name: str,
        model_name: str,
        engine: NestedCaller | None,
        jobs: Mapping[int, BackendJob],
        post: Callable[[str, tuple[Any, ...], Sequence[Tensor]], None],
        host: LibraryHost | None = None,
    ) -> None:
        """`jobs` are those that the process works on, by number; `host` is of a library's process."""
        self._instance_name = instance_name
        self._model_name = model_name
        self._engine = engine
        self._jobs = jobs
        self._post = post
        self._host = host
        self._calls: dict[int, NestedCall] = {}
        self._measured = None if engine is None else Measured(engine.metrics)

    def heed(self, message: Message, nursery: trio.Nursery) -> None:
        """Does what the message asks. Raises Internal for what nobody asks."""
        kind, fields = message.kind, message.fields
        if kind == "ask":
            self._ask(fields, nursery)
        elif kind == "call":
            self._call(fields, message.tensors)
        elif kind == "page" and self._host is not None:
            self._host.show(self, *fields)
        elif kind == "release" and self._measured is not None:
            self._measured.release(fields[0])
        else:
            call = self._calls.get(fields[0])
            if call is None:
                return  # it is over
            if kind == "call waits":
                call.waits = fields[1]
            elif kind == "call consumed":
                call.consumed(fields[1])
            elif kind == "call cancel":
                call.cancel()
            else:
                raise Internal(f"'{kind}' was not expected")

    def close(self) -> None:
        """The process is gone: nobody wants its answers."""
        for call in [*self._calls.values()]:
            call.cancel()
        if self._host is not None:
            self._host.hide(self)
        if self._measured is not None:
            self._measured.close()

    def _call(self, fields: tuple[Any, ...], tensors: Sequence[Tensor]) -> None:
        number, values, about, trace_of, decoupled, waits = fields
        request = NestedRequest(inputs={tensor.name: tensor for tensor in tensors}, **call_values(values))
        jobs = [self._jobs[job] for job in about if job in self._jobs]
        traced = self._jobs.get(trace_of)
        trace = None if traced is None else traced.request.trace
        if self._engine is None:
            fault = fault_fields(Internal("there is no engine to ask"))
            self._post("answer", (number, fault, None, True), ())
            return
        origin = Origin(self._instance_name, self._model_name, jobs, trace)
        answer = partial(self._answer, number)
        call = self._engine.call(request, origin, answer, decoupled=decoupled, waits=waits)
        if number not in self._calls:
            self._calls[number] = call
        else:  # it was answered at once
            del self._calls[number]

    def _answer(self, number: int, answer: Answer) -> None:
        if answer.final and self._calls.pop(number, None) is None:
            self._calls[number] = _OVER  # before `call` has returned
        response, fault = answer.response, answer.fault
        described, outputs = None, []
        if response is not None:
            described = (response.model_name, response.model_version, response.id, response.parameters)
            outputs = response.outputs
        failed = None if fault is None else fault_fields(fault)
        self._post("answer", (number, failed, described, answer.final), outputs)

    def _ask(self, fields: tuple[Any, ...], nursery: trio.Nursery) -> None:
        number, kind, *about = fields
        if kind == "cancelled?":
            job = self._jobs.get(about[0])
            self._tell(number, None, job is None or job.is_cancelled())
            return
        engine = self._engine
        if engine is None or self._measured is None:
            self._tell(number, Internal("there is no engine to ask"), None)
        elif kind == "metric":
            self._measure(number, about)
        elif kind == "library" and self._host is not None:
            nursery.start_soon(self._wait, number, partial(self._host.ask, *about))
        elif kind == "ready?":
            nursery.start_soon(self._wait, number, partial(engine.is_model_ready, *about))
        elif kind == "load":
            name, config, files, by, is_opening = about
            options = {"config": config, "files": files, "by": by, "is_opening": is_opening}
            nursery.start_soon(self._wait, number, partial(engine.load, name, **options))
        elif kind == "unload":
            name, dependents = about
            nursery.start_soon(self._wait, number, partial(engine.unload, name, unload_dependents=dependents))
        else:
            raise Internal(f"'{kind}' was not expected")

    def _measure(self, number: int, about: Sequence[Any]) -> None:
        assert self._measured is not None, "there is an engine"
        try:
            self._tell(number, None, self._measured.do(*about))
        except Fault as fault:
            self._tell(number, fault, None)

    async def _wait(self, number: int, question: Callable[[], object]) -> None:
        """Asks the engine from a thread, as it wants it. A cancelled wait leaves the thread to its work."""
        fault: Fault | None = None
        value: object = None
        try:
            value = await trio.to_thread.run_sync(question, abandon_on_cancel=True)
        except Fault as raised:
            fault = raised
        self._tell(number, fault, value)

    def _tell(self, number: int, fault: Fault | None, value: object) -> None:
        self._post("told", (number, None if fault is None else fault_fields(fault), value), ())


class _Over:
    """A call that was answered before it was known."""

    waits = False

    def consumed(self, count: int = 1) -> None: ...

    def cancel(self) -> None: ...


_OVER = _Over()
