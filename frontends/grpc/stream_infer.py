"""ModelStreamInfer: many requests on one call, answered in the order in which they came.

    read ──submit──▶ engine ──answered──▶ slot of the request ──oldest slot first──▶ client

One task per call reads and submits; answers are sent from the engine's callbacks. A request that fails is answered with
an error message and does not end the call, unless the client asked for that (`triton_grpc_error`). The task waits when
too many requests are in flight or the client does not read, so both bounds reach the client as flow control.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ...schema.classification import classify_response
from ...schema.fault import Fault, Unsupported
from ...schema.kserve_grpc import (
    read_class_counts,
    read_plain_request,
    read_request,
    write_parameters,
    write_response,
)
from ...schema.version import parse_version
from ...schema.wire import codec
from ...schema.wire.generated.inference import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from ...schema.wire.varint import varint
from ..forwarding import open_forwarder
from .deflate import compress_replies

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.job import Job
    from ...schema.inference import InferenceResponse
    from ...schema.tensor import Buffer
    from ..forwarding import HeaderForwarder
    from .call import Call
    from .settings import GrpcSettings

_logger = logging.getLogger("despina.grpc")

_INTERNAL, _DEADLINE_EXCEEDED = 13, 4
_UNSENT_BYTES_MAX = 4_194_304


class StreamInfer:
    """Serves `/inference.GRPCInferenceService/ModelStreamInfer`."""

    is_streaming = True

    def __init__(self, engine: Any, settings: GrpcSettings) -> None:
        self._engine = engine
        self._forwarder = open_forwarder(settings.forward_pattern)

    def start(self, call: Call) -> None:
        compress_replies(call)
        call.connection.start_task(self._serve, call)

    async def _serve(self, call: Call) -> None:
        if call.done:
            return
        session = _Session(self._engine, call, self._forwarder)
        with trio.CancelScope(deadline=call.deadline or float("inf")) as scope:
            call.on_abandoned = session.scope_cancel = scope.cancel
            try:
                await session.run()
            except Exception:
                _logger.exception("a stream of inference requests failed")
                call.finish(_INTERNAL, "Internal server error")
            finally:
                session.cancel_all()
            call.on_abandoned = None
        if scope.cancelled_caught:
            call.finish(_DEADLINE_EXCEEDED, "Deadline Exceeded")


class _Slot:
    """The place of one request in the order of answers."""

    __slots__ = ("answer", "finish", "job", "model_name", "request_id", "version_text")

    def __init__(self) -> None:
        self.answer: tuple[list[Buffer], int] | None = None
        self.finish: Callable[[InferenceResponse], InferenceResponse] | None = None
        """What is still to be done to the response, e.g. ranking classes."""
        self.job: Job | None = None
        self.request_id = self.model_name = self.version_text = ""


class _Session:
    """One ModelStreamInfer call."""

    def __init__(self, engine: Any, call: Call, forwarder: HeaderForwarder | None) -> None:
        self._engine = engine
        self._forwarder = forwarder
        self._call = call
        self._slots: deque[_Slot] = deque()
        self._waiter: trio.Event | None = None
        self._ends_on_error = call.metadata.get("triton_grpc_error") == "true"
        self.scope_cancel: Any = None

    async def run(self) -> None:
        """Until the client has half-closed and everything is answered, or the call is done for."""
        call = self._call
        call.on_input = call.on_output = self._wake
        requests_max = call.connection.settings.stream_requests_max
        while not call.done:
            while call.messages and len(self._slots) < requests_max and call.waiting_bytes <= _UNSENT_BYTES_MAX:
                if self._begin(call.take()):
                    return
                if len(self._slots) % 16 == 0:
                    await trio.lowlevel.checkpoint()
            if call.ended and not call.messages and not self._slots:
                call.finish()
                return
            self._waiter = trio.Event()
            await self._waiter.wait()

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

    def _begin(self, data: Buffer) -> bool:
        """Submits one request. True when the call is over."""
        slot = _Slot()
        self._slots.append(slot)
        try:
            job = self._submit(slot, data)
        except codec.Malformed:
            self._call.finish(_INTERNAL, "Unable to parse request")
            return True
        except Fault as fault:
            slot.answer = codec.encode(
                ModelStreamInferResponse(
                    error_message=fault.message, infer_response=ModelInferResponse(id=slot.request_id)
                )
            )
            self._send_ready()
        else:
            if slot.answer is None:
                slot.job = job
        return self._call.done

    def _submit(self, slot: _Slot, data: Buffer) -> Job:
        request = read_plain_request(data) if type(data) is bytes else None
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
            class_counts = read_class_counts(message)
            if class_counts:
                slot.finish = partial(
                    classify_response,
                    class_counts=class_counts,
                    max_batch_size=model.config.max_batch_size,
                    labels=model.labels,
                )
        if model.decoupled:
            raise Unsupported(f"model '{model.name}' has a decoupled transaction policy, which is not served yet")
        if self._forwarder is not None:
            self._forwarder.forward(self._call.head.forwardable(), request)
        job: Job = model.submit(request, partial(self._answered, slot), self._call.deadline)
        return job

    def _answered(self, slot: _Slot, job: Job) -> None:
        """The engine is done with the request of `slot`."""
        if self._call.done or (slot.job is None and slot not in self._slots):
            return
        fault = job.fault
        if fault is None and job.response is not None:
            try:
                response = job.response if slot.finish is None else slot.finish(job.response)
                slot.answer = _success(*write_response(response))
            except Fault as error:
                fault = error
            except Exception:
                _logger.exception("a response cannot be written")
                self._call.finish(_INTERNAL, "Internal server error")
                return
        if fault is not None:
            if self._ends_on_error:
                self._call.finish(fault.grpc_status, fault.message)
                self.cancel_all()
                self._wake()
                return
            slot.answer = codec.encode(
                ModelStreamInferResponse(
                    error_message=fault.message,
                    infer_response=ModelInferResponse(
                        id=slot.request_id,
                        model_name=slot.model_name,
                        model_version=slot.version_text,
                        parameters=write_parameters({"triton_final_response": True}),
                    ),
                )
            )
        self._send_ready()
        self._wake()

    def _send_ready(self) -> None:
        slots = self._slots
        while slots and (answer := slots[0].answer) is not None:
            slots.popleft()
            self._call.send(*answer)


_FINAL = codec.encode_to_bytes(ModelInferResponse(parameters=write_parameters({"triton_final_response": True})))


def _success(buffers: list[Buffer], size: int) -> tuple[list[Buffer], int]:
    """A ModelStreamInferResponse around an encoded ModelInferResponse, with the parameter that says "the last one".
    Fields of a message may come in any order, so the parameter is put behind the rest."""
    size += len(_FINAL)
    prefix = b"\x12" + varint(size)
    return [prefix, *buffers, _FINAL], len(prefix) + size
