"""`POST .../infer`: from the body to the model's queue, and from the finished job to the reply. No task per request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ....schema.fault import Fault, Internal, NotLoaded, Unsupported
from ....schema.kserve_http import DecodeLimits, decode_infer, parse_header_length
from ....schema.kserve_http_reply import encode_error, encode_infer
from ...forwarding import open_forwarder
from ...refusals import log_refusal
from ..request.request import BINARY, JSON, TEXT, Buffer, Field, HttpRequest
from .compression import INLINE_BYTES_MAX, coding_for, compress
from .inflate import ENCODINGS, Inflation
from .postponed import postpone
from .problems import reply_fault, reply_problem
from .traced import traced_if_chosen

logger = logging.getLogger("despina.http")

_JSON_INLINE_BYTES_MAX = 512 * 1024
"""Of a JSON head read on the trio thread, at some 20 ms a MiB."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.caller import Caller
    from ....engine.port.served import Inference, Served
    from ....schema.infer_head import ReplyFormat
    from ....schema.inference import InferenceRequest
    from ..settings import HttpSettings
    from .routes import Match

    Answer = Callable[[HttpRequest, Served, ReplyFormat, Inference], None]
    ExpectAlike = Callable[[HttpRequest, Served, InferenceRequest, ReplyFormat, Answer], None]
    """Told of a request as it came, just decoded: more like it may be taken by a shorter way."""


