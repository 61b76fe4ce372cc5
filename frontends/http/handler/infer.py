"""`POST .../infer`: from the body to the model's queue, and from the finished job to the reply. No task per request."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from ....schema.fault import Fault, Internal, NotLoaded, Unsupported
from ....schema.kserve_http import DecodeLimits, decode_infer, parse_header_length
from ....schema.kserve_http_reply import LongText, encode_error, encode_infer
from ....schema.large_json import LARGE_BYTES_MIN
from ....schema.tensor import size_of
from ....schema.texts import MANY_BYTES_MIN, counted, has_many
from ...forwarding import open_forwarder
from ...refusals import log_refusal
from ..request.request import BINARY, JSON, TEXT, Buffer, Field, HttpRequest
from .compression import INLINE_BYTES_MAX, coding_for, compress
from .inflate import ENCODINGS, Inflation
from .postponed import postpone
from .problems import reply_fault, reply_problem
from .traced import traced_if_chosen

logger = logging.getLogger("despina.http")

_HEADER_LENGTH = b"Inference-Header-Content-Length"

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.caller import Caller
    from ....engine.port.served import Inference, Served
    from ....schema.infer_head import ReplyFormat
    from ....schema.inference import InferenceRequest
    from ..settings import HttpSettings
    from .routes import Match


class InferHandler:
    """The handler of the infer route.

    The order of the checks is the protocol's and decides which of several faults is told: model, decoupled, encoding,
    header length (text/plain so far), the JSON head with its tensors, the engine's own checks (application/json).
    """

    def __init__(self, engine: Caller, settings: HttpSettings, nursery: trio.Nursery) -> None:
        self._engine = engine
        self._tracer = engine.tracer
        self._limits = DecodeLimits(json_byte_size_max=settings.json_bytes_max)
        self._regions = engine.shared_memory
        self._nursery = nursery
        """Of the bodies that are inflated or read, and the replies that are compressed, in a thread."""
        self._decoders = trio.CapacityLimiter(1)
        """More at a time would only take the interpreter from everybody else."""
        self._encoders = trio.CapacityLimiter(1)
        """Likewise."""
        self._forwarder = open_forwarder(settings.forward_pattern)

    def __call__(self, request: HttpRequest, match: Match) -> None:
        notes = request.notes
        model = notes.model
        if model is None:
            model = self._look(request, match)
        if notes.encoding:
            self._inflate(request, match, model, notes.encoding)
        else:
            self._submit(request, match, model, request.body)

    def _look(self, request: HttpRequest, match: Match) -> Served:
        """Notes the model, which is the same for all heads of this form while the generation lasts, and what they say
        about body and reply. The model. Raises Fault where it cannot be asked."""
        model = self._engine.model(match.model, match.version())
        if model.decoupled:
            raise Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
        self._note(request)
        request.notes.model = model
        if not request.notes.encoding:
            request.notes.buffers = model.buffers
        self._engine.generation.keep(request.notes)
        return model

    def _note(self, request: HttpRequest) -> None:
        """Reads what the head says about body and reply."""
        headers = request.telling
        encoding = headers.get(b"content-encoding", b"")
        request.notes.encoding = b"" if encoding == b"identity" else encoding
        accepted = headers.get(b"accept-encoding")
        request.notes.coding = None if accepted is None else coding_for(accepted)

    def _header_length(self, request: HttpRequest, body_size: int) -> int | None:
        """How much of a body, not compressed any more, is JSON; None where nothing is said. Raises InvalidArgument."""
        text = request.header_length
        return None if text is None else parse_header_length(text, body_size)

    def _submit(self, request: HttpRequest, match: Match, model: Served, body: Buffer) -> None:
        size = len(body)
        length = self._header_length(request, size)
        version = match.number
        if version is None:
            version = match.version()
        if (size if length is None else length) > LARGE_BYTES_MIN:
            read = partial(decode_infer, body, length, match.model, version, self._limits, self._regions)
            self._nursery.start_soon(self._read_aside, request, match, read)
            return
        try:
            inference, reply = decode_infer(body, length, match.model, version, self._limits, self._regions)
        except Fault as fault:
            log_refusal(logger, "", fault, match.model, request)
            reply_fault(request, fault, JSON)
            return
        if size > MANY_BYTES_MIN and has_many(inference.inputs.values()):
            self._nursery.start_soon(self._read_aside, request, match, partial(_read_already, inference, reply))
            return
        self._start(request, model, inference, reply)

    async def _read_aside(
        self, request: HttpRequest, match: Match, read: Callable[[], tuple[InferenceRequest, ReplyFormat]]
    ) -> None:
        """A large JSON head is read, and very many texts are counted, in a thread, one after the other. The model is
        looked up again afterwards, for it may have changed meanwhile."""
        try:
            inference, reply = await trio.to_thread.run_sync(_with_counts, read, limiter=self._decoders)
        except Exception as problem:
            reply_problem(request, problem, JSON)
            return
        try:
            if not request.is_gone:
                self._start(request, self._engine.model(match.model, match.version()), inference, reply)
        except NotLoaded as fault:
            postpone(self._engine, self, request, match, fault)
        except Exception as problem:
            reply_problem(request, problem, TEXT)

    def _start(self, request: HttpRequest, model: Served, inference: InferenceRequest, reply: ReplyFormat) -> None:
        try:
            if self._forwarder is not None:
                self._forwarder.forward(request.text_fields(), inference)
            if self._tracer.active:
                request = traced_if_chosen(self._tracer, request, inference)
            job = model.submit(inference, partial(self._answer, request, model, reply))
        except Fault as fault:
            log_refusal(logger, inference.id, fault, inference.model_name, request)
            reply_fault(request, fault, JSON)
            return
        if job.on_done is not None:  # it is not over yet
            request.when_gone(job.cancel)

    def _inflate(self, request: HttpRequest, match: Match, model: Served, encoding: bytes) -> None:
        if encoding not in ENCODINGS:
            fields = ((b"Accept-Encoding", b"gzip, deflate"),)
            request.reply(501, TEXT, [encode_error("Unsupported compression type")], fields)
            return
        inflation = Inflation(request.body, self._limits.json_byte_size_max)
        body = inflation.start()
        if body is not None:
            self._submit(request, match, model, body)
        else:
            self._nursery.start_soon(self._inflate_aside, request, match, inflation)

    async def _inflate_aside(self, request: HttpRequest, match: Match, inflation: Inflation) -> None:
        """The same in a thread. The model is looked up again, for it may have changed meanwhile."""
        try:
            body = await trio.to_thread.run_sync(inflation.finish)
            if not request.is_gone:
                self._submit(request, match, self._engine.model(match.model, match.version()), body)
        except NotLoaded as fault:
            postpone(self._engine, self, request, match, fault)
        except Exception as problem:
            reply_problem(request, problem, TEXT)

    def _binary_form(self, head_length: int) -> tuple[bytes, tuple[Field, ...]]:
        """Content type and headers of an answer whose JSON, of that length, tensors follow."""
        return BINARY, ((_HEADER_LENGTH, str(head_length).encode()),)

    def _answer(self, request: HttpRequest, model: Served, reply: ReplyFormat, job: Inference) -> None:
        """Replies with what has become of a job: the engine's `on_done`, on the trio thread, once. Never raises."""
        try:
            response = job.response
            if job.fault is not None or response is None:
                reply_fault(request, job.fault or Internal("expected a single response, got 0"), TEXT)
                return
            if reply.classification:
                labels, size_max = model.labels, model.config.max_batch_size
                head, buffers, has_binary = encode_infer(response, reply, labels, size_max, at_once=True)
            else:
                head, buffers, has_binary = encode_infer(response, reply, at_once=True)
            self._reply(request, head, buffers, has_binary)
        except LongText:
            self._nursery.start_soon(self._encode_aside, request, model, reply, job)
        except Exception as problem:
            reply_problem(request, problem, TEXT)

    async def _encode_aside(self, request: HttpRequest, model: Served, reply: ReplyFormat, job: Inference) -> None:
        """A long text is written in a thread, one after the other."""
        response = job.response
        assert response is not None, "it was to be written"
        try:
            encode = partial(encode_infer, response, reply, model.labels, model.config.max_batch_size)
            made = await trio.to_thread.run_sync(encode, limiter=self._encoders)
            if not request.is_gone:
                self._reply(request, *made)
        except Exception as problem:
            reply_problem(request, problem, TEXT)

    def _reply(self, request: HttpRequest, head: bytes, buffers: list[Buffer], has_binary: bool) -> None:
        body: list[Buffer] = [head, *buffers]
        content_type, fields = self._binary_form(len(head)) if has_binary else (JSON, ())
        coding = request.notes.coding
        if coding is None:
            request.reply(200, content_type, body, fields)
            return
        fields = (*fields, (b"Content-Encoding", coding))
        if size_of(body) <= INLINE_BYTES_MAX:
            request.reply(200, content_type, compress(body, coding), fields)
        else:
            self._nursery.start_soon(_compress_aside, request, content_type, body, fields, coding)


def _read_already(inference: InferenceRequest, reply: ReplyFormat) -> tuple[InferenceRequest, ReplyFormat]:
    return inference, reply


def _with_counts(
    read: Callable[[], tuple[InferenceRequest, ReplyFormat]],
) -> tuple[InferenceRequest, ReplyFormat]:
    inference, reply = read()
    inputs = inference.inputs
    for name, tensor in inputs.items():
        inputs[name] = counted(tensor)
    return inference, reply


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
