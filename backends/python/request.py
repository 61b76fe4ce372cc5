"""`pb_utils.InferenceRequest`: what `execute` receives, and what models make for requests of their own."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ...schema.fault import Fault
from ...schema.subclasses import mypyc_attr
from . import arguments, nested
from .arguments import INT64, UINT32, UINT64
from .error import TritonModelException
from .parameters import checked_parameters
from .response import InferenceResponseSender, Later
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection

    from ...engine.port.work import BackendJob
    from .nested import ResponseIterator
    from .response import InferenceResponse

_CLASS: Final = "InferenceRequest"

FLAG_SEQUENCE_START: Final = 1
FLAG_SEQUENCE_END: Final = 2
RELEASE_ALL: Final = 1
RELEASE_RESCHEDULE: Final = 2


@mypyc_attr(allow_interpreted_subclasses=True)
class InferenceTrace:
    """The trace of a request, for spans of the model's own."""

    __slots__ = ("_context", "_noted")

    def __init__(self, context: object = None) -> None:
        self._noted: object = None
        """The engine's, of a request that is traced."""
        self._context = None if context is None else arguments.text("InferenceTrace", "context", context)

    @classmethod
    def of(cls, noted: Any) -> InferenceTrace:
        """Of a received request."""
        trace = cls(None if noted is None else noted.context())
        trace._noted = noted
        return trace

    def noted(self) -> object:
        """For calls that are made for the same request."""
        return self._noted

    def get_context(self) -> str | None:
        """The W3C context as JSON of its headers; None for a request that is not traced in OpenTelemetry mode."""
        return self._context


@mypyc_attr(allow_interpreted_subclasses=True)
class InferenceRequest:
    """A request that a model makes itself, and sends by `exec` or `async_exec`."""

    __slots__ = (
        "_correlation_id",
        "_flags",
        "_id",
        "_inputs",
        "_parameters",
        "_requested",
        "_timeout",
        "_trace",
        "model_name",
        "model_version",
    )

    def __init__(
        self,
        request_id: object = "",
        correlation_id: object = 0,
        inputs: object = None,
        requested_output_names: object = None,
        model_name: object = None,
        model_version: object = -1,
        flags: object = 0,
        timeout: object = 0,
        preferred_memory: object = None,
        trace: object = None,
        parameters: object = None,
    ) -> None:
        """`inputs`, `requested_output_names` and `model_name` have to be given. Raises TypeError for what is of another
        kind, TritonModelException for what is empty."""
        text, number = partial(arguments.text, _CLASS), partial(arguments.number, _CLASS)
        self._id = text("request_id", request_id)
        self.model_name = text("model_name", model_name)
        self.model_version = number("model_version", model_version, INT64)
        self._flags = number("flags", flags, UINT32)
        self._timeout = number("timeout", timeout, INT64)
        self._correlation_id = _correlation_id(correlation_id)
        about = f"for request with id '{self._id}' and model name '{self.model_name}' should not be empty."
        self._inputs = list(arguments.sequence(_CLASS, "inputs", inputs))
        for tensor in self._inputs:
            if tensor is None:
                raise TritonModelException(f"Input tensor {about}")
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{_CLASS}(): expected inputs to hold Tensors, found {type(tensor)}")
        names = arguments.sequence(_CLASS, "requested_output_names", requested_output_names)
        self._requested = {text("requested_output_names to hold names, each", name) for name in names}
        if "" in self._requested:
            raise TritonModelException(f"Requested output name {about}")
        self._parameters = None if parameters is None else checked_parameters(parameters)
        if trace is not None and not isinstance(trace, InferenceTrace):
            raise TypeError(f"{_CLASS}(): expected trace to be an InferenceTrace, got {type(trace)}")
        self._trace = InferenceTrace() if trace is None else trace

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: object) -> None:
        self._flags = arguments.number("set_flags", "flags", flags, UINT32)

    def timeout(self) -> int:
        """In microseconds."""
        return self._timeout

    def parameters(self) -> str:
        """As JSON."""
        return json.dumps(self._parameters or {})

    def requested_output_names(self) -> set[str]:
        return self._requested

    def trace(self) -> InferenceTrace:
        return self._trace

    def is_cancelled(self) -> bool:
        return False

    def set_release_flags(self, flags: object) -> None:
        """Without effect: nobody releases it."""
        arguments.number("set_release_flags", "flags", flags, UINT32)

    def get_response_sender(self) -> InferenceResponseSender:
        raise TritonModelException("get_response_sender is only for requests that a model received")

    def exec(self, decoupled: bool = False) -> InferenceResponse | ResponseIterator:
        """Asks that model and waits: for its answer, whose error is part of it; with `decoupled`, for an iterator over
        its answers. Raises TritonModelException where a model may not ask, and on the engine's own thread."""
        return nested.execute_decoupled(self) if decoupled else nested.execute(self)

    def async_exec(self, decoupled: bool = False) -> Awaitable[InferenceResponse | ResponseIterator]:
        """The same to be awaited; it is on its way at once. Raises RuntimeError where no asyncio loop runs."""
        return nested.execute_decoupled_async(self) if decoupled else nested.execute_async(self)

    def given_parameters(self) -> dict[str, Any] | None:
        """As they were given."""
        return self._parameters

    def starts_sequence(self) -> bool:
        return bool(self.flags() & FLAG_SEQUENCE_START)

    def ends_sequence(self) -> bool:
        return bool(self.flags() & FLAG_SEQUENCE_END)

    def tensor(self, name: str) -> Tensor | None:
        """The input of that name, or None."""
        return next((tensor for tensor in self.inputs() if tensor.name() == name), None)


