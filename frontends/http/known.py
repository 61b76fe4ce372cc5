"""Inference requests whose heads have a known form: what was decided for the first of them holds for all.

    form of the head ─▶ route, model, nothing to inflate or to compress, nobody who logs or traces: for one generation
    text of the JSON ─▶ inputs, outputs, how to answer: see schema/kserve_http.py

Such a request goes from its bytes to the model's queue, and its answer to the connection, past router and handler.
Whatever is not like that, or goes wrong, is left to `InferHandler`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from ...schema.fault import Fault
from ...schema.kserve_http_reply import encode_infer
from ...schema.texts import MANY_BYTES_MIN
from ..refusals import log_refusal
from .connection.http1_request import Http1Request
from .connection.status import beginning_of_reply
from .handler.problems import reply_fault, reply_problem
from .request.request import BINARY, JSON

if TYPE_CHECKING:
    from ...engine.port.caller import Caller, Generation
    from ...engine.port.served import Inference, Served
    from ...schema.infer_head import ReplyFormat
    from .handler.infer import Answer, Decode
    from .request.request import HttpRequest, Notes

_logger = logging.getLogger("despina.http")

_WITH_TENSORS: Final = beginning_of_reply(200, BINARY) + b"%d\r\nInference-Header-Content-Length: %d\r\n\r\n"
_JSON_ONLY: Final = beginning_of_reply(200, JSON) + b"%d\r\n\r\n"


@attrs.define(eq=False)
class KnownInfer:
    """Takes the requests whose heads have one form. Lives no longer than the engine's generation, unless one of its
    requests is in flight."""

    _generation: Generation
    _number: int
    """Of the generation that it lives in."""
    _notes: Notes
    """Of the heads."""
    _model: Served
    _version: int
    _decode: Decode
    _answer: Answer
    """The long way's."""

    def let_go(self) -> None:
        """The generation is over: the handler decides anew."""
        self._notes.known = None

    def take(self, request: Http1Request) -> bool:
        """Takes a request. False, and nothing is done, for one that the handler must see."""
        body = request.body
        size = length = len(body)
        told = request.head.header_length
        if told is not None:
            if not told.isdigit() or len(told) > 9:
                return False
            length = int(told)
        if length > size or size > MANY_BYTES_MIN or self._generation.number != self._number:
            return False
        try:
            inference, reply = self._decode(body, length, self._notes.match.model, self._version)
        except Exception:
            return False  # who meets it again tells it
        model = self._model
        try:
            job = model.submit(inference, partial(self._finish, request, reply))
        except Fault as fault:
            log_refusal(_logger, inference.id, fault, inference.model_name, request)
            reply_fault(request, fault, JSON)
            return True
        except Exception as problem:
            reply_problem(request, problem, self._notes.match.route.content_type)
            return True
        if job.on_done is not None:  # it is not over yet
            request.on_gone = job.cancel
        return True

    def _finish(self, request: Http1Request, reply: ReplyFormat, job: Inference) -> None:
        """The engine's `on_done`: on the trio thread, once. Never raises."""
        response = job.response
        connection = request.connection
        model = self._model
        made = None
        if (
            response is not None
            and job.fault is None
            and connection is not None
            and self._generation.number == self._number  # else the door may close: the answer must say so
        ):
            try:
                made = encode_infer(response, reply, model.labels, model.config.max_batch_size, at_once=True)
            except Exception:
                made = None  # who meets it again tells it
        if made is None or connection is None:
            self._answer(request, model, reply, job)
            return
        head, buffers, has_tensors = made
        size = len(head)
        if has_tensors:
            size += sum(map(len, buffers))
            start = _WITH_TENSORS % (size, len(head))
        else:
            start = _JSON_ONLY % size
        request.connection = None
        try:
            connection.answer_made((start, head, *buffers))
        except Exception as problem:
            connection.cut(problem)


def know_form(engine: Caller, request: HttpRequest, model: Served, decode: Decode, answer: Answer) -> None:
    """Lets requests whose heads have the form that the head of `request` has, just decoded and allowed, go past the
    handler from now on, unless requests are logged, or the door closes."""
    if type(request) is not Http1Request or request.connection is None:
        return
    form = request.head.form
    notes = form.notes
    if (
        notes.known is None
        and notes.coding is None
        and form.keep_alive
        and not form.is_http10
        and not request.connection.is_parting
        and not _logger.isEnabledFor(logging.DEBUG)
    ):
        generation, version = engine.generation, notes.match.version()
        notes.known = known = KnownInfer(generation, generation.number, notes, model, version, decode, answer)
        generation.keep(known)
