"""The usual request: byte for byte the one before it on the same connection, but for its tensors.

    received = [ HTTP head | JSON head | INPUT0 | INPUT1 ]     answered = [ HTTP head | JSON head | OUTPUT0 | OUTPUT1 ]
                 `_prefix`, equal        free                               `_start`, equal         free

What the first of them said and was allowed holds for all that follow in the same generation, and so does the text of
the answers while the model gives outputs of the same form. So a client that repeats itself costs two comparisons, one
of the generation's number, and its tensors. Whatever is not as it was takes the long way through `InferHandler`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ...schema.kserve_http_reply import encode_infer
from ..usual import PREFIX_BYTES_MAX, Usual
from .connection.http1_request import Http1Request
from .connection.outlet import JOIN_BYTES_MAX
from .connection.status import head_of_reply
from .handler.problems import reply_problem
from .request.request import BINARY, JSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.port.caller import Caller
    from ...engine.port.served import Inference, Served
    from ...schema.infer_head import ReplyFormat
    from ...schema.inference import InferenceRequest, InferenceResponse, ResponseTemplate
    from .connection.head import Head
    from .connection.receiver import Receiver
    from .request.request import HttpRequest

_logger = logging.getLogger("despina.http")

_BYTES_MAX: Final = 64 * 1024
"""Of a whole request; larger ones do not come in one piece."""


class UsualInfer(Usual):
    """At most one of its requests is in flight, for a connection answers in order."""

    __slots__ = (
        "_answer",
        "_head",
        "_job",
        "_prefix",
        "_reply",
        "_size",
        "_start",
        "_template",
    )

    _connection: Receiver

    def __init__(
        self,
        connection: Receiver,
        engine: Caller,
        model: Served,
        head: Head,
        text: bytes,
        request: InferenceRequest,
        reply: ReplyFormat,
        answer: Callable[[HttpRequest, Served, ReplyFormat, Inference], None],
    ) -> None:
        self._head = head
        self._prefix = head.raw + text
        at = len(self._prefix)
        parts = []
        for name, tensor in request.inputs.items():
            stop = at + len(tensor.memory())
            parts.append((name, tensor.datatype, tensor.shape, slice(at, stop)))
            at = stop
        super().__init__(connection, engine, model, request, parts)
        self._size = at
        self._reply = reply
        self._job: Inference | None = None
        self._template: ResponseTemplate | None = None
        """Of the answers that begin with `_start`."""
        self._start = b""
        self._answer = answer
        """The long way to reply."""

    @staticmethod
    def suits(connection: Receiver, head: Head, text: bytes, request: InferenceRequest) -> bool:
        """Whether the next requests on the connection may be taken like this one, just decoded and allowed, whose JSON
        head is `text`: none are while requests are logged, or the door closes."""
        return not (
            request.parameters
            or head.notes.coding is not None
            or head.is_http10
            or not head.keep_alive
            or not 0 < head.length <= _BYTES_MAX - len(head.raw)  # chunks have no length
            or len(head.raw) + len(text) > PREFIX_BYTES_MAX
            or connection.is_draining
            or _logger.isEnabledFor(logging.DEBUG)
        )

    def submit(self, data: bytes) -> bool:
        """Takes what was received if it is the usual request and nothing more. False, and nothing is done, if not."""
        if len(data) != self._size or not data.startswith(self._prefix) or self._generation.number != self._number:
            return False
        request = self.request_in(data)
        connection = self._connection
        connection.begin(self, self._head)
        try:
            job = self.model.submit(request, self.finish)
        except Exception as problem:
            reply_problem(Http1Request(connection, self._head, b""), problem, JSON)
            return True
        if job.on_done is not None:
            self._job = job
        return True

    def finish(self, job: Inference) -> None:
        """The engine's `on_done`: on the trio thread, once, must not raise."""
        self._job = None
        response = job.response
        connection = self._connection
        try:
            if (
                response is None
                or response.template is None
                or job.fault is not None
                or response.parameters
                or self._generation.number != self._number  # for one, the door closes: the answer must say so
            ):
                self._answer(Http1Request(connection, self._head, b""), self.model, self._reply, job)
                return
            if response.template is not self._template:
                self._learn(response, response.template)
            if not self._start:
                self._answer(Http1Request(connection, self._head, b""), self.model, self._reply, job)
                return
            connection.answer_whole(b"".join((self._start, *response.wires)))
        except Exception as problem:
            connection.fail(problem)

    def _learn(self, response: InferenceResponse, template: ResponseTemplate) -> None:
        """Makes the start of all answers like this one, where their outputs follow as bytes and are not large."""
        self._template = template
        self._start = b""
        try:
            head, buffers, _ = encode_infer(response, self._reply)
        except Exception:
            return  # the long way tells what is wrong
        size = len(head) + sum(map(len, buffers))
        if buffers and buffers == list(response.wires):
            fields = ((b"Inference-Header-Content-Length", b"%d" % len(head)),)
            start = head_of_reply(200, BINARY, size, fields) + head
            if len(start) + size <= JOIN_BYTES_MAX:
                self._start = start

    def abandon(self) -> None:
        """The client has left."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()


def expect_alike(
    engine: Caller,
    request: HttpRequest,
    model: Served,
    inference: InferenceRequest,
    reply: ReplyFormat,
    answer: Callable[[HttpRequest, Served, ReplyFormat, Inference], None],
) -> None:
    """Lets the connection of `request`, just decoded and allowed, take more of these by itself."""
    if type(request) is not Http1Request:
        return
    head = request.head
    connection = request.connection
    if connection is None or not connection.usual_left:
        return
    body = memoryview(request.body)
    text = bytes(body if head.notes.header_length is None else body[: head.notes.header_length])
    if UsualInfer.suits(connection, head, text, inference):
        UsualInfer(connection, engine, model, head, text, inference, reply, answer).settle()
