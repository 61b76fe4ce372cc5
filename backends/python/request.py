"""`pb_utils.InferenceRequest`: what `execute` receives, and what models make for requests of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .error import TritonModelException, not_supported_yet
from .response import InferenceResponseSender, check_parameters
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ...engine.port.work import BackendJob

FLAG_SEQUENCE_START = 1
FLAG_SEQUENCE_END = 2
RELEASE_ALL = 1
RELEASE_RESCHEDULE = 2


class InferenceTrace:
    """The trace of a request, for spans of the model's own."""

    __slots__ = ("_context",)

    def __init__(self, context: str | None = None) -> None:
        self._context = context

    def get_context(self) -> str | None:
        """The W3C context as JSON of its headers; None for a request that is not traced in OpenTelemetry mode."""
        return self._context


class InferenceRequest:
    """A request that a model makes itself. It can be built and read; executing it is not supported yet."""

    __slots__ = (
        "_correlation_id",
        "_flags",
        "_id",
        "_inputs",
        "_parameters",
        "_requested",
        "_timeout",
        "model_name",
        "model_version",
    )

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: object = None,
        trace: object = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(correlation_id, (int, str)):
            raise TritonModelException("Correlation ID must be integer or string")
        for tensor in inputs:
            if tensor is None:
                raise TritonModelException(
                    f"Input tensor for request with id '{request_id}' and model name '{model_name}' should not be "
                    "empty."
                )
        if not all(requested_output_names):
            raise TritonModelException(
                f"Requested output name for request with id '{request_id}' and model name '{model_name}' should not be "
                "empty."
            )
        if parameters is not None:
            check_parameters(parameters)
        self._id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._requested = set(requested_output_names)
        self._flags = flags
        self._timeout = timeout
        self._parameters = parameters
        self.model_name = model_name
        self.model_version = model_version

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        """In microseconds."""
        return self._timeout

    def parameters(self) -> str:
        """As JSON."""
        return json.dumps(self._parameters or {})

    def requested_output_names(self) -> set[str]:
        return self._requested

    def trace(self) -> InferenceTrace:
        return InferenceTrace()

    def is_cancelled(self) -> bool:
        return False

    def set_release_flags(self, flags: int) -> None:
        raise TritonModelException("set_release_flags is only for requests that a model received")

    def get_response_sender(self) -> InferenceResponseSender:
        raise TritonModelException("get_response_sender is only for requests that a model received")

    def exec(self, decoupled: bool = False) -> NoReturn:
        raise not_supported_yet("InferenceRequest.exec (a request from within a model)")

    def async_exec(self, decoupled: bool = False) -> NoReturn:
        raise not_supported_yet("InferenceRequest.async_exec (a request from within a model)")

    def tensor(self, name: str) -> Tensor | None:
        """The input of that name, or None."""
        return next((tensor for tensor in self.inputs() if tensor.name() == name), None)


class ReceivedRequest(InferenceRequest):
    """A job as `execute` sees it. Everything is made when it is asked for; most models ask for little."""

    __slots__ = ("_output_names", "_sender", "job", "received", "released")

    outlives_execute: ClassVar[bool] = False
    """The model may answer it after `execute` has returned, when it works on others."""

    def __init__(
        self, job: BackendJob, output_names: Collection[str]
    ) -> None:  # does not call super: its slots stay unset
        self.job = job
        self.received: dict[str, Tensor] = {}
        """The inputs that the model has looked at."""
        self.released = False
        """True once execute has returned: the job is no longer ours to answer."""
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

    def set_flags(self, flags: int) -> None:
        raise TritonModelException("the flags of a request that a model received cannot be changed")

    def timeout(self) -> int:
        return self.job.request.timeout_us

    def parameters(self) -> str:
        return json.dumps(self.job.request.parameters or {}, separators=(",", ":"))

    def requested_output_names(self) -> set[str]:
        return set(self.job.request.outputs or self._output_names)

    def is_cancelled(self) -> bool:
        return self.job.is_cancelled()

    def set_release_flags(self, flags: int) -> None:
        if flags == RELEASE_RESCHEDULE:
            raise not_supported_yet("TRITONSERVER_REQUEST_RELEASE_RESCHEDULE")

    def trace(self) -> InferenceTrace:
        trace = self.job.request.trace
        return InferenceTrace(None if trace is None else trace.context())

    def get_response_sender(self) -> InferenceResponseSender:
        if self._sender is None:
            self._sender = InferenceResponseSender(self, self._output_names)
        return self._sender
