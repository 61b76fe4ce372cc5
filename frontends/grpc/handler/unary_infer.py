"""ModelInfer: from the request's bytes to the engine and from its callback to the socket, without a task."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ....engine.port.buffers import ALIGNMENT
from ....schema.classification import classify_response
from ....schema.fault import Fault, NotLoaded, Unsupported
from ....schema.kserve_grpc import read_class_counts, read_request, write_response
from ....schema.kserve_grpc_plain import contents_begin, read_plain_request, takes_long
from ....schema.version import parse_version
from ....schema.wire import codec
from ....schema.wire.generated.inference import ModelInferRequest
from ...forwarding import open_forwarder
from ...refusals import log_refusal
from ..request.breakdown import logger, note
from ..request.deflate import compress_replies
from .traced import submit_traced

if TYPE_CHECKING:
    from ....engine.port.buffers import BufferPool
    from ....engine.port.served import Inference
    from ....schema.inference import InferenceRequest, InferenceResponse
    from ....schema.tensor import Buffer
    from ..request.call import Call
    from ..settings import GrpcSettings

_INTERNAL: Final = 13
_DECOUPLED: Final = "ModelInfer RPC doesn't support models with decoupled transaction policy"


class UnaryInfer:
    """Serves `/inference.GRPCInferenceService/ModelInfer`."""

    is_streaming = False

    def __init__(self, engine: Any, settings: GrpcSettings, *, is_logged: bool = False) -> None:
        """`is_logged`: calls are noted in an access log, and told of their jobs before they are answered."""
        self._answer = _answer_noted if is_logged else _answer
        self._answer_ranked = _answer_ranked_noted if is_logged else _answer_ranked
        self._engine = engine
        self._tracer = engine.tracer
        self._forwarder = open_forwarder(settings.forward_pattern)
        self._compresses = settings.response_compression_level != "none"

    def room_for(self, beginning: Buffer) -> tuple[BufferPool, int] | None:
        """Buffers of the model's own, where its process sees them; the first tensor is aligned there."""
        found = contents_begin(beginning)
        if found is None:
            return None
        name, version, at = found
        try:
            buffers = self._engine.model(name, parse_version(version)).buffers
        except Fault:
            return None
        return None if buffers is None else (buffers, -at % ALIGNMENT)

    def start(self, call: Call, message: Buffer) -> None:
        if self._compresses:
            compress_replies(call)
        if type(message) is not bytes and takes_long(message):
            call.start_task(self._infer_elsewhere, call, message)
        else:
            self._infer(call, message, read_plain_request(message))

    async def _infer_elsewhere(self, call: Call, message: Buffer) -> None:
        """Reads a request in a worker thread: others are served meanwhile."""
        request = await call.connection.in_worker(read_plain_request, message)
        if not call.done:
            self._infer(call, message, request)

    def _infer(self, call: Call, data: Buffer, request: InferenceRequest | None) -> None:
        """`request` is the one in `data`, None if that has to be decoded as a message."""
        answer = partial(self._answer, call)
        try:
            if request is not None:
                model = self._engine.model(request.model_name, request.model_version)
                if model.decoupled:
                    raise Unsupported(_DECOUPLED)
            else:
                message = codec.decode(ModelInferRequest, data)
                version = parse_version(message.model_version)
                model = self._engine.model(message.model_name, version)
                if model.decoupled:
                    raise Unsupported(_DECOUPLED)
                request = read_request(message, version, self._engine.shared_memory)
                class_counts = read_class_counts(message)
                if class_counts:
                    answer = partial(self._answer_ranked, call, model, class_counts)
            if self._forwarder is not None:
                self._forwarder.forward(call.head.forwardable(), request)
            if self._tracer.active:
                job = submit_traced(self._tracer, call, model, request, answer)
            else:
                job = model.submit(request, answer, call.deadline)
        except codec.Malformed:
            call.finish(_INTERNAL, "Unable to parse request")
        except NotLoaded as fault:
            self._infer_when_loaded(call, data, request, fault)
        except Fault as fault:
            call.finish(fault.grpc_status, fault.message)
            if logger.isEnabledFor(logging.DEBUG):
                request_id, model_name = _named_in(data)
                log_refusal(logger, request_id, fault, model_name, call)
        else:
            if not call.done:
                call.on_abandoned = job.cancel

    def _infer_when_loaded(self, call: Call, data: Buffer, request: InferenceRequest | None, fault: NotLoaded) -> None:
        def again(problem: Fault | None) -> None:
            call.on_abandoned = None
            if problem is None:
                self._infer(call, data, request)
            else:
                call.finish(problem.grpc_status, problem.message)

        try:
            waiting = self._engine.when_loaded(fault.model_name, again, call.deadline)
        except Fault as refusal:
            call.finish(refusal.grpc_status, refusal.message)
        else:
            call.on_abandoned = waiting.cancel


def _named_in(data: Buffer) -> tuple[str, str]:
    message = codec.decode(ModelInferRequest, data)
    return message.id, message.model_name


def _answer(call: Call, job: Inference) -> None:
    """The engine is done with the job. Never raises: nobody else would end the call."""
    try:
        call.on_abandoned = None
        fault = job.fault
        if fault is not None:
            call.finish(fault.grpc_status, fault.message)
            return
        response = job.response
        assert response is not None, "a job without a fault has a response"
        _reply(call, response)
    except Exception as problem:
        call.break_off("a response cannot be sent", problem)


def _answer_ranked(call: Call, model: Any, class_counts: dict[str, int], job: Inference) -> None:
    """The same for a request that wants classes of outputs."""
    response = job.response
    if response is None:
        _answer(call, job)
        return
    try:
        call.on_abandoned = None
        _reply(call, classify_response(response, class_counts, model.config.max_batch_size, model.labels))
    except Fault as fault:
        call.finish(fault.grpc_status, fault.message)
    except Exception as problem:
        call.break_off("a response cannot be sent", problem)


def _answer_noted(call: Any, job: Inference) -> None:
    call.notice(job)
    _answer(call, job)


def _answer_ranked_noted(call: Any, model: Any, class_counts: dict[str, int], job: Inference) -> None:
    call.notice(job)
    _answer_ranked(call, model, class_counts, job)


def _reply(call: Call, response: InferenceResponse) -> None:
    try:
        buffers, size = write_response(response)
    except Fault as fault:
        note("a response cannot be written", fault)
        call.finish(_INTERNAL, fault.message)
    else:
        call.reply(buffers, size)
