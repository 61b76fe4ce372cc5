"""ModelStreamInfer: many requests on one call, for any mix of models.

    read ──submit──▶ engine ──answered──▶ slot of the request ──oldest slot first──▶ client     ordinary models
                     engine ──answer────────────────────────────────at once────────▶ client     decoupled models

One task per call reads and submits; answers are sent from the engine's callbacks. A request that fails is answered with
an error message and does not end the call, unless the client asked for that (`triton_grpc_error`). The task waits when
too many requests are in flight or the client does not read, so both bounds reach the client as flow control. Answers of
decoupled models are consumed, in the engine's sense, as the client reads; so a model waits for a slow one.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ....schema.classification import classify_response
from ....schema.fault import DeadlineExceeded, Fault, NotLoaded, ShuttingDown
from ....schema.kserve_grpc import read_class_counts, read_request, write_response
from ....schema.kserve_grpc_parameters import write_parameters
from ....schema.kserve_grpc_plain import read_plain_request, takes_long
from ....schema.version import parse_version
from ....schema.wire import codec
from ....schema.wire.generated.inference import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from ....schema.wire.varint import varint
from ...forwarding import open_forwarder
from ...refusals import log_refusal
from ..request.breakdown import logger
from ..request.call import STOPPING
from ..request.deflate import compress_replies
from .traced import submit_stream_traced, submit_traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.served import Answer, Inference, InferenceStream
    from ....schema.inference import InferenceRequest, InferenceResponse
    from ....schema.tensor import Buffer
    from ...forwarding import HeaderForwarder
    from ..request.call import Call
    from ..settings import GrpcSettings

_DEADLINE_EXCEEDED, _INTERNAL, _UNAVAILABLE = 4, 13, 14
_UNSENT_BYTES_MAX = 4_194_304


class StreamInfer:
    """Serves `/inference.GRPCInferenceService/ModelStreamInfer`."""

    is_streaming = True
    room_for = None

    def __init__(self, engine: Any, settings: GrpcSettings) -> None:
        self._engine = engine
        self._requests_max = settings.stream_requests_max
        self._forwarder = open_forwarder(settings.forward_pattern)

    def start(self, call: Call, message: Buffer) -> None:
        compress_replies(call)
        call.start_task(self._serve, call)

    async def _serve(self, call: Call) -> None:
        if call.done:
            return
        session = _Session(self._engine, call, self._requests_max, self._forwarder)
        with trio.CancelScope(deadline=call.deadline or float("inf")) as scope:
            call.on_abandoned = scope.cancel
            try:
                await session.run()
            finally:
                session.cancel_all()
            call.on_abandoned = None
        if scope.cancelled_caught:
            call.finish(_DEADLINE_EXCEEDED, "Deadline Exceeded")


class _Slot:
    """One request, and for an ordinary model its place in the order of answers."""

    __slots__ = ("answer", "finish", "job", "model_name", "request_id", "version_text", "wants_empty_final")

    def __init__(self) -> None:
        self.answer: tuple[list[Buffer], int] | None = None
        self.finish: Callable[[InferenceResponse], InferenceResponse] | None = None
        """What is still to be done to the response, e.g. ranking classes."""
        self.job: Inference | None = None
        self.request_id = self.model_name = self.version_text = ""
        self.wants_empty_final = False
        """A final answer without outputs is told, too."""


class _Session:
    """One ModelStreamInfer call."""

    def __init__(self, engine: Any, call: Call, requests_max: int, forwarder: HeaderForwarder | None) -> None:
        self._engine = engine
        self._requests_max = requests_max
        self._tracer = engine.tracer
        self._forwarder = forwarder
        self._call = call
        self._slots: deque[_Slot] = deque()
        self._streams: set[InferenceStream] = set()
        """Of decoupled models, not yet ended."""
        self._unread: list[InferenceStream] = []
        """For each answer that waits for the client: the stream that may go on when it has left."""
        self._waiter: trio.Event | None = None
        self._postponed: tuple[Buffer, InferenceRequest | None, NotLoaded] | None = None
        """A request whose model is to be loaded first; those behind it wait."""
        self._ends_on_error = call.head.field("triton_grpc_error") == "true"

    async def run(self) -> None:
        """Until the client has half-closed and everything is answered, or the call is done for."""
        call = self._call
        call.on_input = self._wake
        call.on_output = self._on_output
        requests_max = self._requests_max
        while not call.done:
            while call.messages and self._in_flight < requests_max and call.waiting_bytes <= _UNSENT_BYTES_MAX:
                data = call.take()
                if type(data) is not bytes and takes_long(data):
                    request = await call.connection.in_worker(read_plain_request, data)
                else:
                    request = read_plain_request(data)
                if call.done or self._begin(data, request):
                    return
                while self._postponed is not None:
                    if await self._begin_when_loaded(*self._postponed):
                        return
                if self._in_flight % 16 == 0:
                    await trio.lowlevel.checkpoint()
            if (call.ended or call.stopping) and not call.messages and not self._in_flight:
                if call.ended:
                    call.finish()
                    return
                if not call.waiting_bytes:
                    call.finish(_UNAVAILABLE, STOPPING)
                    return
            self._waiter = trio.Event()
            await self._waiter.wait()

    @property
    def _in_flight(self) -> int:
        return len(self._slots) + len(self._streams)

    @property
    def peer(self) -> str:
        """The client, for the log."""
        return self._call.peer

    @property
    def traceparent(self) -> str:
        """See Call."""
        return self._call.traceparent

    def _on_output(self) -> None:
        unread, self._unread = self._unread, []
        for job in unread:
            job.consumed()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set()

    def cancel_all(self) -> None:
        """The requests still in flight are of no use to anybody."""
        self._call.on_input = self._call.on_output = None
        for slot in self._slots:
            if slot.job is not None and slot.answer is None:
                slot.job.cancel()
        self._slots.clear()
        for stream in self._streams:
            stream.cancel()
        self._streams.clear()

    def _begin(self, data: Buffer, request: InferenceRequest | None) -> bool:
        """Submits `request`, the one in `data`, None where that has to be decoded as a message. True when the call is
        over."""
        if self._call.stopping:
            return self._refuse(data)
        slot = _Slot()
        self._slots.append(slot)
        try:
            job = self._submit(slot, data, request)
        except codec.Malformed:
            self._call.finish(_INTERNAL, "Unable to parse request")
            return True
        except NotLoaded as fault:
            self._slots.remove(slot)
            self._postponed = data, request, fault
        except Fault as fault:
            self._tell_refusal(slot, fault)
        else:
            if slot.answer is None:
                slot.job = job
        return self._call.done

    async def _begin_when_loaded(self, data: Buffer, request: InferenceRequest | None, fault: NotLoaded) -> bool:
        """Submits a request whose model loads first. True when the call is over."""
        self._postponed = None
        try:
            await self._engine.bring(fault.model_name, self._call.deadline)
        except Fault as refusal:
            slot = _Slot()
            slot.request_id = codec.decode(ModelInferRequest, data).id
            self._slots.append(slot)
            self._tell_refusal(slot, refusal)
            return self._call.done
        return self._call.done or self._begin(data, request)

    def _tell_refusal(self, slot: _Slot, fault: Fault) -> None:
        log_refusal(logger, slot.request_id, fault, slot.model_name, self._call)
        refusal = codec.encode(_refusal(slot.request_id, fault.message))
        if self._slots and self._slots[-1] is slot:
            slot.answer = refusal
            self._send_ready()
        else:
            self._call.send(*refusal)

    def _refuse(self, data: Buffer) -> bool:
        """Answers a request that came when the server was stopping, behind those before it. True when the call is
        over."""
        try:
            message = codec.decode(ModelInferRequest, data)
        except codec.Malformed:
            self._call.finish(_INTERNAL, "Unable to parse request")
            return True
        fault = ShuttingDown(STOPPING)
        log_refusal(logger, message.id, fault, message.model_name, self._call)
        slot = _Slot()
        slot.answer = codec.encode(_refusal(message.id, fault.message))
        self._slots.append(slot)
        self._send_ready()
        return self._call.done

    def _submit(self, slot: _Slot, data: Buffer, request: InferenceRequest | None) -> Inference | None:
        """The job that will answer in `slot`; None for a decoupled model's, which needs no place in the order."""
        if request is not None:
            slot.request_id, slot.model_name = request.id, request.model_name
            slot.version_text = "" if request.model_version < 0 else str(request.model_version)
            model = self._engine.model(request.model_name, request.model_version)
        else:
            message = codec.decode(ModelInferRequest, data)
            slot.request_id, slot.model_name, slot.version_text = message.id, message.model_name, message.model_version
            version = parse_version(message.model_version)
            model = self._engine.model(message.model_name, version)
            request = read_request(message, version, self._engine.shared_memory)
            empty_final = message.parameters.get("triton_enable_empty_final_response")
            slot.wants_empty_final = empty_final is not None and empty_final.bool_param is True
            class_counts = read_class_counts(message)
            if class_counts:
                slot.finish = partial(
                    classify_response,
                    class_counts=class_counts,
                    max_batch_size=model.config.max_batch_size,
                    labels=model.labels,
                )
        if model.decoupled:
            self._slots.pop()
        if self._forwarder is not None:
            self._forwarder.forward(self._call.head.forwardable(), request)
        if model.decoupled:
            on_answer = partial(self._on_answer, slot)
            if self._tracer.active:
                stream = submit_stream_traced(self._tracer, self._call, model, request, on_answer)
            else:
                stream = model.submit_stream(request, on_answer, self._call.deadline)
            self._streams.add(stream)
            return None
        answered = partial(self._answered, slot)
        if self._tracer.active:
            return submit_traced(self._tracer, self._call, model, request, answered)
        job: Inference = model.submit(request, answered, self._call.deadline)
        return job

    def _answered(self, slot: _Slot, job: Inference) -> None:
        """The engine is done with the request of `slot`. Never raises: nobody else would end the call."""
        if self._call.done or (slot.job is None and slot not in self._slots):
            return
        try:
            slot.answer = self._encode(slot, job.response, job.fault, final=True)
            if slot.answer is not None:
                self._send_ready()
            self._wake()
        except Exception as problem:
            self._call.break_off("a response cannot be sent", problem)

    def _on_answer(self, slot: _Slot, job: InferenceStream, answer: Answer) -> None:
        """A decoupled model has answered once more. Never raises."""
        call = self._call
        try:
            if answer.final:
                self._streams.discard(job)
            if call.done:
                return
            if answer.response is not None or answer.fault is not None or slot.wants_empty_final:
                encoded = self._encode(slot, answer.response, answer.fault, final=answer.final)
                if encoded is None:
                    self._wake()
                    return
                call.send(*encoded)
            if answer.final:
                self._wake()
            elif call.waiting_bytes <= _UNSENT_BYTES_MAX:
                job.consumed()
            else:
                self._unread.append(job)
        except Exception as problem:
            call.break_off("a response cannot be sent", problem)

    def _encode(
        self, slot: _Slot, response: InferenceResponse | None, fault: Fault | None, *, final: bool
    ) -> tuple[list[Buffer], int] | None:
        """The message for one answer: a response, a fault, or neither. None when that has ended the call instead."""
        if fault is None and response is not None:
            try:
                if slot.finish is not None:
                    response = slot.finish(response)
                return _success(*write_response(response), _FINAL if final else _NOT_FINAL)
            except Fault as error:
                fault = error
        if fault is not None and (self._ends_on_error or isinstance(fault, DeadlineExceeded)):
            # The deadline is the call's, whoever notices first that it has passed.
            self._end(fault.grpc_status, fault.message)
            return None
        return codec.encode(
            ModelStreamInferResponse(
                error_message="" if fault is None else fault.message,
                infer_response=ModelInferResponse(
                    id=slot.request_id,
                    model_name=slot.model_name,
                    model_version=slot.version_text,
                    parameters=write_parameters({"triton_final_response": final}),
                ),
            )
        )

    def _end(self, status: int, text: str) -> None:
        """Ends the call early; nothing that is in flight is of use any more."""
        self._call.finish(status, text)
        self.cancel_all()

    def _send_ready(self) -> None:
        slots = self._slots
        while slots and (answer := slots[0].answer) is not None:
            slots.popleft()
            self._call.send(*answer)


def _refusal(request_id: str, text: str) -> ModelStreamInferResponse:
    """The answer to a request that the engine has not taken."""
    return ModelStreamInferResponse(error_message=text, infer_response=ModelInferResponse(id=request_id))


_FINAL, _NOT_FINAL = (
    codec.encode_to_bytes(ModelInferResponse(parameters=write_parameters({"triton_final_response": final})))
    for final in (True, False)
)


def _success(buffers: list[Buffer], size: int, mark: bytes) -> tuple[list[Buffer], int]:
    """A ModelStreamInferResponse around an encoded ModelInferResponse, with the parameter that says whether it is the
    last one. Fields of a message may come in any order, so the parameter is put behind the rest."""
    size += len(mark)
    prefix = b"\x12" + varint(size)
    return [prefix, *buffers, mark], len(prefix) + size