class InferHandler:
    """The handler of the infer route.

    The order of the checks is the protocol's and decides which of several faults is told: model, decoupled, encoding,
    header length (text/plain so far), the JSON head with its tensors, the engine's own checks (application/json).
    """

    def __init__(
        self, engine: Caller, settings: HttpSettings, nursery: trio.Nursery, expect_alike: ExpectAlike | None = None
    ) -> None:
        self._engine = engine
        self._expect_alike = expect_alike
        self._tracer = engine.tracer
        self._limits = DecodeLimits(json_byte_size_max=settings.json_bytes_max)
        self._nursery = nursery
        """Of the bodies that are inflated or read, and the replies that are compressed, in a thread."""
        self._decoders = trio.CapacityLimiter(1)
        """More at a time would only take the interpreter from everybody else."""
        self._forwarder = open_forwarder(settings.forward_pattern)

    def __call__(self, request: HttpRequest, match: Match) -> None:
        model = self._engine.model(match.model, match.version())
        if model.decoupled:
            raise Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
        notes = request.notes
        body = request.body
        if notes.body_size != len(body):
            encoding = request.headers.get(b"content-encoding")
            if encoding and encoding != b"identity":
                self._inflate(request, match, model, encoding)
                return
            self._note(request, len(body))
            notes.body_size = len(body)
        self._submit(request, match, model, body)

    def _note(self, request: HttpRequest, body_size: int) -> None:
        """Reads what the head says about body and reply. Raises InvalidArgument."""
        headers = request.headers
        text = headers.get(b"inference-header-content-length")
        request.notes.header_length = None if text is None else parse_header_length(text.decode("latin-1"), body_size)
        accepted = headers.get(b"accept-encoding")
        request.notes.coding = None if accepted is None else coding_for(accepted)

    def _submit(self, request: HttpRequest, match: Match, model: Served, body: Buffer) -> None:
        length = request.notes.header_length
        if (len(body) if length is None else length) > _JSON_INLINE_BYTES_MAX:
            self._nursery.start_soon(self._decode_aside, request, match, body)
            return
        try:
            inference, reply = self._decode(request, match, body)
        except Fault as fault:
            log_refusal(logger, "", fault)
            reply_fault(request, fault, JSON)
            return
        self._start(request, match, model, body, inference, reply)

    def _decode(self, request: HttpRequest, match: Match, body: Buffer) -> tuple[InferenceRequest, ReplyFormat]:
        return decode_infer(
            body,
            request.notes.header_length,
            match.model,
            match.version(),
            self._limits,
            self._engine.shared_memory,
        )

    async def _decode_aside(self, request: HttpRequest, match: Match, body: Buffer) -> None:
        """A large JSON head is read in a thread, one after the other. The model is looked up again afterwards, for it
        may have changed meanwhile."""
        try:
            inference, reply = await trio.to_thread.run_sync(self._decode, request, match, body, limiter=self._decoders)
        except Exception as problem:
            reply_problem(request, problem, JSON)
            return
        try:
            if not request.is_gone:
                self._start(request, match, self._engine.model(match.model, match.version()), body, inference, reply)
        except NotLoaded as fault:
            postpone(self._engine, self, request, match, fault)
        except Exception as problem:
            reply_problem(request, problem, TEXT)

    def _start(
        self,
        request: HttpRequest,
        match: Match,
        model: Served,
        body: Buffer,
        inference: InferenceRequest,
        reply: ReplyFormat,
    ) -> None:
        try:
            if self._forwarder is not None:
                self._forwarder.forward(request.text_fields(), inference)
            if self._tracer.active:
                request = traced_if_chosen(self._tracer, request, inference)
            elif (
                inference.template is not None
                and body is request.body  # as it came, not inflated
                and self._expect_alike is not None
                and self._forwarder is None
            ):
                self._expect_alike(request, model, inference, reply, self._answer)
            pending = _Pending(request, model, reply, self._answer)
            job = model.submit(inference, pending.finish)
        except Fault as fault:
            log_refusal(logger, inference.id, fault)
            reply_fault(request, fault, JSON)
            return
        if not pending.is_finished:
            request.on_gone = job.cancel

    def _inflate(self, request: HttpRequest, match: Match, model: Served, encoding: bytes) -> None:
        if encoding not in ENCODINGS:
            fields = ((b"Accept-Encoding", b"gzip, deflate"),)
            request.reply(501, TEXT, [encode_error("Unsupported compression type")], fields)
            return
        inflation = Inflation(request.body, self._limits.json_byte_size_max)
        body = inflation.start()
        if body is not None:
            self._note(request, len(body))
            self._submit(request, match, model, body)
        else:
            self._nursery.start_soon(self._inflate_aside, request, match, inflation)

    async def _inflate_aside(self, request: HttpRequest, match: Match, inflation: Inflation) -> None:
        """The same in a thread. The model is looked up again, for it may have changed meanwhile."""
        try:
            body = await trio.to_thread.run_sync(inflation.finish)
            if not request.is_gone:
                self._note(request, len(body))
                self._submit(request, match, self._engine.model(match.model, match.version()), body)
        except NotLoaded as fault:
            postpone(self._engine, self, request, match, fault)
        except Exception as problem:
            reply_problem(request, problem, TEXT)

    def _answer(self, request: HttpRequest, model: Served, reply: ReplyFormat, job: Inference) -> None:
        """Replies with what has become of a job. Never raises."""
        try:
            response = job.response
            if job.fault is not None or response is None:
                reply_fault(request, job.fault or Internal("expected a single response, got 0"), TEXT)
                return
            head, buffers, has_binary = encode_infer(response, reply, model.labels, model.config.max_batch_size)
            body: list[Buffer] = [head, *buffers]
            fields: tuple[Field, ...] = ()
            if has_binary:
                fields = ((b"Inference-Header-Content-Length", b"%d" % len(head)),)
            content_type = BINARY if has_binary else JSON
            coding = request.notes.coding
            if coding is None:
                request.reply(200, content_type, body, fields)
                return
            fields = (*fields, (b"Content-Encoding", coding))
            if sum(map(len, body)) <= INLINE_BYTES_MAX:
                request.reply(200, content_type, compress(body, coding), fields)
            else:
                self._nursery.start_soon(_compress_aside, request, content_type, body, fields, coding)
        except Exception as problem:
            reply_problem(request, problem, TEXT)


class _Pending:
    """What is needed to answer once the job is done."""

    __slots__ = ("_answer", "_model", "_reply", "_request", "is_finished")

    def __init__(self, request: HttpRequest, model: Served, reply: ReplyFormat, answer: Answer) -> None:
        self._request = request
        self._answer = answer
        self._model = model
        self._reply = reply
        self.is_finished = False

    def finish(self, job: Inference) -> None:
        """The engine's `on_done`: on the trio thread, once, must not raise."""
        self.is_finished = True
        self._answer(self._request, self._model, self._reply, job)


async def _compress_aside(
    request: HttpRequest, content_type: bytes, body: list[Buffer], fields: tuple[Field, ...], coding: bytes
) -> None:
    """Replies with the compressed body, made in a thread."""
    try:
        compressed = await trio.to_thread.run_sync(compress, body, coding)
    except Exception as problem:
        reply_problem(request, problem, TEXT)
        return
    request.reply(200, content_type, compressed, fields)
