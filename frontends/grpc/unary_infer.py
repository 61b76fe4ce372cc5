"""ModelInfer: from the request's bytes to the engine and from its callback to the socket, without a task."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault, Unsupported
from ...schema.kserve_grpc import read_plain_request, read_request, write_response
from ...schema.version import parse_version
from ...schema.wire import codec
from ...schema.wire.generated.inference import ModelInferRequest

if TYPE_CHECKING:
    from ...engine.job import Job
    from .call import Call

_logger = logging.getLogger("despina.grpc")

_INTERNAL = 13
_DECOUPLED = "ModelInfer RPC doesn't support models with decoupled transaction policy"


class UnaryInfer:
    """Serves `/inference.GRPCInferenceService/ModelInfer`."""

    is_streaming = False

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def start(self, call: Call) -> None:
        data = call.take()
        try:
            request = read_plain_request(data) if type(data) is bytes else None
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
                request = read_request(message, version)
            job = model.submit(request, partial(_answer, call), call.deadline)
        except codec.Malformed:
            call.finish(_INTERNAL, "Unable to parse request")
        except Fault as fault:
            call.finish(fault.grpc_status, fault.message)
        except Exception:
            _logger.exception("an inference request failed on its way in")
            call.finish(_INTERNAL, "Internal server error")
        else:
            if not call.done:
                call.on_abandoned = job.cancel


def _answer(call: Call, job: Job) -> None:
    """The engine is done with the job."""
    call.on_abandoned = None
    fault = job.fault
    if fault is not None:
        call.finish(fault.grpc_status, fault.message)
        return
    response = job.response
    assert response is not None, "a job without a fault has a response"
    try:
        buffers, size = write_response(response)
    except Exception as error:
        _logger.exception("a response cannot be written")
        call.finish(_INTERNAL, error.message if isinstance(error, Fault) else "Internal server error")
        return
    call.reply(buffers, size)