class ReceivedRequest(InferenceRequest):
    """A job as `execute` sees it. Everything is made when it is asked for; most models ask for little."""

    __slots__ = ("_output_names", "_sender", "job", "later", "outlives_execute", "received", "released")

    def __init__(
        self, job: BackendJob, output_names: Collection[str]
    ) -> None:  # does not call super: its slots stay unset
        self.job = job
        self.received: dict[str, Tensor] = {}
        """The inputs that the model has looked at."""
        self.released = False
        """True once execute has returned: the job is no longer ours to answer."""
        self.later: Later | None = None
        """Where its answer comes after `execute` has returned."""
        self.outlives_execute = False
        """The model may answer it after `execute` has returned, when it works on others."""
        self._output_names = output_names
        self._sender: InferenceResponseSender | None = None

    def tensor(self, name: str) -> Tensor | None:
        tensor = self.received.get(name)
        if tensor is None:
            wire = self.job.request.inputs.get(name)
            if wire is None:
                return None
            self.received[name] = tensor = Tensor.received(wire)
        return tensor

    def inputs(self) -> list[Tensor]:
        tensors = [self.tensor(name) for name in self.job.request.inputs]
        return [tensor for tensor in tensors if tensor is not None]

    def request_id(self) -> str:
        return self.job.request.id

    def correlation_id(self) -> int | str:
        return self.job.request.correlation_id

    def flags(self) -> int:
        request = self.job.request
        return FLAG_SEQUENCE_START * request.sequence_start | FLAG_SEQUENCE_END * request.sequence_end

    def exec(self, decoupled: bool = False) -> NoReturn:
        raise TritonModelException("a request that a model received cannot be sent: make one of its tensors")

    def async_exec(self, decoupled: bool = False) -> NoReturn:
        raise TritonModelException("a request that a model received cannot be sent: make one of its tensors")

    def set_flags(self, flags: object) -> None:
        arguments.number("set_flags", "flags", flags, UINT32)
        raise TritonModelException("the flags of a request that a model received cannot be changed")

    def timeout(self) -> int:
        return self.job.request.timeout_us

    def parameters(self) -> str:
        return json.dumps(self.job.request.parameters or {}, separators=(",", ":"))

    def requested_output_names(self) -> set[str]:
        return set(self.job.request.outputs or self._output_names)

    def is_cancelled(self) -> bool:
        return self.job.is_cancelled()

    def set_release_flags(self, flags: object) -> None:
        """RESCHEDULE, before `execute` returns: the request is executed once more, if it is not answered with the final
        flag. Raises TritonModelException where the model's sequences are not iterative, and later."""
        if arguments.number("set_release_flags", "flags", flags, UINT32) != RELEASE_RESCHEDULE:
            return
        if self.released:
            raise TritonModelException("set_release_flags: the request was released when execute returned")
        try:
            self.job.reschedule()
        except Fault as fault:
            raise TritonModelException(fault.message) from fault
        self.let_sender_go()

    def let_sender_go(self) -> None:
        """The model has it for nothing: whether it uses it any more is no matter."""
        if self._sender is not None:
            self._sender.may_go = True

    def trace(self) -> InferenceTrace:
        return InferenceTrace.of(self.job.request.trace)

    def comes_later(self, instance_name: str) -> bool:
        """`execute` returns without a response: whether the model has a sender, so that it may still come."""
        sender = self._sender
        return sender is not None and sender.put_off(instance_name)

    def put_off(self, instance_name: str) -> None:
        """The model answers later. It alone has this from now on."""
        self.later = Later(self.job.defer(), instance_name)
        self._sender = None

    def get_response_sender(self) -> InferenceResponseSender:
        if self._sender is None:
            self._sender = InferenceResponseSender(self, self._output_names)
        return self._sender


def _correlation_id(given: object) -> int | str:
    if given is not None and not isinstance(given, (int, str)):
        raise TritonModelException("Correlation ID must be integer or string")
    return given if isinstance(given, str) else arguments.number(_CLASS, "correlation_id", given, UINT64)
