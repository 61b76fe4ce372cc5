"""`POST .../infer`: from the body to the model's queue, and from the finished job to the reply. No task per request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault, InvalidArgument, Unsupported
from ...schema.kserve_http import DecodeLimits, decode_infer, parse_header_length
from ...schema.kserve_http_reply import encode_error, encode_infer
from .request import BINARY, JSON, TEXT, HttpRequest
from .routes import Match, reply_fault, reply_problem

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.job import Job
    from ...engine.model import ModelVersion
    from .settings import HttpSettings

logger = logging.getLogger("despina.http")


class InferHandler:
    """The handler of the infer route.

    The order of the checks is the protocol's and decides which of several faults is told: model, decoupled, encoding,
    header length (text/plain so far), the JSON head with its tensors, the engine's own checks (application/json).
    """

    def __init__(self, engine: Engine, settings: HttpSettings) -> None:
        self._engine = engine
        self._limits = DecodeLimits(json_byte_size_max=settings.json_bytes_max)

    def __call__(self, request: HttpRequest, match: Match) -> None:
        content_type = TEXT
        try:
            name = match.model
            version = match.version()
            model = self._engine.model(name, version)
            if model.decoupled:
                raise Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
            headers = request.headers
            body = request.body
            encoding = headers.get(b"content-encoding")
            if encoding and encoding != b"identity":
                _refuse_encoding(request)
                return
            length_text = headers.get(b"inference-header-content-length")
            length = None if length_text is None else parse_header_length(length_text.decode("latin-1"), len(body))
            content_type = JSON
            inference, reply = decode_infer(body, length, name, version, self._limits)
            pending = _Pending(request, model, reply)
            job = model.submit(inference, pending.finish)
        except Fault as fault:
            reply_fault(request, fault, content_type)
            return
        if not pending.is_finished:
            request.on_gone = job.cancel


class _Pending:
    """What is needed to answer once the job is done."""

    __slots__ = ("_model", "_reply", "_request", "is_finished")

    def __init__(self, request: HttpRequest, model: ModelVersion, reply: Any) -> None:
        self._request = request
        self._model = model
        self._reply = reply
        self.is_finished = False

    def finish(self, job: Job) -> None:
        """The engine's `on_done`: on the trio thread, once, must not raise."""
        self.is_finished = True
        request = self._request
        try:
            response = job.response
            if job.fault is not None or response is None:
                reply_fault(request, job.fault or InvalidArgument("the request was not answered"), TEXT)
                return
            head, buffers, has_binary = encode_infer(
                response, self._reply, self._model.labels, self._model.config.max_batch_size
            )
            if has_binary:
                length = b"%d" % len(head)
                request.reply(200, BINARY, [head, *buffers], ((b"Inference-Header-Content-Length", length),))
            else:
                request.reply(200, JSON, [head])
        except Exception as problem:
            reply_problem(request, problem, JSON)


def _refuse_encoding(request: HttpRequest) -> None:
    request.reply(501, TEXT, [encode_error("Unsupported compression type")], ((b"Accept-Encoding", b"gzip, deflate"),))
