"""`POST .../generate` and `.../generate_stream`: flat JSON in, one JSON object out, or one server-sent event for each
answer as it comes.

    Answer ──encode──▶ generate_stream: written at once;    generate: kept until the final one, if it is the only one
      ▲                         │
      └── consumed ◀── while little waits for the client, else when all of it has left

Both serve decoupled and ordinary models. What fails before execution is answered as everywhere; an error of the model
takes the place of a response, and as the first one decides the status.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ....schema.fault import Fault, Internal, InvalidArgument
from ....schema.generate import read_generate, write_generate
from ....schema.kserve_http_reply import encode_error
from ...forwarding import open_forwarder
from ...refusals import log_refusal
from ..request.request import JSON, HttpRequest
from ..request.streamed import StreamedReply
from .traced import traced_if_chosen

if TYPE_CHECKING:
    from ....engine.port.caller import Caller
    from ....engine.port.served import Answer, Inference, InferenceStream
    from ....schema.inference import InferenceResponse
    from ..settings import HttpSettings
    from .routes import Match

logger = logging.getLogger("despina.http")

EVENTS: Final = b"text/event-stream; charset=utf-8"
NOT_ONE: Final = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)
UNSENT_BYTES_MAX: Final = 256 * 1024
"""While more than this waits for the client, the model's answers are not consumed."""


class GenerateHandler:
    """The handler of both routes. The model is looked up before anything else is checked."""

    def __init__(self, engine: Caller, settings: HttpSettings, *, streaming: bool) -> None:
        self._engine = engine
        self._json_bytes_max = settings.json_bytes_max
        self._forwarder = open_forwarder(settings.forward_pattern)
        self._streaming = streaming

    def __call__(self, request: HttpRequest, match: Match) -> None:
        try:
            self._start(request, match)
        except Fault as fault:
            log_refusal(logger, "", fault, match.model, request)
            raise

    def _start(self, request: HttpRequest, match: Match) -> None:
        version = match.version()
        model = self._engine.model(match.model, version)
        if request.headers.get(b"content-encoding", b"identity") not in (b"", b"identity"):
            raise InvalidArgument("Unsupported content-encoding, only 'identity' is supported.")
        inference = read_generate(request.body, model.config, match.model, version, self._json_bytes_max)
        if self._forwarder is not None:
            self._forwarder.forward(request.text_fields(), inference)
        tracer = self._engine.tracer
        if tracer.active:
            request = traced_if_chosen(tracer, request, inference, is_stream=model.decoupled)
        reply: _EventsReply | _SingleReply = _EventsReply(request) if self._streaming else _SingleReply(request)
        job: Inference
        if model.decoupled:
            job = model.submit_stream(inference, reply.on_answer)
        else:
            job = model.submit(inference, reply.on_done)
        if request.is_gone or reply.is_broken:
            job.cancel()
        elif not reply.is_finished:
            request.when_gone(job.cancel)


class _Reply:
    """What is needed to answer: callbacks of the engine, on the trio thread; they must not raise."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._has_begun = False
        self.is_finished = False
        self.is_broken = False
        """No more answers are wanted: one could not be written."""

    @property
    def peer(self) -> str:
        """The client, for the log."""
        return self._request.peer

    @property
    def traceparent(self) -> str:
        """See HttpRequest."""
        return self._request.traceparent

    def on_done(self, job: Inference) -> None:
        """An ordinary model has answered."""
        try:
            self._request.notice(job)
            fault = job.fault
            if fault is None and job.response is None:
                fault = Internal("expected a single response, got 0")
            self._take(job.response, fault, final=True)
        except Exception as problem:
            self._break_off(problem)

    def on_answer(self, job: InferenceStream, answer: Answer) -> None:
        """A decoupled model has answered once more."""
        try:
            if answer.final:
                self._request.notice(job)
            self._take(answer.response, answer.fault, final=answer.final)
            if not answer.final:
                self._allow_more(job)
        except Exception as problem:
            self._break_off(problem)

    def _break_off(self, problem: Exception) -> None:
        self.is_broken = True
        self._request.break_off(problem)

    def _allow_more(self, job: InferenceStream) -> None:
        """Lets the model go on, now or when the client has taken enough."""
        job.consumed()

    def _take(self, response: InferenceResponse | None, fault: Fault | None, *, final: bool) -> None:
        raise NotImplementedError

    def _begin(self, failed: bool, content_type: bytes) -> None:
        """The status is that of the first answer."""
        if not self._has_begun:
            self._has_begun = True
            streamed = StreamedReply(on_room=self.on_room)
            self._request.begin_reply(400 if failed else 200, content_type, streamed)

    def on_room(self) -> None:
        """All that was written has left."""


class _EventsReply(_Reply):
    """One event for each answer."""

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(request)
        self._unread: list[InferenceStream] = []
        """For each answer that waits for the client: the stream that may go on when it has left."""

    def _allow_more(self, job: InferenceStream) -> None:
        if self._request.unsent_bytes <= UNSENT_BYTES_MAX:
            job.consumed()
        else:
            self._unread.append(job)

    def on_room(self) -> None:
        unread, self._unread = self._unread, []
        for job in unread:
            job.consumed()

    def _take(self, response: InferenceResponse | None, fault: Fault | None, *, final: bool) -> None:
        content, failed = _content(response, fault)
        self._begin(failed, EVENTS)
        if content:
            self._request.write_part(b"data: %b\n\n" % content)
        if final:
            self.is_finished = True
            self._request.end_reply()


class _SingleReply(_Reply):
    """One JSON object, once it is certain that there is no other. Further ones are counted only."""

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(request)
        self._first: bytes = b""
        self._first_failed = False
        self._count = 0

    def _take(self, response: InferenceResponse | None, fault: Fault | None, *, final: bool) -> None:
        if response is not None or fault is not None:
            self._count += 1
            if self._count == 1:
                self._first, self._first_failed = _content(response, fault)
        if final:
            self.is_finished = True
            self._begin(self._first_failed, JSON)
            self._request.write_part(self._first if self._count == 1 else encode_error(NOT_ONE))
            self._request.end_reply()


def _content(response: InferenceResponse | None, fault: Fault | None) -> tuple[bytes, bool]:
    """The JSON of an answer, empty for none, and whether it is an error."""
    if fault is None:
        if response is None:
            return b"", False
        try:
            return write_generate(response), False
        except Fault as problem:
            fault = problem
        except Exception as problem:
            logger.exception("a response cannot be written")
            fault = Internal(f"internal error: {type(problem).__name__}")
    return encode_error(fault.message), True
