"""`pb_utils.InferenceResponse` and the sender that answers a request of an ordinary model, in `execute` or later."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from ...schema.fault import ModelFailure
from ...schema.subclasses import mypyc_attr
from .arguments import INT64, number, sequence
from .error import TritonError, TritonModelException
from .parameters import checked_parameters
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ...engine.port.work import BackendJob, BackendStream, LateAnswer
    from ...schema.tensor import Tensor as WireTensor
    from .request import ReceivedRequest

_log = logging.getLogger("despina.backends.python")

RESPONSE_COMPLETE_FINAL: Final = 1


@mypyc_attr(allow_interpreted_subclasses=True)
class InferenceResponse:
    """What a model answers to one request: tensors, or an error, which then wins."""

    __slots__ = ("_error", "_outputs", "_parameters")

    def __init__(
        self,
        output_tensors: object = (),
        error: object = None,
        parameters: object = None,
    ) -> None:
        outputs = list(sequence("InferenceResponse", "output_tensors", output_tensors))
        for tensor in outputs:
            if not isinstance(tensor, Tensor):
                if tensor is None:
                    raise TritonModelException("Output tensor for inference response should not be empty.")
                raise TypeError(f"InferenceResponse(): expected output_tensors to hold Tensors, found {type(tensor)}")
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"InferenceResponse(): expected error to be a TritonError, found {type(error)}")
        self._outputs = outputs
        self._error = error
        # A copy: the model may use its own again, for the next request.
        self._parameters = None if parameters is None else checked_parameters(parameters).copy()

    @classmethod
    def received(cls, outputs: list[Tensor], parameters: dict[str, Any] | None) -> InferenceResponse:
        """What another model has answered."""
        response = cls(outputs)
        response._parameters = parameters
        return response

    def output_tensors(self) -> list[Tensor]:
        return self._outputs.copy()

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """As JSON."""
        return json.dumps(self._parameters or {})

    def answer(self, request: ReceivedRequest, outputs: Collection[str]) -> None:
        """Answers the request's job with those of its requested outputs that are here; `outputs` are the model's."""
        job: BackendJob = request.job
        to = job if request.later is None else request.later.answer
        if self._error is not None:
            to.fail(self._error.fault())
        else:
            to.respond(self._wanted(job, request.received, outputs), self._parameters)

    def stream(
        self, job: BackendStream, received: Mapping[str, Tensor], outputs: Collection[str], *, final: bool
    ) -> None:
        """Sends this as one of a stream's answers."""
        if self._error is not None:
            job.send_fault(self._error.fault(), final=final)
        else:
            job.send(self._wanted(job, received, outputs), self._parameters, final=final)

    def _wanted(self, job: BackendJob, received: Mapping[str, Tensor], outputs: Collection[str]) -> list[WireTensor]:
        wanted = job.request.outputs or outputs
        return [tensor.answer(received.values()) for tensor in self._outputs if tensor._name in wanted]


class Later:
    """Of a request that the model answers after `execute` has returned. Once the model has dropped both the request
    and its senders, nobody has this: the request fails."""

    __slots__ = ("answer", "is_used", "name")

    def __init__(self, answer: LateAnswer, instance_name: str) -> None:
        self.answer = answer
        self.is_used = False
        self.name = instance_name

    def __del__(self) -> None:
        if not self.is_used:
            _log.error(
                "model instance '%s': the response sender of a request was dropped without a response", self.name
            )
            self.answer.fail(unanswered(self.name))


@mypyc_attr(allow_interpreted_subclasses=True)
class InferenceResponseSender:
    """Answers one request, from any thread, also after `execute` has returned None for it. One response and one final
    flag, together or one after the other."""

    __slots__ = ("_closed", "_lock", "_output_names", "_request", "_sent", "may_go")

    def __init__(self, request: ReceivedRequest, output_names: Collection[str]) -> None:
        self._request = request
        self._output_names = output_names
        self._sent = False
        self._closed = False
        self.may_go = False
        """Without the final flag, and nothing is said of it: the request is executed once more, with another sender, or
        has failed."""
        self._lock = threading.Lock()
        """Between a thread that sends and the end of `execute`."""

    def send(self, response: object = None, flags: object = 0) -> None:
        """Raises TritonModelException where the order of responses and flags is not allowed."""
        given, final = checked(response, flags)
        with self._lock:
            if self._closed:
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            if given is None and not self._sent:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
                )
            if given is not None and self._sent:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than one response."
                )
            if given is not None:
                self._sent = True
                later = self._request.later
                if later is None and self._request.released:
                    raise TritonModelException("Unable to send response. Response sender has been closed.")
                if later is not None:
                    later.is_used = True
                given.answer(self._request, self._output_names)
            self._closed = final

    def put_off(self, instance_name: str) -> bool:
        """`execute` returns without a response to the request: it comes later, unless it was sent already."""
        with self._lock:
            if not self._sent:
                self._request.put_off(instance_name)
            return not self._sent

    def is_cancelled(self) -> bool:
        return self._request.is_cancelled()


def checked(response: object, flags: object) -> tuple[InferenceResponse | None, bool]:
    """What is sent, and whether it is the last. Raises TypeError for what is no response and no flags,
    TritonModelException for what cannot be sent at all."""
    if response is not None and not isinstance(response, InferenceResponse):
        raise TypeError(f"send(): expected an InferenceResponse, found {type(response)}")
    flags = number("send", "flags", flags, INT64)
    if flags not in (0, RESPONSE_COMPLETE_FINAL):
        raise TritonModelException("Unable to send response. Unsupported flag provided.")
    if flags == 0 and response is None:
        raise TritonModelException("Inference Response object must be provided when the response flags is set to zero.")
    return response, flags == RESPONSE_COMPLETE_FINAL


def unanswered(instance_name: str) -> ModelFailure:
    """For a request that the model let go without a response."""
    return ModelFailure(
        f"Failed to process the request(s) for model '{instance_name}', message: the execute function returned without "
        "a response to this request"
    )
